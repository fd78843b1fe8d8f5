"""Trackers against annotated sequences: one pass each, tables, a page and a JSON file.

A tracker gets the first annotated frame and its box, then every frame after, once and in order,
whatever happens. Only the time inside update() counts, not the reading of frames. A tracker that
raises an error on a sequence scores 0 on all of it, and the report says so by name.

Tracks are kept (tracker/cache.py): a second run of an unchanged tracker on unchanged sequences
reads them, an interrupted one goes on where it stopped. The frames per second are then those of
the run that made the track.
"""

import functools
import math
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tracker import cache, load, metrics
from tracker import names as known_names
from tracker.files import write_json
from tracker.opencv import import_cv2
from tracker.sequences import Sequence, describe, find_sequences, write_got10k

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
    lost: np.ndarray            # (n,) bool


def run(tracker, sequence, progress=None, first=None):
    """One pass of a tracker over a Sequence -> Track.

    progress(done, total) is called after each frame; first: the box (4,) to start with instead of
    the true one. An error of the tracker or of reading a frame becomes a RuntimeError that names
    the sequence and the frame, with the error as its cause.

    A tracker with a method observe(box, frames), such as the constant-velocity baseline, is also
    told the second annotated box.
    """
    n = len(sequence)
    start, *later = np.flatnonzero(sequence.present)
    first = sequence.boxes[start] if first is None else first
    boxes, confidence, seconds = np.full((n, 4), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    lost, size, i = np.zeros(n, bool), (0, 0), 0
    try:
        for frame in sequence.frames:
            if i == start:
                size = (frame.shape[1], frame.shape[0])
                tracker.init(frame, first)
                boxes[i], confidence[i] = first, 1
                if later and hasattr(tracker, "observe"):
                    tracker.observe(sequence.boxes[later[0]], later[0] - start)
            elif i > start:
                began = time.perf_counter()
                state = tracker.update(frame)
                seconds[i] = time.perf_counter() - began
                boxes[i], confidence[i], lost[i] = state.box, state.confidence, state.lost
            i += 1          # the number of the next frame: an error in reading it is that frame's
            if progress:
                progress(i, n)
        if i != n:
            raise ValueError(f"the frames end here, but there are boxes for {n}")
    except Exception as error:
        raise RuntimeError(f"{sequence.name}, frame {i}: {type(error).__name__}: "
                           f"{error}") from error
    return Track(int(start), boxes, confidence, seconds, size, lost)


@dataclass(frozen=True)
class Job:
    """One pass that has to be made: which tracker, on which sequence."""

    tracker: str
    make: Any                       # a function without arguments that makes the tracker
    sequence: Sequence
    first: np.ndarray | None = None     # see run()
    fingerprint: str | None = None      # of the tracker; None: the track is not kept

    def key(self):
        """Under which the track is kept, or None."""
        if self.fingerprint is None:
            return None
        first = self.sequence.boxes[self.sequence.present][0] if self.first is None else self.first
        return cache.key(self.fingerprint, self.sequence, first)


def tracks(jobs, processes=1, fresh=False):
    """Make the tracks of Jobs: yields (number of the job, Track or error's text, kept before?) as
    they come.

    With processes > 1 as many share the work, each on one thread. What is kept from before comes
    first, unless `fresh`; every new track is kept.
    """
    waiting = []
    for number, job in enumerate(jobs):
        key = job.key()
        kept = None if fresh or key is None else cache.load(key)
        if kept is None:
            waiting.append((number, job, key))
        else:
            yield number, _unpacked(kept), True
    made = (((number, key), _track(job)) for number, job, key in waiting) if processes == 1 else \
        _in_processes([((number, key), job) for number, job, key in waiting], processes)
    for (number, key), track in made:
        if key is not None and isinstance(track, Track):
            cache.save(key, vars(track))
        yield number, track, False


def _unpacked(arrays):
    start, size = int(arrays.pop("start")), tuple(int(n) for n in arrays.pop("size"))
    return Track(start=start, size=size, **arrays)


def _track(job):
    try:
        return run(job.make(), job.sequence, first=job.first)
    except Exception as failure:    # noqa: BLE001, reported, and the others can run
        return str(failure) if isinstance(failure, RuntimeError) else \
            f"{job.sequence.name}: {type(failure).__name__}: {failure}"


@dataclass(frozen=True)
class Outcome:
    """The scores of one tracker on one sequence."""

    tracker: str
    sequence: str
    one_pass: metrics.OnePass
    overlaps: np.ndarray        # for GOT-10k's pooled scores
    updates: int                # that were timed: all but the first, in which much is loaded
    seconds: float              # that they took
    error: str | None           # why it failed, with all scores 0
    track: Track                # all nan where it failed
    kept: bool = False          # from an earlier run

    def summary(self):
        return _summary([self])


@dataclass(frozen=True)
class Report:
    """All outcomes, and the trackers that could not be loaded with the reason why."""

    outcomes: dict              # tracker's name: its Outcomes, in the sequences' order
    missing: dict               # tracker's name: reason
    absent: str                 # the rule for frames without the target
    sequences: list             # what was judged
    attributes: dict = field(default_factory=dict)  # see tracker.attributes.find_attributes()

    def summary(self, name):
        """Scores over all sequences: {"auc": ..., ...}, the keys those of COLUMNS.

        Means over sequences; AO and SR over all frames; fps over the whole time.
        """
        return _summary(self.outcomes[name])

    def errors(self, name):
        """{sequence: error} of the sequences on which a tracker failed."""
        return {o.sequence: o.error for o in self.outcomes[name] if o.error}

    def curve(self, name, kind):
        """The mean over sequences of "success", "precision" or "normalised_precision"."""
        return np.mean([getattr(o.one_pass, kind) for o in self.outcomes[name]], 0)

    def by_attribute(self, name):
        """{attribute: success AUC over the frames that have it}: the mean over the sequences that
        have such frames; nan where the target is absent in all of them."""
        scores = {}
        for attribute, masks in self.attributes.items():
            each = []
            for sequence, outcome in zip(self.sequences, self.outcomes[name]):
                frames = masks.get(sequence.name)
                if frames is None or not (frames & sequence.present)[outcome.track.start:].any():
                    continue
                frames = frames & sequence.noted & (np.arange(len(frames)) >= outcome.track.start)
                each.append(metrics.one_pass(outcome.track.boxes[frames], sequence.boxes[frames],
                                             self.absent).auc)
            scores[attribute] = float(np.mean(each)) if each else math.nan
        return scores

    def content(self):
        """Everything in the tables and plots, for JSON; what is not a number is None."""
        return {
            "data": describe(self.sequences), "absent_rule": self.absent,
            "thresholds": {"success": metrics.SUCCESS_THRESHOLDS.tolist(),
                           "precision": metrics.PRECISION_THRESHOLDS.tolist(),
                           "normalised_precision": metrics.NORMALISED_THRESHOLDS.tolist()},
            "trackers": {name: {
                **_jsonable(self.summary(name)), "errors": self.errors(name),
                "from_cache": sum(o.kept for o in outcomes),
                "curves": {kind: self.curve(name, kind).tolist()
                           for kind in ("success", "precision", "normalised_precision")},
                "attributes": _jsonable(self.by_attribute(name)),
                "sequences": {o.sequence: _jsonable(o.summary()) for o in outcomes},
            } for name, outcomes in self.outcomes.items()},
            "attributes": {name: sorted(masks) for name, masks in self.attributes.items()},
            "missing": self.missing,
        }

    def to_json(self, path):
        """Write content() to a JSON file, all of it or nothing."""
        write_json(path, self.content())

    def to_got10k(self, folder):
        """Write the tracks in GOT-10k's format; those with errors are left out."""
        for name, outcomes in self.outcomes.items():
            for o in outcomes:
                if not o.error and o.track.start == 0:
                    write_got10k(folder, name, o.sequence, o.track.boxes, o.track.seconds)

    def table(self):
        """The scores of every tracker, the best first, as a rich Table."""
        counted = max((len(o) for o in self.outcomes.values()), default=0)
        table = Table(title=f"{counted} sequence{'s' * (counted != 1)}, absent frames by the "
                            f"{self.absent} rule")
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
            table.add_row(f"{name} (not available)", *"–" * len(COLUMNS))
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

    def failed(self):
        """The names of the trackers that failed on every sequence."""
        return [name for name, outcomes in self.outcomes.items() if all(o.error for o in outcomes)]

    def notes(self):
        """One line for each tracker that could not be loaded, and for each failure."""
        return [f"{name} is not available: {reason}" for name, reason in self.missing.items()] + [
            f"{name} failed and scores 0 on {error}"
            for name in self.outcomes for error in self.errors(name).values()]


def evaluate(sequences, trackers=None, jobs=1, absent="lasot", progress=None, fresh=False):
    """Run trackers over sequences -> Report.

    trackers: names for tracker.load(), None for all of them; or {name: a function without
    arguments that makes one} for any other, whose tracks are not kept. The baselines "first" and
    "velocity" always join. With jobs > 1, as many processes share the work, each on one thread;
    functions given must then be picklable. progress(outcome) is called after each pair of tracker
    and sequence. fresh: make all tracks anew.

    Raises ValueError for an unknown name or rule. A tracker that cannot be loaded here goes into
    report.missing with the reason; one that fails on a sequence scores 0 on it.
    """
    if absent not in metrics.ABSENT_RULES:
        raise ValueError(f"the rule for absent frames is one of {metrics.ABSENT_RULES}, "
                         f"not {absent!r}")
    if len({sequence.name for sequence in sequences}) < len(sequences):
        raise ValueError("two sequences have the same name: "
                         f"{sorted(sequence.name for sequence in sequences)}")
    makers, missing = loadable(_with_baselines(trackers))
    work = [Job(name, make, sequence, None, fingerprint)
            for name, (make, fingerprint) in makers.items() for sequence in sequences]
    done = {}
    for number, track, kept in tracks(work, jobs, fresh):
        job = work[number]
        outcome = judge(job, track, absent, kept)
        done[job.tracker, job.sequence.name] = outcome
        if progress:
            progress(outcome)
    outcomes = {name: [done[name, sequence.name] for sequence in sequences] for name in makers}
    return Report(outcomes, missing, absent, list(sequences))


def evaluate_command(data_folder, trackers=None, jobs=1, json=None, max_frames=None,
                     absent="lasot", html=None, results=None, one_based=False, fresh=False):
    """`python -m tracker evaluate`: print the tables for the sequences in a folder -> Report.

    trackers: "a,b" or None for all; json, html: where to write the report; results: a folder for
    the tracks in GOT-10k's format; max_frames: judge only so many frames of each sequence;
    one_based: the box files count pixels from 1; fresh: make all tracks anew.
    """
    console = Console()
    sequences = found_sequences(data_folder, console, max_frames, one_based)
    names = split_names(trackers)
    with bar(console, len(sequences) * len(_with_baselines(names))) as step:
        report = evaluate(sequences, names, jobs, absent, fresh=fresh,
                          progress=lambda o: step(f"{o.tracker} on {o.sequence}", o.kept))
    if json or html:
        from dataclasses import replace

        from tracker.attributes import find_attributes
        report = replace(report, attributes=find_attributes(sequences))
    console.print(report.sequence_table(), report.table())
    for note in report.notes():
        say(console, note)
    if json:
        report.to_json(json)
    if html:
        from tracker.report import write_page
        write_page(report, html)
    if results:
        report.to_got10k(results)
    for written in filter(None, (json, html, results)):
        say(console, f"written: {written}")
    return report


def say(console, text):
    """Print a line as it is: no markup in names, and paths are not broken."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def found_sequences(folder, console, max_frames=None, one_based=False):
    """The sequences in a folder, after a line that says what was recognised."""
    sequences = find_sequences(folder, one_based)
    say(console, f"{folder}: {describe(sequences)}")
    return [s.head(max_frames) for s in sequences] if max_frames else sequences


def split_names(text):
    """"a, b" -> ["a", "b"]; None stays None."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--trackers takes names such as {','.join(known_names()[:2])}, "
                         f"not {text!r}")
    return names


@contextmanager
def bar(console, total):
    """A progress bar; gives step(what, kept before?), to be called after each of `total` passes.

    Says after Ctrl-C how much is kept."""
    made, kept, before = 0, 0, cache.written
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def step(what, was_kept):
            nonlocal made, kept
            made, kept = made + (not was_kept), kept + was_kept
            progress.update(task, advance=1, description=what)

        try:
            yield step
        except KeyboardInterrupt:
            progress.stop()
            safe = kept + cache.written - before
            say(console, f"interrupted after {made + kept} of {total} tracks, " + (
                f"{safe} of them kept: the same command, without --fresh, goes on from there"
                if safe else "none of them kept"))
            raise
    if kept:
        say(console, f"{kept} of {made + kept} tracks were kept from earlier runs (--fresh makes "
                     "them anew)")


def makers_of(trackers):
    """{name: function that makes the tracker} of names, None for all, or of such a dict."""
    trackers = known_names() if trackers is None else trackers
    if isinstance(trackers, dict):
        return trackers
    unknown = [name for name in trackers if name not in known_names()]
    if unknown:
        raise ValueError(f"no tracker is called {unknown[0]!r}; there are: "
                         f"{', '.join(known_names())}")
    return {name: functools.partial(load, name) for name in trackers}


def _with_baselines(trackers):
    return {**makers_of(trackers), **makers_of(BASELINES)}


def loadable(makers):
    """The makers that work here, {name: (maker, fingerprint or None)}, and {name: reason} for
    the others."""
    good, missing = {}, {}
    for name, make in makers.items():
        try:
            tracker = make()
            ours = isinstance(make, functools.partial) and make.func is load
            good[name] = make, (cache.fingerprint(name, type(tracker).__module__) if ours else None)
        except Exception as error:  # noqa: BLE001, whatever it is, the others can run
            missing[name] = f"{type(error).__name__}: {error}"
    return good, missing


def judge(job, track, absent="lasot", kept=False):
    """The Outcome of a Job; track: a Track, or the text of an error."""
    error, sequence = None, job.sequence
    if not isinstance(track, Track):        # boxes of nan: every frame is a failure
        n, error = len(sequence), track
        nothing = np.full(n, np.nan)
        track = Track(int(sequence.present.argmax()), np.full((n, 4), np.nan), nothing, nothing,
                      (1, 1), np.ones(n, bool))
    judged = sequence.noted & (np.arange(len(sequence)) >= track.start)
    predicted, truth = track.boxes[judged], sequence.boxes[judged]
    timed = track.seconds[np.isfinite(track.seconds)][1:]
    return Outcome(job.tracker, sequence.name, metrics.one_pass(predicted, truth, absent),
                   metrics.got10k_overlaps(predicted, truth, *track.size),
                   len(timed), float(timed.sum()), error, track, kept)


def _in_processes(jobs, processes):
    """(number, track) of (number, job)s as they come, from processes of one thread each."""
    context = multiprocessing.get_context("spawn")      # fork would copy locked threads and CUDA
    unfinished = []
    with _one_thread(), ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        waiting = {pool.submit(_track, job): (number, job) for number, job in jobs}
        try:
            for future in as_completed(waiting):
                try:
                    yield waiting[future][0], future.result()
                except BrokenProcessPool:
                    unfinished.append(waiting[future])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)      # after Ctrl-C, or an error
    if len(jobs) == 1 and unfinished:
        number, job = jobs[0]
        yield number, (f"{job.sequence.name}: its process died (out of memory, or a crash in C "
                       "code)")
    else:   # one died and took the others with it: each again, alone, to tell which
        for pair in unfinished:
            yield from _in_processes([pair], 1)


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
    signal.signal(signal.SIGINT, signal.SIG_DFL)    # Ctrl-C: end without a traceback
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
