"""What trainings share: a checkpoint from which an interrupted one goes on as if it had not been.

    class Mine(Trainer):                    # its constructor takes seed, steps and OPTIONS, calls
        FILE = "mine.safetensors"           # Trainer's, and makes self.network and self.optimizer
        def step_on(self, batch): ...       # one step -> figures to print, {name: number}

    trainer = Mine.begin(output, resume, seed, steps)
    trainer.run(batches, output, save_every, report)
"""
from __future__ import annotations

import time
from pathlib import Path

import minideep
from minideep.serialization import assign, load_arrays, save_arrays

CHECKPOINT = "checkpoint.safetensors"


class Trainer:
    """See the head of this file. network: a Model; optimizer: of minideep.optimizers; `step` of
    `steps` are done. A subclass adds step_on(batch)."""

    FILE = ""           # of the network's weights, in the output folder
    OPTIONS = ()        # further arguments of the constructor, kept as attributes of the same names

    def __init__(self, seed, steps):
        minideep.seed(seed)
        self.seed, self.steps, self.step = seed, steps, 0

    @property
    def weights(self):
        """{name: tensor} of all that is trained."""
        return self.network.named_weights()

    def product(self):
        """{name: array or tensor} of what the training is for, the weights that FILE gets."""
        return self.network.named_weights()

    def save(self, output):
        """Write the checkpoint, and FILE, into the folder `output`; each all or nothing."""
        output = Path(output)
        weights = {f"weights.{k}": v for k, v in self.weights.items()}
        state = {f"optimizer.{k}": v for k, v in self.optimizer.state_dict().items()}
        options = {name: getattr(self, name) for name in self.OPTIONS}
        save_arrays(output / self.FILE, self.product(), step=self.step)
        save_arrays(output / CHECKPOINT, {**weights, **state},
                    trainer=type(self).__name__, seed=self.seed, steps=self.steps, step=self.step,
                    **options)

    @classmethod
    def resume(cls, path):
        """The trainer that wrote this checkpoint. ValueError for that of another training."""
        arrays, about = load_arrays(path)
        if about.get("trainer", cls.__name__) != cls.__name__:
            raise ValueError(f"{path} was written by the training of a {about['trainer']}, not of a "
                             f"{cls.__name__}: give another --output")
        missing = [name for name in ("seed", "steps", "step", *cls.OPTIONS) if name not in about]
        if missing:
            raise ValueError(f"{path} is no checkpoint of a {cls.__name__}: it does not say "
                             f"{', '.join(missing)}; give another --output")
        trainer = cls(about["seed"], about["steps"], **{name: about[name] for name in cls.OPTIONS})
        weights, state = ({k.removeprefix(part): v for k, v in arrays.items() if k.startswith(part)}
                          for part in ("weights.", "optimizer."))
        assign(trainer.weights, weights, str(path))
        trainer.optimizer.load_state_dict(state)
        trainer.step = about["step"]
        return trainer

    @classmethod
    def begin(cls, output, resume, seed, steps, **options):
        """A new trainer, or with `resume` the one whose checkpoint is in the folder `output`.

        Raises FileNotFoundError where there is none to resume, FileExistsError where a new one
        would write over it."""
        checkpoint = Path(output) / CHECKPOINT
        if resume and not checkpoint.exists():
            raise FileNotFoundError(f"there is no {checkpoint} to go on from (the first one is written "
                                    "after some minutes): leave out --resume")
        if resume:
            return cls.resume(checkpoint)
        if checkpoint.exists():
            raise FileExistsError(f"{checkpoint} is there already: go on from it with --resume, or "
                                  "give another --output")
        return cls(seed, steps, **options)

    def run(self, batches, output, save_every, report=None):
        """Do a step on each of the batches, and return self. Saves every `save_every` seconds and
        at the end: an interruption costs no more than that. report(self, figures) follows each."""
        saved, at = self.step, time.monotonic()
        for batch in batches:
            figures = self.step_on(batch)
            if report:
                report(self, figures)
            if time.monotonic() - at > save_every:
                self.save(output)
                saved, at = self.step, time.monotonic()
        if saved < self.step:
            self.save(output)
        return self
