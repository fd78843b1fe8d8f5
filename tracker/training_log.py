"""What a training command shows and leaves: a progress bar, output/log.csv, a result.

    with TrainingLog(output) as log:
        trainer = train(data, output, report=log)       # log(trainer, {name: number}) after each step
    log.result(trainer, weights)                        # {"steps": ..., "seconds": ..., name: mean}
"""
from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tracker.files import write_json
from tracker.trainer import CHECKPOINT

EVERY = 50              # steps from one line of the log to the next, each the mean of so many


class TrainingLog:
    """See the head of this file. The log is opened at the first step: a training that cannot begin
    leaves none. One that goes on adds to it."""

    def __init__(self, output):
        self.path = Path(output) / "log.csv"
        self.file, self.recent, self.begun = None, [], time.monotonic()
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                            TimeRemainingColumn())

    def __enter__(self):
        self.bar.start()
        self.task = self.bar.add_task("reading the data", total=None)
        return self

    def __exit__(self, error, *_):
        self.bar.stop()
        if self.file:
            self.file.close()
        if error is KeyboardInterrupt:
            checkpoint = self.path.parent / CHECKPOINT
            print("interrupted; " + (f"--resume goes on from {checkpoint}" if checkpoint.exists() else
                                     f"{checkpoint} was not written yet: begin anew"))

    def __call__(self, trainer, figures):
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a", encoding="utf-8")
            if not self.file.tell():
                self.file.write(",".join(["step", *figures, "seconds"]) + "\n")
        self.recent.append(figures)
        del self.recent[:-EVERY]
        mean = self.mean()
        self.bar.update(self.task, completed=trainer.step, total=trainer.steps, description=" ".join(
            f"{name} {value:.3f}" for name, value in mean.items()))
        if trainer.step % EVERY == 0:
            numbers = [f"{value:.4f}" for value in mean.values()]
            self.file.write(",".join([str(trainer.step), *numbers, f"{self.seconds():.1f}"]) + "\n")
            self.file.flush()

    def mean(self):
        """{name: mean} of the last steps' figures."""
        return {k: float(np.mean([f[k] for f in self.recent])) for k in (self.recent or [{}])[0]}

    def seconds(self):
        return time.monotonic() - self.begun

    def result(self, trainer, weights, json=None):
        """What the command did; printed, and written to the file `json` too."""
        result = {"steps": trainer.step, "seed": trainer.seed, "seconds": self.seconds(),
                  "weights": str(weights), **self.mean()}
        print(f"written: {weights} after {trainer.step} steps")
        if json:
            write_json(json, result)
        return result


def curve(output, names, rows=20):
    """Of the log in a folder about so many lines, evenly spread: [{"step": ..., name: number}]."""
    with open(Path(output) / "log.csv", encoding="utf-8") as log:     # steps done twice: the last
        lines = list({int(line["step"]): line for line in csv.DictReader(log)}.values())
    every = max(1, len(lines) // rows)
    return [{"step": int(line["step"]), **{name: float(line[name]) for name in names}}
            for line in lines[every - 1::every]]
