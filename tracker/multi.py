"""Many targets at once: a correlation tracker for each, one pass of the network for all.

    tracker = MultiTracker.load()
    ids = tracker.init(frame, [(x, y, w, h), ...])      # 1, 2, ...
    for number, state in tracker.update(next_frame): ...
    tracker.add(frame, box); tracker.remove(ids[0])

Each target has its own filter, but features are the same for all: in every frame the crops of all
targets go through the network as one batch, and with them what lost targets are searched by and what
targets want to learn from the frame before. A target's result is that of a CorrelationTracker of its
own.

    MultiTracker.load(detect=detector)      # any function: frame -> boxes (D, 4), scores (D,)

With a detector targets come and go by themselves. What it detects is part of the same batch; each
detection belongs to one target at most (tracker.association), corrects its box, or becomes a target
of its own after a few frames. A target that is neither detected nor surely seen is lost, until it is
detected again near where its LSTM (tracker.motion) expects it; it is removed when that takes long,
and no number is used twice.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from tracker import State
from tracker.association import BIRTH, LEAST, Candidates, assign, similarity
from tracker.boxes import (LARGEST, as_tuple, centre, check_box, check_frame, check_started, clip,
                           iou)
from tracker.correlation import CELLS, MARGIN, CorrelationTracker, Look, cut
from tracker.threads import blas_on_one_thread

NEAR = CELLS // 8       # cells around a detection's middle in which a target's filter may answer
CORRECT = .5            # by how much of the difference a detection corrects a box
SURE, UNSEEN = .5, 4    # the confidence needed after so many frames without a detection; before, less
ABSENT = 20             # frames without a detection, after which no confidence helps; at most as many
                        # as the target was detected before
HIDDEN = .6             # overlap with another target from which on one of them is hidden
LOST_FOR = 40           # frames, after which a lost target is removed


class Target(CorrelationTracker):
    """One of many. What it learns from waits for the next frame's pass of the network.

    waits: while it is lost, a detector has to find it again; it does not search by itself. Nor is its
    box refined then: how far it reaches, the detector says."""

    def __init__(self, network=None, waits=False, refine=None, **options):
        super().__init__(network, refine=None if waits else refine, **options)
        self.waits = waits

    def init(self, frame, box):
        super().init(frame, box)
        self.waiting = None             # crops (1 or 0, CROP, CROP, 3) to learn from
        self.lost_for = 0
        self.unseen, self.seen = 0, ABSENT      # frames without a detection at last; with one, in all

    def next_looks(self, frame):
        if self.waits and self.lost:
            return [Look(self.centre + self.motion, self.size)]
        return super().next_looks(frame)

    def decide(self, frame, found):
        if not (self.waits and self.lost):
            return super().decide(frame, found)
        self.age, self.found = self.age + 1, found[0]       # for the LSTM: what is seen there now
        return State(as_tuple(self.box), 0., True, *self.predict(frame, self.box))

    def learn(self, frame):
        if self.unseen < 2:
            self.waiting = self.sample(frame)

    def likeness(self, features):
        """How well its filter answers in the middle of crops' features (D, n, n, C): (D,), 0 to 1."""
        near = np.arange(-NEAR, NEAR + 1)
        answers = self.filter.respond(features)[:, near[:, None], near].max((1, 2))
        usual = 1. if self.confidence.usual is None else self.confidence.usual[0]
        return np.clip(answers / usual, 0, 1)

    def settle(self, box):
        """A detection (4,) is this target: correct what it thinks of its box."""
        trust = 1 if self.lost else CORRECT
        size = (box[2:].prod() / self.first.prod()) ** .5
        self.centre = self.centre + trust * (centre(box) - self.centre)
        self.size *= (size / self.size) ** trust
        self.lost, self.doubts, self.motion = False, 0, np.zeros(2)
        self.unseen, self.seen = 0, self.seen + 1

    def expected(self):
        """Where it should be: its box, while it is lost around where it was looked for, as predicted;
        and how far off that may be."""
        box = self.box
        if self.lost:
            box[:2] += self.found.centre - self.centre
        return box, self.target_size * (.5 + .1 * min(self.unseen, LOST_FOR))


class MultiTracker:
    """See the head of this file. network and options are CorrelationTracker's; detect: a function
    frame -> (boxes (D, 4), scores (D,)), or None: only what is given is followed.

    targets: {number: Target}, in the order of their numbers."""

    def __init__(self, network=None, detect=None, **options):
        self._make = lambda: Target(network, detect is not None, **options)
        self.eyes = self._make()        # never started: it describes crops for all
        self.detect, self.targets = detect, None

    @classmethod
    def load(cls, path=None, detect=None):
        """With the CNN's weights in a safetensors file; None: those that come with the package."""
        one = CorrelationTracker.load(path)
        return cls(one.network, detect, motion=one.foresight and one.foresight.network,
                   refine=one.refinement and one.refinement.network)

    @blas_on_one_thread
    def init(self, frame, boxes=()):
        """Start afresh on `frame` (H, W, 3) uint8 BGR with targets at boxes x, y, w, h in pixels.

        -> their numbers, from 1. Raises what CorrelationTracker.init() raises, and ValueError for
        no boxes where there is no detector that could find some."""
        check_frame(frame)
        boxes = [check_box(box, frame) for box in boxes]
        if not boxes and self.detect is None:
            raise ValueError("no boxes: give at least one, or MultiTracker(detect=function), which "
                             "finds targets by itself")
        self.targets, self._next, self.candidates = {}, 1, Candidates()
        self.frame_size = frame.shape[:2]
        return [self.add(frame, box) for box in boxes]

    def add(self, frame, box):
        """Follow one more target from its box in this frame, the last that was seen -> its number."""
        check_started(self.targets)
        target = self._make()
        target.init(frame, box)
        number, self._next = self._next, self._next + 1
        self.targets[number] = target
        return number

    def remove(self, number):
        """Follow this target no longer. KeyError where there is none of that number."""
        if number not in (self.targets or {}):
            raise KeyError(f"no target {number}; there are {list(self.targets or {})}")
        del self.targets[number]

    @blas_on_one_thread
    def update(self, frame):
        """[(number, State)] of all targets in the next frame. RuntimeError before init()."""
        check_started(self.targets)
        check_frame(frame, self.frame_size)
        detected = np.empty((0, 4)) if self.detect is None else _checked(self.detect(frame), frame)
        targets = list(self.targets.values())
        looks = [target.next_looks(frame) for target in targets]
        squares = [np.concatenate([target.squares(look) for look in mine])
                   for target, mine in zip(targets, looks)]
        sides = MARGIN * np.sqrt(detected[:, 2:].prod(1, keepdims=True))                # (D, 1)
        squares.append(np.hstack([centre(detected) - sides / 2, sides, sides]))
        crops = np.split(cut(frame, np.concatenate(squares)),
                         np.cumsum([len(s) for s in squares])[:-1])
        lessons = [crops[-1][:0] if target.waiting is None else target.waiting for target in targets]
        features = self._describe(lessons + crops)
        states = {}
        for i, (number, target) in enumerate(self.targets.items()):
            if target.waiting is not None:
                target.study(lessons[i], features[i])
                target.waiting = None
            found = target.judge(crops[i], features[len(targets) + i], looks[i])
            states[number] = target.decide(frame, found)
        if self.detect is not None:
            states = self._associate(frame, states, detected, features[-1])
        return list(states.items())

    def _describe(self, batches):
        """The features of each of some batches of crops, by one pass of the network over all."""
        crops = np.concatenate(batches)
        if not len(crops):
            return batches
        return np.split(self.eyes.describe(crops), np.cumsum([len(b) for b in batches])[:-1])

    def _associate(self, frame, states, detected, features):
        """Let detections (D, 4) correct, add and remove targets; -> {number: State}."""
        targets = self.targets
        for number, target in targets.items():
            target.unseen += 1
        free = np.ones(len(detected), bool)
        if len(detected) and targets:
            places, reaches = zip(*(target.expected() for target in targets.values()))
            alike = [target.likeness(features) for target in targets.values()]
            numbers = list(targets)
            for i, j in assign(similarity(places, reaches, detected, alike), LEAST):
                target, state = targets[numbers[i]], states[numbers[i]]
                target.settle(detected[j])
                free[j] = False
                states[numbers[i]] = _moved(state, target.box, False, frame)
        for number, target in list(targets.items()):
            if not target.lost and target.unseen and self._doubtful(target, states[number]):
                target.lose(frame)
                states[number] = _moved(states[number], target.box, True, frame)
            target.lost_for = target.lost_for + 1 if target.lost else 0
            if target.lost_for > LOST_FOR:
                self.remove(number)
                del states[number]
        known = np.array([t.box for t in targets.values() if not t.lost]).reshape(-1, 4)
        free &= iou(detected[:, None], known[None]).max(1, initial=0) < HIDDEN / 2
        for box in self.candidates.see(detected[free]):
            number = self.add(frame, box)
            self.targets[number].seen = BIRTH
            states[number] = State(as_tuple(box), 1., False)
        return states

    def _doubtful(self, target, state):
        """Is a target that is not detected in this frame probably not there either?"""
        others = np.array([t.box for t in self.targets.values() if not t.unseen]).reshape(-1, 4)
        hidden = (iou(target.box, others) > HIDDEN).any()
        needed = SURE * min(target.unseen / UNSEEN, 1)
        return hidden or state.confidence < needed or target.unseen > min(ABSENT, target.seen)


def _moved(state, box, lost, frame):
    """The State with another box (4,), and what is predicted moved and enlarged with it."""
    predicted = state.predicted
    if predicted is not None:
        before, predicted = np.array(state.box), np.array(predicted)
        middle = np.clip(centre(predicted) + centre(box) - centre(before), 0, frame.shape[1::-1])
        size = predicted[2:] * box[2:] / before[2:]
        predicted = as_tuple([*(middle - size / 2), *size])
    return replace(state, box=as_tuple(box), lost=lost, predicted=predicted)


def _checked(detections, frame):
    """The boxes (D, 4) of what a detector gave, of those that a target can be started from (see
    check_box); ValueError where that is no boxes and scores."""
    try:
        boxes, scores = detections
        boxes, scores = np.asarray(boxes, float).reshape(-1, 4), np.asarray(scores, float)
        good = len(boxes) == len(scores) and np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError("a detector gives boxes (D, 4), x, y, w, h in pixels with w, h > 0, and as "
                         f"many scores, not {detections!r}")
    size = frame.shape[1::-1]
    seen = (clip(boxes, *size)[:, 2:] > 0) & (boxes[:, 2:] <= LARGEST * np.array(size))
    return boxes[seen.all(1)]
