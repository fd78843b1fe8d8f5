"""How good a tracker's predictions are: the box that it foretells, against where the target was.

A State says where the target will be in the next frame. Its centre's error, in sizes √(w·h) of the
target, stands beside the errors of two guesses that need no learning, made from the same boxes:

    no motion           where the tracker's box is now
    constant velocity   that, moved on by what the box moved since the frame before

and the part of the frames whose true centre lay in the region that State.reach says holds 80 % of
them. All frames in which the target is annotated count, also those in which the tracker had lost it;
"on target" are those before which its box was on it (IoU > .5; where the target is not annotated in
the frame before: in which), "hidden" those with a blocker in front (tracker.occlusions), through which
the true boxes go on.
"""


import numpy as np
from rich.console import Console
from rich.table import Table

from tracker import DEFAULT, load
from tracker.boxes import centre, iou
from tracker.evaluate import bar, found_sequences, say
from tracker.files import write_json
from tracker.motion import TRACKERS
from tracker.occlusions import cases

GUESSES = ("predicted", "no motion", "constant velocity")


def follow(tracker, sequence, name="this tracker"):
    """One pass -> boxes (n, 4), predicted (n, 4) and reach (n, 2) for each frame, as told in the
    frame before it; nan where nothing was told. Raises ValueError for a tracker that predicts
    nothing; name: what that calls it."""
    n, start = len(sequence), int(sequence.present.argmax())
    boxes, predicted, reach = np.full((n, 4), np.nan), np.full((n, 4), np.nan), np.full((n, 2), np.nan)
    for i, frame in enumerate(sequence.frames):
        if i == start:
            tracker.init(frame, sequence.boxes[i])
            boxes[i] = sequence.boxes[i]
        elif i > start:
            state = tracker.update(frame)
            if state.predicted is None:
                raise ValueError(f"{name} predicts nothing: its State.predicted is None; "
                                 f"{' and '.join(TRACKERS)} "
                                 "predict, by networks of their own (python -m tracker train motion)")
            boxes[i] = state.box
            if i + 1 < n:
                predicted[i + 1], reach[i + 1] = state.predicted, state.reach
    return boxes, predicted, reach


def errors(boxes, predicted, reach, truth, sight):
    """Of the frames that can be judged (m of n): {guess: (m,) centre errors in sizes, "inside": (m,)
    bool, "on target": (m,) bool, "hidden": (m,) bool}."""
    guesses = {"predicted": centre(predicted[2:]), "no motion": centre(boxes[1:-1]),
               "constant velocity": 2 * centre(boxes[1:-1]) - centre(boxes[:-2])}
    known = np.isfinite(truth[2:]).all(1) & np.isfinite(predicted[2:]).all(1)
    known &= np.isfinite(boxes[:-2]).all(1)
    true = centre(truth[2:])
    size = np.sqrt(truth[2:, 2:].prod(1))
    found = {name: (np.hypot(*(guess - true).T) / size)[known] for name, guess in guesses.items()}
    found["inside"] = (np.abs(centre(predicted[2:]) - true) <= reach[2:]).all(1)[known]
    before, now = iou(boxes[1:-1], truth[1:-1]), iou(boxes[2:], truth[2:])
    found["on target"] = (np.where(np.isfinite(before), before, np.nan_to_num(now)) > .5)[known]
    found["hidden"] = (np.nan_to_num(sight[2:]) < .1)[known]
    return found


def table(found):
    """{frames: {"frames": m, "inside": part, guess: {"mean", "median"}}} of what errors() found over
    some sequences, joined; frames: "all", "on target", "hidden"."""
    joined = {key: np.concatenate([f[key] for f in found]) for key in found[0]}
    rows = {}
    for name, where in (("all", np.ones(len(joined["inside"]), bool)),
                        ("on target", joined["on target"]), ("hidden", joined["hidden"])):
        if where.any():
            rows[name] = {"frames": int(where.sum()), "inside": float(joined["inside"][where].mean())}
            rows[name].update({guess: {"mean": float(joined[guess][where].mean()),
                                       "median": float(np.median(joined[guess][where]))}
                               for guess in GUESSES})
    return rows


def predict_command(data_folder, tracker=None, json=None, max_frames=None, one_based=False,
                    blockers=False):
    """`python -m tracker predict`: print the table for the sequences in a folder; with blockers also
    over these with blockers in front."""
    console = Console()
    sequences = found_sequences(data_folder, console, max_frames, one_based)
    work = [(s, np.where(s.present, 1., np.nan)) for s in sequences]
    if blockers:
        work += [(s, sight) for kind, s, _, sight in cases(sequences) if kind == "blocked"]
    tracker = DEFAULT if tracker is None else tracker
    follower, found = load(tracker), []
    with bar(console, len(work)) as step:
        for sequence, sight in work:
            tracked = follow(follower, sequence, f"the tracker {tracker}")
            found.append(errors(*tracked, sequence.boxes, sight))
            step(sequence.name, False)
    rows = table(found)
    if not rows:
        raise ValueError("no frame can be judged: a prediction is made in a sequence's second frame for "
                         "its third, so it takes 3 frames or more with the target (--max-frames)")
    shown = Table(title="the next frame's centre: mean / median error in sizes of the target")
    for heading in ("frames", "", *GUESSES, "in the 80 % region"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, row in rows.items():
        shown.add_row(str(row["frames"]), name,
                      *(f"{row[g]['mean']:.3f} / {row[g]['median']:.4f}" for g in GUESSES),
                      f"{100 * row['inside']:.1f} %")
    console.print(shown)
    if json:
        write_json(json, rows)
        say(console, f"written: {json}")
    return rows
