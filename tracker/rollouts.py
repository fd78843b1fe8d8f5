"""Training of a small network on what a tracker does: roll-outs first, kept in files, then the network.

    train_on_rollouts(data, "out/weights.safetensors", "out/rollouts", {name: make, ...}, roll_out,
                      fit, steps, seed, resume, json, card)
"""
from __future__ import annotations

import functools
import json as json_format
import time
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from minideep.serialization import load_arrays, save_arrays
from tracker.correlation_training import sources
from tracker.files import write_json
from tracker.sequences import find_sequences
from tracker.synthetic import load_photos, procedural_photo


def train_on_rollouts(data, path, folder, work, roll_out, fit, steps, seed, resume, json, card,
                      rows="frames"):
    """Roll out, train, and write the weights to `path` and a card beside it; -> what was done.

    work: {name: make}; roll_out(*make()) is {name: array}, all of as many `rows`, kept in `folder`;
    with `resume` those that are there are not made again, and the weights are the same to the bit as
    without an interruption. fit(rolls, seed, steps, report(step, loss)) gives a network. card: what
    the card says besides; what it said before and nobody says anew (results, weaknesses) stays, to be
    measured anew. Raises FileExistsError where roll-outs are there and nothing is to be resumed,
    ValueError where they were made from other data."""
    begun, path, folder, rolls = time.monotonic(), Path(path), Path(folder), []
    if folder.exists() and not resume:
        raise FileExistsError(f"{folder} is there already: go on from it with --resume, or give "
                              "another --output")
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=len(work))
        for name, make in work.items():
            bar.update(task, description=f"roll-out over {name}")
            rolls.append(_kept(folder / f"{name}.safetensors", data, lambda: roll_out(*make())))
            bar.update(task, advance=1)
        task, curve = bar.add_task("training", total=steps), []

        def report(step, loss):
            curve.append(loss)
            bar.update(task, completed=step, description=f"loss {np.mean(curve[-50:]):.3f}")

        network = fit(rolls, seed, steps, report)
    count = sum(len(next(iter(roll.values()))) for roll in rolls)
    save_arrays(path, network.named_weights(), step=steps, seed=seed)
    _write_card(path.with_suffix(".json"), {
        **card, "weights": network.count_params(), "steps": steps, "seed": seed,
        "data": {"roll-outs": len(rolls), rows: count, **card["data"], **{
            name: about for name, about in sources(data).items() if name != "clips"}},
        "curve": [{"step": i + 1, "loss": round(float(np.mean(curve[max(i - 49, 0):i + 1])), 4)}
                  for i in range(49, steps, max(steps // 10, 1))]})
    result = {"weights": str(path), rows: count, "seconds": time.monotonic() - begun}
    print(f"written: {path} after {steps} steps on {count} {rows}")
    if json:
        write_json(json, result)
    return result


def ways(folder):
    """[("", the sequences of a folder), ("back-", the same backwards)]; of None there are none."""
    sequences = find_sequences(folder) if folder else []
    return [("", sequences), ("back-", [s.backwards() for s in sequences])]


def photographs(folder, every=1):
    """A function that gives every `every`th photograph of a folder (None: procedural ones instead),
    read when it is first called."""
    @functools.cache
    def photos():
        rng = np.random.default_rng(0)
        return load_photos(folder)[::every] if folder else [procedural_photo(rng) for _ in range(40)]
    return photos


def _kept(path, data, make):
    """The arrays of a file, made where it is not there; ValueError where it is of other data."""
    data = str(Path(data).resolve())
    if not path.exists():
        save_arrays(path, make(), data=data)
    arrays, about = load_arrays(path)
    if about.get("data") != data:
        raise ValueError(f"{path} was made from {about.get('data')}, not from {data}: give another "
                         "--output")
    return arrays


def _write_card(path, measured):
    kept = json_format.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**kept, **measured})
