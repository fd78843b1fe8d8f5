"""How much trackers suffer: success AUC against noise, blur, JPEG, few frames, a bad first box.

Every sequence is tracked again and again, each time with one thing made worse by one step:

    noise       Gaussian, of so many grey levels of standard deviation
    blur        Gaussian, of so many pixels of standard deviation
    jpeg        saved and read again at this quality
    frame rate  every so-manieth frame only
    shifted     the tracker is started with the box moved by this part of its size, in a random
                direction
    scaled      ... with the box made larger or smaller by this part, by turns

The noise of frame i of a sequence and its directions are drawn from seeds made of the sequence's
name, so they are the same in every run and for every tracker. Scores are means over the sequences;
the first frame, whose box is given, is left out: it would weigh more the fewer frames there are.
"""

import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tracker import DEFAULT, metrics
from tracker.boxes import from_centre, to_centre
from tracker.evaluate import (
    Job,
    Track,
    bar,
    found_sequences,
    loadable,
    makers_of,
    say,
    split_names,
    tracks,
)
from tracker.files import write_json, write_text
from tracker.opencv import import_cv2
from tracker.page import grid, page, plot, table
from tracker.sequences import describe

CURVES = {      # name: (what its levels are, the levels; the first one leaves all as it is)
    "noise": ("standard deviation, grey levels", (0, 10, 20, 40)),
    "blur": ("standard deviation, pixels", (0, 1, 2, 4)),
    "jpeg": ("quality", ("as it is", 30, 15, 7)),
    "frame rate": ("every … frame", (1, 2, 4, 8)),
    "shifted": ("part of the box's size", (0, .1, .2, .3, .4)),
    "scaled": ("part of the box's size", (0, .1, .2, .3, .4)),
}


@dataclass(frozen=True)
class Worse:
    """Frames made worse: `kind` and `level` are those of CURVES; name: of the sequence."""

    frames: Any
    name: str
    kind: str
    level: float

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self._made(index, self.frames[index])

    def __iter__(self):
        return (self._made(i, frame) for i, frame in enumerate(self.frames))

    def _made(self, index, frame):
        cv2 = import_cv2()
        if self.kind == "blur":
            return cv2.GaussianBlur(frame, (0, 0), self.level)
        if self.kind == "jpeg":
            coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, self.level])[1]
            return cv2.imdecode(coded, cv2.IMREAD_COLOR)
        noise = _rng(self.name, index).standard_normal(frame.shape, np.float32) * self.level
        return np.clip(frame + noise, 0, 255).round().astype(np.uint8)

    def fingerprint(self):
        return f"{self.kind} {self.level} {self.name} {self.frames.fingerprint()}"


def worsened(sequence, kind, level):
    """A Sequence made worse, and the box (4,) that a tracker has to start with.

    kind and level: see CURVES.
    """
    first = sequence.boxes[sequence.present][0]
    if level == CURVES[kind][1][0]:
        return sequence, first
    if kind == "frame rate":
        start = int(sequence.present.argmax())      # the same first frame at every rate
        return sequence.every(level, start), first
    rng = _rng(sequence.name, len(sequence))
    centre, size = np.split(to_centre(first), 2)
    if kind == "shifted":
        angle = rng.uniform(0, 2 * np.pi)
        centre = centre + level * size * (np.cos(angle), np.sin(angle))
    elif kind == "scaled":
        size = size * (1 + level if rng.random() < .5 else 1 / (1 + level))
    else:
        frames = Worse(sequence.frames, sequence.name, kind, level)
        return replace(sequence, frames=frames), first
    return sequence, from_centre(np.concatenate([centre, size]))


def robustness(sequences, trackers=None, jobs=1, progress=None, fresh=False):
    """Measure the CURVES of trackers over sequences.

    trackers, jobs, fresh: as in tracker.evaluate.evaluate(); None: the default one and CSRT.
    progress(what, kept before?) is called after each pass.
    Returns {"curves": {tracker: {kind: (levels,) mean success AUC}}, "missing": {tracker: reason},
    "errors": {tracker: [texts]}, "failed": [trackers of which no pass ended]}; a mean is nan where no
    sequence has a frame to judge.
    """
    makers, missing = loadable(makers_of([DEFAULT, "CSRT"] if trackers is None else trackers))
    work, places = [], []
    for name, (make, fingerprint) in makers.items():
        for kind, (_, levels) in CURVES.items():
            for level in range(len(levels)):
                for sequence in sequences:
                    made, first = worsened(sequence, kind, levels[level])
                    work.append(Job(name, make, made, first, fingerprint))
                    places.append((name, kind, level))
    # what leaves a sequence as it is, is the same pass in every curve, and made once
    same, unique = {}, []
    for number, (job, (name, kind, level)) in enumerate(zip(work, places)):
        key = (name, job.sequence.name) if level == 0 else number
        same.setdefault(key, []).append(number)
        if same[key][0] == number:
            unique.append((key, job))
    scores = {place: [] for place in places}
    errors = {name: [] for name in makers}
    for number, track, kept in tracks([job for _, job in unique], jobs, fresh):
        key, job = unique[number]
        if not isinstance(track, Track):
            errors[job.tracker].append(track)
        for copy in same[key]:
            scores[places[copy]].append(score(job.sequence, track))
        if progress:
            progress(f"{job.tracker} on {job.sequence.name}", kept)
    return {"curves": {name: {kind: [metrics.finite_mean(scores[name, kind, level])
                                     for level in range(len(levels))]
                              for kind, (_, levels) in CURVES.items()} for name in makers},
            "missing": missing, "errors": errors,
            "failed": [name for name, texts in errors.items() if len(texts) == passes(len(sequences), 1)]}


def score(sequence, track):
    """The success AUC of a Track without its first frame, 0 for an error's text; nan where the
    target is in none of the other frames."""
    after = int(sequence.present.argmax()) + 1
    if not sequence.present[after:].any():
        return math.nan
    if not isinstance(track, Track):
        return 0.
    return metrics.one_pass(track.boxes[after:], sequence.boxes[after:]).auc


def passes(sequences, trackers):
    """How many passes robustness() makes for so many sequences and trackers."""
    return sequences * trackers * (1 + sum(len(levels) - 1 for _, levels in CURVES.values()))


def robustness_command(data_folder, trackers=None, jobs=1, json=None, max_frames=None, html=None,
                       one_based=False, fresh=False):
    """`python -m tracker robustness`: print a table for each curve -> what robustness() returns.

    The arguments are those of tracker.evaluate.evaluate_command().
    """
    console = Console()
    sequences = found_sequences(data_folder, console, max_frames, one_based)
    if not any(s.present[s.present.argmax() + 1:].any() for s in sequences):
        raise ValueError("no sequence has a frame to judge: the target is in its first frame only, "
                         "whose box is given; it takes 2 frames or more (--max-frames)")
    names = split_names(trackers) or [DEFAULT, "CSRT"]
    usable = loadable(makers_of(names))[0]
    with bar(console, passes(len(sequences), len(usable))) as step:
        result = robustness(sequences, names, jobs, step, fresh)
    for kind in CURVES:
        console.print(_table(result, kind))
    notes = [f"{name} is not available: {reason}" for name, reason in result["missing"].items()]
    notes += [f"{name} failed and scores 0 on {text}"
              for name, texts in result["errors"].items() for text in texts]
    for note in notes:
        say(console, note)
    if json:
        write_json(json, {"data": describe(sequences), **result,
                          "levels": {kind: list(levels) for kind, (_, levels) in CURVES.items()}})
    if html:
        write_text(html, _page(result, sequences, notes))
    for written in filter(None, (json, html)):
        say(console, f"written: {written}")
    return result


def _table(result, kind):
    unit, levels = CURVES[kind]
    shown = Table(title=f"success AUC against {kind} ({unit})")
    shown.add_column("tracker")
    for level in levels:
        shown.add_column(str(level), justify="right")
    for name, curves in result["curves"].items():
        shown.add_row(name, *(f"{score:.3f}" for score in curves[kind]))
    return shown


def _page(result, sequences, notes):
    highest = max([.1, *(score for curves in result["curves"].values()
                         for scores in curves.values() for score in scores
                         if not math.isnan(score))])
    highest = math.ceil(highest * 10) / 10
    plots, sections = [], []
    for kind, (unit, levels) in CURVES.items():
        plots.append(plot(kind, np.arange(len(levels)),
                          [(i, name, curves[kind])
                           for i, (name, curves) in enumerate(result["curves"].items())],
                          unit, (0, highest), [str(level) for level in levels]))
        sections.append((f"{kind}, {unit}", table(
            ["tracker", *map(str, levels)],
            [[name, *curves[kind]] for name, curves in result["curves"].items()],
            range(len(levels)))))
    lead = f"{describe(sequences)}. Mean success AUC. " + " ".join(notes)
    return page("Robustness", lead, [("Curves", grid(plots, 320)), *sections])


def _rng(name, number):
    return np.random.default_rng([zlib.crc32(name.encode()), number])
