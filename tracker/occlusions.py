"""Lost and found: does a tracker say that its target is gone, and does it find it again?

An event is a stretch of frames in which nothing of the target is to be seen. There are two kinds:

    real        the target is absent by the sequence's own boxes for five frames or more, or it was
                noted by eye that something hides it (HIDDEN)
    blocked     a picture is pasted over the frames: it slides in from a side, stands still over
                all places at which the target is in the next 10 to 30 frames, and slides out again

Of every event is asked: is the target said to be lost within 10 frames? Is it found again, that is,
not said to be lost and the box on it (IoU > .3) for 5 frames in a row, the first of them within 30
frames of its return? An event before which, for HELD frames, the box was not on the target anyway
is not asked about, only counted: what is not held cannot be lost. And of all frames: how many are
false alarms? That is each frame of a stretch said to be lost that began while the target was in
sight and the box was on it, as long as the target stays in sight. Where a tracker has really lost
its target, "lost" is no false alarm.
"""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tracker import DEFAULT
from tracker.boxes import clip, iou
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
from tracker.files import write_json
from tracker.metrics import one_pass
from tracker.opencv import import_cv2
from tracker.synthetic import procedural_photo

HIDDEN = {"Jogging-1": [(70, 77)]}      # sequence: (first hidden frame, first one in sight again)
SAY, FIND, STAY = 10, 30, 5             # frames: to say "lost", to find again, to stay there
HELD = 15                               # frames before an event in which it has to be held
ON_TARGET = .3                          # IoU from which on a box is on the target
SLIDE = 6                               # frames that a blocker needs to come and to go
SHORTEST, LONGEST, APART = 10, 30, 60   # frames: of a hidden stretch, from one's end to the next
LARGEST = .35                           # of the frame's area, of a blocker


@dataclass(frozen=True)
class Blocker:
    """A picture that stands before the frames `first` to `back`, and slides in and out.

    box: x, y, w, h in pixels where it stands; away: (2,) the way in pixels that it slides."""

    first: int
    back: int
    box: tuple
    away: tuple
    seed: int

    def place(self, i):
        """Its box (4,) in frame i, or None where it is not there."""
        late = max(self.first - i, i - self.back + 1, 0) / SLIDE
        return None if late >= 1 else np.add(self.box, [*np.multiply(late, self.away), 0, 0])


@dataclass(frozen=True)
class Blocked:
    """Frames with Blockers in front."""

    frames: Any
    blockers: tuple

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self._made(range(len(self))[index], self.frames[index])

    def __iter__(self):
        return (self._made(i, frame) for i, frame in enumerate(self.frames))

    def _made(self, index, frame):
        for blocker in self.blockers:
            box = blocker.place(index)
            if box is not None:
                frame = paste(frame, box, blocker.seed)
        return frame

    def fingerprint(self):
        return f"{self.blockers} before {self.frames.fingerprint()}"


def paste(frame, box, seed):
    """A copy of the frame with a picture, made of that seed, in the whole pixels of a box."""
    cv2 = import_cv2()
    x, y, w, h = (int(round(v)) for v in box)
    picture = procedural_photo(np.random.default_rng(seed), max(w, h, 8))[:h, :w]
    height, width = frame.shape[:2]
    frame = frame.copy()
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if right > left and bottom > top:
        picture = cv2.GaussianBlur(picture, (0, 0), .7)     # as sharp as what a camera sees
        frame[top:bottom, left:right] = picture[top - y:bottom - y, left - x:right - x]
    return frame


def block(sequence, seed=0):
    """The Sequence with blockers in front, its events, and how much is in sight.

    -> (Sequence, [(first, back)], (n,) the part of the target's box that no blocker covers; see
    in_sight()). The same for the same seed and name; no events where there is no room."""
    rng = np.random.default_rng([zlib.crc32(sequence.name.encode()), seed])
    height, width = sequence.frames[int(sequence.present.argmax())].shape[:2]
    blockers, i = [], int(sequence.present.argmax()) + int(rng.integers(20, 40))
    while i + SHORTEST + SLIDE < len(sequence):
        length = int(rng.integers(SHORTEST, LONGEST + 1))
        while length >= SHORTEST:
            blocker = _blocker(rng, sequence.boxes[i:i + length], (width, height), i)
            if blocker is not None:
                blockers.append(blocker)
                i += length + APART - 1
                break
            length -= 5
        i += 1
    frames = Blocked(sequence.frames, tuple(blockers))
    sight = in_sight(sequence)
    for blocker in blockers:
        for k in range(blocker.first - SLIDE, min(blocker.back + SLIDE, len(sequence))):
            if blocker.place(k) is not None:
                sight[k] *= 1 - covered(sequence.boxes[k], blocker.place(k))
    events = [(b.first, b.back) for b in blockers]
    return replace(sequence, frames=frames), events, sight


def in_sight(sequence):
    """(n,): 1 where the target is, 0 where it is absent, nan where nobody noted it."""
    return np.where(sequence.noted, sequence.present.astype(float), np.nan)


def _blocker(rng, boxes, size, first):
    """A Blocker over all of the boxes (m, 4), or None if it would be too large or one is outside."""
    inside = clip(boxes, *size)
    if not np.isfinite(boxes).all() or (inside[:, 2:] < .8 * boxes[:, 2:]).any():
        return None
    low, high = inside[:, :2].min(0), (inside[:, :2] + inside[:, 2:]).max(0)
    low, high = low - .1 * (high - low), high + .1 * (high - low)
    w, h = high - low
    if w * h > LARGEST * size[0] * size[1]:
        return None
    away = rng.choice([-1, 1]) * (np.array([w, 0]) if rng.random() < .5 else np.array([0, h]))
    return Blocker(first, first + len(boxes), (*low.tolist(), float(w), float(h)),
                   tuple(away.tolist()), int(rng.integers(2 ** 31)))


def covered(box, by):
    """The part of a box that another one covers."""
    low, high = np.maximum(box[:2], by[:2]), np.minimum(box[:2] + box[2:], by[:2] + by[2:])
    return np.maximum(high - low, 0).prod() / box[2:].prod()


def real_events(sequence):
    """The stretches [(first, back)] in which the target of a sequence is hidden or out of view."""
    gone = np.concatenate([[0], sequence.absent[sequence.present.argmax():], [0]]).astype(int)
    edges = np.flatnonzero(np.diff(gone)) + int(sequence.present.argmax())
    absent = [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= 5]
    noted = [event for event in HIDDEN.get(sequence.name, []) if event[1] <= len(sequence)]
    return sorted(absent + noted)


@dataclass(frozen=True)
class Score:
    """Of one pass over one sequence."""

    said: list          # for each event that is asked about: frames until "lost" was said, or nan
    found: list         # for each of them after which the target comes back: frames, or nan
    unheld: int         # events that are not asked about
    alarms: int         # false ones, in frames
    frames: int         # that were judged: all that are noted
    auc: float          # over the frames in which at least half of the target is in sight

    @classmethod
    def of(cls, track, sequence, events, sight):
        """Judge a Track of a sequence with these events; sight: (n,) as block() gives it.

        Whether a target is found again is not asked where frames are not noted."""
        known = np.isfinite(sight)
        overlap = np.nan_to_num(iou(track.boxes, sequence.boxes))
        seen = np.nan_to_num(sight) >= .5
        good = (overlap > ON_TARGET) & ~track.lost
        said, found, unheld = [], [], 0
        for number, (first, back) in enumerate(events):
            if not good[max(first - HELD, 0):first].any():
                unheld += 1
                continue
            times = np.flatnonzero(track.lost[first:first + SAY + 1])
            said.append(float(times[0]) if len(times) else np.nan)
            end = events[number + 1][0] if number + 1 < len(events) else len(seen)
            while back < end and not seen[back]:
                back += 1
            if back + STAY > end or not known[back:min(back + FIND + STAY, end)].all():
                continue                        # it does not come back, or only for a moment
            times = [t - back for t in range(back, min(back + FIND, end - STAY) + 1)
                     if good[t:t + STAY].all()]
            found.append(float(times[0]) if times else np.nan)
        alarms, false = 0, False
        judged = track.start + np.flatnonzero(known[track.start:])
        for before, t in zip(judged, judged[1:]):
            if track.lost[t] and not track.lost[before]:
                false = seen[t] and overlap[t] > ON_TARGET
            false = false and seen[t] and track.lost[t]
            alarms += bool(false)
        truth = np.where(seen[:, None], sequence.boxes, np.nan)[track.start:]
        return cls(said, found, unheld, alarms, len(judged) - 1,
                   one_pass(track.boxes[track.start:], truth).auc)


def cases(sequences, seeds=1):
    """[(kind, Sequence, events, sight)] of sequences as they are and with blockers."""
    found = []
    for sequence in sequences:
        sight = in_sight(sequence)
        events = real_events(sequence)
        for first, back in events:
            sight[first:back] = 0
        found.append(("real", sequence, events, sight))
        for seed in range(seeds):
            blocked, events, sight = block(sequence, seed)
            if events:
                found.append(("blocked", blocked, events, sight))
    return found


def occlusions(sequences, trackers=None, jobs=1, seeds=1, progress=None, fresh=False):
    """Judge trackers over sequences, as they are and with blockers (`seeds` times).

    trackers, jobs, fresh: as in tracker.evaluate.evaluate(); None: the default one.
    progress(what, kept before?) is called after each pass.
    Returns {"trackers": {tracker: {kind: [(sequence's name, Score)]}}, "missing": {tracker: reason},
    "errors": [text]}, kind "real" or "blocked"."""
    makers, missing = loadable(makers_of([DEFAULT] if trackers is None else trackers))
    every = cases(sequences, seeds)
    work = [(name, case, Job(name, make, case[1], None, fingerprint))
            for name, (make, fingerprint) in makers.items() for case in every]
    scores, errors = {name: {"real": [], "blocked": []} for name in makers}, []
    for number, track, kept in tracks([job for _, _, job in work], jobs, fresh):
        name, (kind, *case), job = work[number]
        if isinstance(track, Track):
            scores[name][kind].append((job.sequence.name, Score.of(track, *case)))
        else:
            errors.append(f"{name}: {track}")
        if progress:
            progress(f"{name} on {job.sequence.name}, {kind}", kept)
    for kinds in scores.values():
        for found in kinds.values():
            found.sort(key=lambda pair: pair[0])
    return {"trackers": scores, "missing": missing, "errors": errors}


def summary(scores):
    """What some Scores say together: {"events", "unheld", "said", "returns", "found", "alarms",
    "auc"}.

    said, found: the part of the events (returns); alarms: the part of all frames."""
    said = np.concatenate([[], *(s.said for s in scores)])
    found = np.concatenate([[], *(s.found for s in scores)])
    return {"events": len(said), "unheld": sum(s.unheld for s in scores),
            "said": _part(np.isfinite(said)),
            "returns": len(found), "found": _part(np.isfinite(found)),
            "alarms": sum(s.alarms for s in scores) / max(sum(s.frames for s in scores), 1),
            "auc": _part([s.auc for s in scores])}


def _part(values):
    return float(np.mean(values)) if len(values) else None


def occlusions_command(data_folder, trackers=None, jobs=1, seeds=1, json=None, max_frames=None,
                       one_based=False, fresh=False):
    """`python -m tracker occlusions`: print the tables for the sequences in a folder -> what
    occlusions() returns."""
    console = Console()
    sequences = found_sequences(data_folder, console, max_frames, one_based)
    names = split_names(trackers)
    makers = makers_of([DEFAULT] if names is None else names)
    with bar(console, len(cases(sequences, seeds)) * len(makers)) as step:
        result = occlusions(sequences, names, jobs, seeds, step, fresh)
    content = {}
    for name, kinds in result["trackers"].items():
        shown = Table(title=f"{name}")
        for heading in ("sequence", "kind", "lost said after", "found again after",
                        "false alarms", "AUC in sight"):
            shown.add_column(heading, justify="left" if heading in ("sequence", "kind") else "right")
        for kind, found in kinds.items():
            for sequence, s in found:
                shown.add_row(sequence, kind, _frames(s.said), _frames(s.found),
                              f"{s.alarms}/{s.frames}", f"{s.auc:.3f}")
        console.print(shown)
        content[name] = {kind: {**summary([s for _, s in found]),
                                "sequences": [{"name": n, **_jsonable(s)} for n, s in found]}
                         for kind, found in kinds.items()}
        content[name]["all"] = summary([s for found in kinds.values() for _, s in found])
    shown = Table(title=f"lost said within {SAY} frames, found again within {FIND}")
    for heading in ("tracker", "kind", "events", "not held", "lost said", "found again", "false alarms",
                    "AUC in sight"):
        shown.add_column(heading, justify="left" if heading in ("tracker", "kind") else "right")
    for name, kinds in content.items():
        for kind, s in kinds.items():
            auc = "–" if s["auc"] is None else f"{s['auc']:.3f}"
            shown.add_row(name, kind, str(s["events"]), str(s["unheld"]), _percent(s["said"]),
                          _percent(s["found"]), _percent(s["alarms"]), auc)
    for name in result["missing"]:
        shown.add_row(name, *"–" * 7)
    console.print(shown)
    for note in [*(f"{n} is not available: {reason}" for n, reason in result["missing"].items()),
                 *result["errors"]]:
        say(console, note)
    if json:
        write_json(json, content)
        say(console, f"written: {json}")
    return result


def _frames(values):
    return " ".join("never" if np.isnan(v) else f"{v:.0f}" for v in values) or "–"


def _percent(part):
    return "–" if part is None else f"{100 * part:.1f} %"


def _jsonable(score):
    return {**vars(score), **{key: [None if np.isnan(v) else v for v in getattr(score, key)]
                              for key in ("said", "found")}}
