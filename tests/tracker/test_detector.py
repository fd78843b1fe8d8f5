"""Confidence and re-detection: a lost target is found elsewhere, an impostor is not, and no frame
takes much longer than others."""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from tracker import confidence, detector
from tracker.boxes import iou
from tracker.confidence import BIAS, WEIGHTS, Confidence
from tracker.correlation import ANEW, CorrelationTracker, Look
from tracker.detector import LOOKS, alike_places

cv2 = pytest.importorskip("cv2")
rng = np.random.default_rng(1)
BACKGROUND = cv2.resize(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), (400, 300),
                        interpolation=cv2.INTER_CUBIC)
PIECE = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (48, 40))


def with_target(x, y, piece=PIECE):
    frame = BACKGROUND.copy()
    frame[y:y + len(piece), x:x + piece.shape[1]] = piece
    return frame


def answer(peak=.6, second=.1, sharpness=8., colour=.7, shift=(0., 0.)):
    return SimpleNamespace(peak=peak, second=second, sharpness=sharpness, colour=colour,
                           shift=np.array(shift), side=160., scale=1.)


def test_confidence_by_the_formula():
    sure = Confidence()
    first = sure.of(answer())
    assert math.isclose(first, 1 / (1 + math.exp(-(WEIGHTS @ [0, .1 / .6, 0, 1] + BIAS))))
    weak = answer(peak=.3, second=.15, sharpness=4., colour=.35)
    x = WEIGHTS @ [math.log(.5), .5, math.log(.5), .5] + BIAS
    assert math.isclose(sure.of(weak), 1 / (1 + math.exp(-x)))
    assert sure.of(weak) < .2 < .9 < first
    # what the window took away at its side is no reason to doubt
    faded = math.cos(math.pi * 40 / 160) ** 2
    assert math.isclose(sure.of(answer(peak=.6 * faded, second=.1 * faded, shift=(40, 0))), first)


def test_what_is_usual_is_a_mean_and_then_follows():
    sure = Confidence()
    for value in (.4, .6, .8):
        sure.follow(answer(peak=value))
    assert sure.usual[0] == pytest.approx(.6, abs=.1)
    for _ in range(300):
        sure.follow(answer(peak=.5))
    assert sure.usual[0] == pytest.approx(.5, abs=.01)


def test_no_answer_at_all_is_no_error():
    sure = Confidence()
    nothing = answer(0., 0., 0., 0.)
    assert 0 <= sure.of(nothing) <= 1
    sure.follow(nothing)
    assert np.isfinite(sure.signals(answer())).all()


def test_places_of_the_targets_colours():
    frame = np.full((300, 400, 3), 60, np.uint8)
    frame[200:240, 300:348] = (20, 200, 240)
    tracker = CorrelationTracker()
    tracker.init(frame, (300, 200, 48, 40))
    elsewhere = np.full((300, 400, 3), 60, np.uint8)
    elsewhere[50:90, 100:148] = (20, 200, 240)
    places = alike_places(elsewhere, tracker.histogram, tracker.first, 3)
    assert 1 <= len(places) <= 3
    np.testing.assert_allclose(places[0], (124, 70), atol=5)
    gray = np.full((300, 400, 3), 60, np.uint8)
    assert len(alike_places(gray, tracker.histogram, tracker.first, 3)) == 0


def lost_tracker():
    tracker = CorrelationTracker(gate=True, redetect=True)
    tracker.init(with_target(60, 70), (60, 70, 48, 40))
    for t in range(1, 8):
        tracker.update(with_target(60 + t, 70))
    gone = [tracker.update(BACKGROUND) for _ in range(6)]
    assert gone[-1].lost and tracker.lost
    return tracker, gone


def test_a_target_is_found_on_the_other_side_of_the_frame():
    tracker, gone = lost_tracker()
    assert iou(gone[-1].box, (67, 70, 48, 40)) > .6         # the last good one
    memory = tracker.filter.memory.copy()
    impostor = cv2.resize(np.random.default_rng(9).integers(0, 255, (6, 8, 3), dtype=np.uint8),
                          (48, 40))
    for _ in range(4):
        assert tracker.update(with_target(290, 200, impostor)).lost
    np.testing.assert_array_equal(tracker.filter.memory, memory)    # nothing is learned meanwhile
    for n in range(30):
        state = tracker.update(with_target(290, 200))
        if not state.lost:
            break
    assert not state.lost and iou(state.box, (290, 200, 48, 40)) > .5


@pytest.mark.parametrize("growth", [ANEW, 1 / ANEW])
def test_a_target_that_is_found_again_has_the_size_at_which_it_was_found(growth):
    tracker, _ = lost_tracker()
    w, h = round(48 * growth), round(40 * growth)
    frame, size = with_target(60, 70, cv2.resize(PIECE, (w, h))), tracker.size
    tracker.move(frame, tracker.search(frame, [Look((60 + w / 2, 70 + h / 2), size,
                                                            (1., growth))])[0])
    assert tracker.size == pytest.approx(size * growth)


def test_every_frame_is_bounded():
    tracker, _ = lost_tracker()
    passes, describe = [], tracker.describe
    tracker.describe = lambda crops: (passes.append(len(crops)), describe(crops))[1]
    for _ in range(5):
        tracker.update(BACKGROUND)
    assert len(passes) == 5 and max(passes) <= 2 + LOOKS + 1    # one pass a frame, of a few crops


def test_what_answers_beside_the_middle_is_looked_at_again_there():
    tracker, _ = lost_tracker()
    frame = with_target(290, 200)
    off = tracker.search(frame, [Look(tracker.centre, 1.), Look((340, 235), 1.)])
    best, doubtful = tracker.detector.choose(tracker, off)
    assert best is off[1]
    place, size = tracker.detector.places(tracker, frame)[0]
    np.testing.assert_allclose(place, (290 + 24, 200 + 20), atol=4)
    assert size == pytest.approx(1, abs=.05)
    middle = tracker.search(frame, [Look(tracker.centre, 1.), Look(place, size)])
    assert tracker.detector.choose(tracker, middle)[1] > doubtful
    assert len(tracker.detector.places(tracker, frame)) == LOOKS    # this one is in the middle


def test_a_lost_tracker_can_be_copied():
    tracker, _ = lost_tracker()
    copies = copy.deepcopy(tracker), pickle.loads(pickle.dumps(tracker))
    states = [t.update(with_target(290, 200)) for t in (tracker, *copies)]
    assert states[0] == states[1] == states[2]


def test_the_grid_comes_to_all_of_the_frame():
    tracker, _ = lost_tracker()
    step = detector.STEP * tracker.target_size
    count = round(400 / step) * round(300 / step)
    tracker.detector.start(tracker, BACKGROUND)
    places, sizes = zip(*(tracker.detector._next() for _ in range(count)))
    assert set(sizes) == {1.} and tracker.detector._next()[1] != 1.
    points = np.stack(np.meshgrid(np.arange(400), np.arange(300)), -1).reshape(-1, 1, 2)[::97]
    assert np.abs(points - np.array(places)).max(-1).min(-1).max() < .75 * step
    away = np.hypot(*(np.array(places) - tracker.centre).T)
    assert (np.diff(away) >= 0).all()


def test_fade_is_the_windows_part():
    assert confidence.fade(answer()) == 1
    assert confidence.fade(answer(shift=(80, 0))) == confidence.FADED
