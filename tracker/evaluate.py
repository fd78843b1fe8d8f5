"""Trackers against annotated sequences: one pass each, and a table.

A tracker gets the first annotated frame and its box, then every frame after, once and in order,
whatever happens. Only the time inside update() counts, not the reading of frames. A tracker that
raises an error on a sequence scores 0 on all of it, and the report says so by name.
"""

import functools
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tracker import load, metrics
from tracker import names as known_names
from tracker.opencv import import_cv2
from tracker.sequences import find_sequences

BASELINES = ("first", "velocity")
COLUMNS = {     # key of a summary: (heading, format)
    "auc": ("AUC", ".3f"), "precision20": ("precision\n@20 px", ".3f"),
    "normalised_auc": ("norm.\nprecision", ".3f"), "ao": ("AO", ".3f"),
    "sr50": ("SR.50", ".3f"), "sr75": ("SR.75", ".3f"), "fps": ("fps", ".0f"),
}
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Track:
    """What a tracker said about the n frames of a sequence."""

    start: int                  # the frame that it was started on; nan in all arrays before it
    boxes: np.ndarray           # (n, 4) x, y, w, h; the given box at `start`
    confidence: np.ndarray      # (n,) 0 to 1; 1 at `start`
    seconds: np.ndarray         # (n,) inside update(); nan at `start`
    size: tuple[int, int]       # width, height of the frames


def run(tracker, sequence, progress=None):
    """One pass of a tracker over a Sequence -> Track.

    progress(done, total) is called after each frame. An error of the tracker or of reading a frame
    becomes a RuntimeError that names the sequence and the frame, with the error as its cause.

    A tracker with a method observe(box, frames), such as the constant-velocity baseline, is also
    told the second annotated box.
    """
    n = len(sequence)
    start, *later = np.flatnonzero(sequence.present)
    boxes, confidence, seconds = np.full((n, 4), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    size, i = (0, 0), 0
    try:
        for i, frame in enumerate(sequence.frames):
            if i == start:
                size = (frame.shape[1], frame.shape[0])
                tracker.init(frame, sequence.boxes[i])
                boxes[i], confidence[i] = sequence.boxes[i], 1
                if later and hasattr(tracker, "observe"):
                    tracker.observe(sequence.boxes[later[0]], later[0] - start)
            elif i > start:
                began = time.perf_counter()
                state = tracker.update(frame)
                seconds[i] = time.perf_counter() - began
                boxes[i], confidence[i] = state.box, state.confidence
            if progress:
                progress(i + 1, n)
        if i + 1 != n:
            raise ValueError(f"the frames end here, but there are boxes for {n}")
    except Exception as error:
        raise RuntimeError(f"{sequence.name}, frame {i}: {type(error).__name__}: "
                           f"{error}") from error
    return Track(int(start), boxes, confidence, seconds, size)


@dataclass(frozen=True)
class Outcome:
    """The scores of one tracker on one sequence."""

    tracker: str
    sequence: str
    one_pass: metrics.OnePass
    overlaps: np.ndarray        # for GOT-10k's pooled scores
    updates: int                # frames after the first one
    seconds: float              # that they took
    error: str | None           # why it failed, with all scores 0

    def summary(self):
        return _summary([self])


@dataclass(frozen=True)
class Report:
    """All outcomes, and the trackers that could not be loaded with the reason why."""

    outcomes: dict              # tracker's name: its Outcomes, in the sequences' order
    missing: dict               # tracker's name: reason
    absent: str                 # the rule for frames without the target

    def summary(self, name):
        """Scores over all sequences: {"auc": ..., ...}, the keys those of COLUMNS.

        Means over sequences; AO and SR over all frames; fps over the whole time.
        """
        return _summary(self.outcomes[name])

    def errors(self, name):
        """{sequence: error} of the sequences on which a tracker failed."""
        return {o.sequence: o.error for o in self.outcomes[name] if o.error}

    def to_json(self, path):
        """Write everything in the tables to a JSON file; what is not a number becomes null."""
        content = {
            "absent_rule": self.absent,
            "trackers": {name: {
                **_jsonable(self.summary(name)), "errors": self.errors(name),
                "sequences": {o.sequence: _jsonable(o.summary()) for o in outcomes},
            } for name, outcomes in self.outcomes.items()},
            "missing": self.missing,
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, allow_nan=False)

    def table(self):
        """The scores of every tracker, the best first, as a rich Table."""
        counted = max((len(o) for o in self.outcomes.values()), default=0)
        table = Table(title=f"{counted} sequences, absent frames by the {self.absent} rule")
        table.add_column("tracker")
        for heading, _ in COLUMNS.values():
            table.add_column(heading, justify="right")
        for name in sorted(self.outcomes, key=lambda name: -self.summary(name)["auc"]):
            failed = len(self.errors(name))
            label = f"{name} (failed: {failed})" if failed else name
            scores = self.summary(name)
            table.add_row(label, *(_format(scores[key], form)
                                   for key, (_, form) in COLUMNS.items()))
        for name in self.missing:
            table.add_row(name, *"–" * len(COLUMNS))
        return table

    def sequence_table(self):
        """Success AUC of every tracker on every sequence, as a rich Table."""
        table = Table(title="success AUC (×: failed)")
        table.add_column("sequence")
        for name in self.outcomes:
            table.add_column(name, justify="right")
        for row in zip(*self.outcomes.values()):
            table.add_row(row[0].sequence,
                          *("×" if o.error else f"{o.one_pass.auc:.3f}" for o in row))
        return table

    def notes(self):
        """One line for each tracker that could not be loaded, and for each failure."""
        return [f"{name} is not available: {reason}" for name, reason in self.missing.items()] + [
            f"{name} failed and scores 0 on {error}"
            for name in self.outcomes for error in self.errors(name).values()]


def evaluate(sequences, trackers=None, jobs=1, absent="lasot", progress=None):
    """Run trackers over sequences -> Report.

    trackers: names for tracker.load(), None for all of them; or {name: a function without
    arguments that makes one} for any other. The baselines "first" and "velocity" always join.
    With jobs > 1, as many processes share the work, each on one thread; functions given must then
    be picklable. progress(outcome) is called after each pair of tracker and sequence.

    Raises ValueError for an unknown name or rule. A tracker that cannot be loaded here goes into
    report.missing with the reason; one that fails on a sequence scores 0 on it.
    """
    if absent not in metrics.ABSENT_RULES:
        raise ValueError(f"the rule for absent frames is one of {metrics.ABSENT_RULES}, "
                         f"not {absent!r}")
    if len({sequence.name for sequence in sequences}) < len(sequences):
        raise ValueError("two sequences have the same name: "
                         f"{sorted(sequence.name for sequence in sequences)}")
    makers, missing = _loadable(_makers(trackers))
    pairs = [(name, make, sequence, absent)
             for name, make in makers.items() for sequence in sequences]
    done = {}
    for outcome in map(_judge, pairs) if jobs == 1 else _judge_in_processes(pairs, jobs):
        done[outcome.tracker, outcome.sequence] = outcome
        if progress:
            progress(outcome)
    outcomes = {name: [done[name, sequence.name] for sequence in sequences] for name in makers}
    return Report(outcomes, missing, absent)


def evaluate_command(data_folder, trackers=None, jobs=1, json=None, max_frames=None,
                     absent="lasot"):
    """`python -m tracker evaluate`: print the tables for the sequences in a folder -> Report.

    trackers: "a,b" or None for all; json: where to write the report; max_frames: judge only so
    many frames of each sequence.
    """
    sequences = find_sequences(data_folder)
    if max_frames:
        sequences = [sequence.head(max_frames) for sequence in sequences]
    names = [name.strip() for name in trackers.split(",")] if trackers else None
    console = Console()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=len(sequences) * len(_makers(names)))
        report = evaluate(sequences, names, jobs, absent, lambda outcome: bar.update(
            task, advance=1, description=f"{outcome.tracker} on {outcome.sequence}"))
    console.print(report.sequence_table(), report.table())
    for note in report.notes():
        console.print(note, markup=False, highlight=False)
    if json:
        report.to_json(json)
        console.print(f"written: {json}", markup=False, highlight=False)
    return report


def _makers(trackers):
    """{name: function that makes the tracker}, the baselines included."""
    trackers = known_names() if trackers is None else trackers
    if not isinstance(trackers, dict):
        trackers = {name: functools.partial(load, name) for name in trackers}
        unknown = [name for name in trackers if name not in known_names()]
        if unknown:
            raise ValueError(f"no tracker is called {unknown[0]!r}; there are: "
                             f"{', '.join(known_names())}")
    return {**trackers, **{name: functools.partial(load, name) for name in BASELINES}}


def _loadable(makers):
    """The makers that work here, and {name: reason} for the others."""
    good, missing = {}, {}
    for name, make in makers.items():
        try:
            make()
            good[name] = make
        except Exception as error:  # noqa: BLE001, whatever it is, the others can run
            missing[name] = f"{type(error).__name__}: {error}"
    return good, missing


def _judge(pair):
    """One tracker on one sequence -> Outcome; an error is part of it."""
    name, make, sequence, absent = pair
    try:
        track, error = run(make(), sequence), None
    except Exception as failure:    # noqa: BLE001, reported, and the others can run
        track, error = None, str(failure)
    return _outcome(name, sequence, absent, track, error)


def _outcome(name, sequence, absent, track, error):
    if track is None:       # boxes of nan: every frame is a failure
        n = len(sequence)
        track = Track(int(sequence.present.argmax()), np.full((n, 4), np.nan), np.full(n, np.nan),
                      np.full(n, np.nan), (1, 1))
    predicted, truth = track.boxes[track.start:], sequence.boxes[track.start:]
    timed = track.seconds[np.isfinite(track.seconds)]
    return Outcome(name, sequence.name, metrics.one_pass(predicted, truth, absent),
                   metrics.got10k_overlaps(predicted, truth, *track.size),
                   len(timed), float(timed.sum()), error)


def _judge_in_processes(pairs, jobs):
    """The outcomes as they come, from `jobs` processes of one thread each."""
    context = multiprocessing.get_context("spawn")      # fork would copy locked threads and CUDA
    unfinished = []
    with _one_thread(), ProcessPoolExecutor(jobs, context, initializer=_start_worker) as pool:
        waiting = {pool.submit(_judge, pair): pair for pair in pairs}
        for future in as_completed(waiting):
            try:
                yield future.result()
            except BrokenProcessPool:
                unfinished.append(waiting[future])
    if len(pairs) == 1 and unfinished:
        name, _, sequence, absent = pairs[0]
        yield _outcome(name, sequence, absent, None,
                       f"{sequence.name}: its process died (out of memory, or a crash in C code)")
    else:   # one died and took the others with it: each again, alone, to tell which
        for pair in unfinished:
            yield from _judge_in_processes([pair], 1)


@contextmanager
def _one_thread():
    """New processes inherit these; libraries read them when they are first imported."""
    before = {key: os.environ.get(key) for key in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _start_worker():
    import_cv2().setNumThreads(1)


def _summary(outcomes):
    scores = {key: float(np.mean([getattr(o.one_pass, key) for o in outcomes]))
              for key in ("auc", "precision20", "normalised_auc")}
    overlaps = np.concatenate([o.overlaps for o in outcomes])
    seconds = sum(o.seconds for o in outcomes)
    return {**scores,
            **(metrics.got10k_scores(overlaps) if overlaps.size
               else dict.fromkeys(("ao", "sr50", "sr75"), math.nan)),
            "fps": sum(o.updates for o in outcomes) / seconds if seconds else math.nan}


def _format(value, form):
    return "–" if math.isnan(value) else format(value, form)


def _jsonable(scores):
    return {key: None if math.isnan(value) else value for key, value in scores.items()}
