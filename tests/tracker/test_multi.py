"""MultiTracker: each target as a tracker of its own, one pass for all; targets that come and go."""

import numpy as np
import pytest

from tracker import State
from tracker.association import BIRTH, Candidates, assign, similarity
from tracker.boxes import iou
from tracker.correlation import CorrelationTracker
from tracker.detector import LOOKS
from tracker.features import FeatureNetwork
from tracker.mot_metrics import mot_scores
from tracker.multi import LOST_FOR, MultiTracker, _moved
from tracker.scenes import SEEN, render

pytest.importorskip("cv2")


class CountingNetwork(FeatureNetwork):
    """Notes how many crops were in each pass."""

    def call(self, crops):
        self.passes = [*getattr(self, "passes", []), len(crops)]
        return super().call(crops)


@pytest.fixture(scope="module")
def scene():
    return render(1, 16, targets=3)


@pytest.fixture(scope="module")
def crossing():
    """Four targets, one of which leaves and comes back, and things that pass in front."""
    return render(1, 90, targets=4, occluders=2, leaving=1)


def detector(scene, missed=.1, false=.1):
    """What a fair detector would say of the scene's frames 1, 2, ..., one call a frame."""
    rng, frames = np.random.default_rng(0), iter(scene.truth()[1:])

    def detect(frame):
        boxes = next(frames)[1]
        boxes = boxes[rng.random(len(boxes)) >= missed]
        boxes = boxes + rng.normal(0, 2, boxes.shape)
        if rng.random() < false:
            boxes = np.vstack([boxes, [*rng.uniform(0, 300, 2), 50, 50]])
        return boxes, np.ones(len(boxes))
    return detect


@pytest.mark.usefixtures("on_the_cpu")  # elsewhere a larger product is rounded otherwise, row by row
def test_every_target_is_followed_as_by_a_tracker_of_its_own(scene):
    """And in every frame the network sees the crops of all of them at once, samples included."""
    network = CountingNetwork()
    many = MultiTracker(network)
    numbers = many.init(scene[0], scene.boxes[0])
    assert numbers == [1, 2, 3]
    single = [CorrelationTracker(network) for _ in numbers]
    for tracker, box in zip(single, scene.boxes[0]):
        tracker.init(scene[0], box)
    for t in range(1, len(scene)):
        frame = scene[t]
        alone = [tracker.update(frame) for tracker in single]
        network.passes = []
        states = many.update(frame)
        assert [number for number, _ in states] == numbers
        for (_, state), expected in zip(states, alone):
            np.testing.assert_allclose(state.box, expected.box, atol=1e-3)
            assert state.confidence == pytest.approx(expected.confidence, abs=1e-3)
            assert state.lost == expected.lost
        # in every second frame two sizes are looked at, and the frame before is learned
        assert network.passes == [6 if t == 1 else 9 if t % 2 else 3]
    assert sum(iou(np.array(s.box), box) > .6 for (_, s), box in zip(states, scene.boxes[-1])) == 3


def test_targets_are_added_and_removed(scene):
    tracker = MultiTracker()
    assert tracker.init(scene[0], scene.boxes[0, :1]) == [1]
    tracker.update(scene[1])
    assert tracker.add(scene[1], scene.boxes[1, 1]) == 2
    tracker.remove(1)
    assert tracker.add(scene[1], scene.boxes[1, 2]) == 3        # 1 is not used again
    states = tracker.update(scene[2])
    assert [number for number, _ in states] == [2, 3]
    assert all(isinstance(s, State) and iou(np.array(s.box), scene.boxes[2, n - 1]) > .6
               for n, s in states)
    for number in (2, 3):
        tracker.remove(number)
    assert tracker.update(scene[3]) == []
    assert tracker.init(scene[0], scene.boxes[0, :1]) == [1]    # afresh


def test_manners(scene):
    tracker = MultiTracker()
    with pytest.raises(RuntimeError, match="before init"):
        tracker.update(scene[0])
    with pytest.raises(RuntimeError, match="before init"):
        tracker.add(scene[0], (1, 1, 9, 9))
    with pytest.raises(ValueError, match="no boxes"):
        tracker.init(scene[0], [])
    with pytest.raises(ValueError, match="outside the frame"):
        tracker.init(scene[0], [(10, 10, 20, 20), (900, 10, 20, 20)])
    with pytest.raises(KeyError, match="no target 7"):
        tracker.remove(7)
    tracker.init(scene[0], [(10, 10, 20, 20)])
    with pytest.raises(TypeError, match="uint8"):
        tracker.update(scene[0].astype(float))


def test_targets_appear_keep_their_numbers_and_vanish(crossing):
    """Of four targets that cross, with a detector that misses and invents some."""
    tracker = MultiTracker(detect=detector(crossing))
    assert tracker.init(crossing[0]) == []
    tracks, lost = [], set()
    for t in range(len(crossing)):
        states = tracker.update(crossing[t]) if t else []
        lost |= {number for number, state in states if state.lost}
        states = [(n, s) for n, s in states if not s.lost]
        tracks.append((np.array([n for n, _ in states], int),
                       np.array([s.box for _, s in states]).reshape(-1, 4)))
        if 0 < t < BIRTH:
            assert not states
    scores = mot_scores(crossing.truth(), tracks)
    assert scores["mota"] > .8 and scores["idf1"] > .85 and scores["hota"] > .65, scores
    assert scores["switches"] <= 3
    gone = np.flatnonzero(crossing.visible[:, 0] < SEEN)
    before, after = (_number_on(tracks[t], crossing.boxes[t, 0]) for t in (gone[0] - 8, len(tracks) - 1))
    assert before == after is not None and before in lost


def _number_on(track, box):
    numbers, boxes = track
    overlap = iou(boxes, box)
    return int(numbers[overlap.argmax()]) if overlap.max(initial=0) > .5 else None


def test_what_is_detected_no_more_is_removed(scene):
    there = scene.boxes[0, :1], [.9]
    tracker = MultiTracker.load(detect=lambda frame: there if frame is scene_0 else ([], []))
    scene_0 = scene[0]
    tracker.init(scene_0)
    for _ in range(4):
        states = tracker.update(scene_0)
    assert [n for n, _ in states] == [1]
    empty = np.full_like(scene_0, 90)
    said = [tracker.update(empty) for _ in range(LOST_FOR + 10)]
    assert said[8][0][1].lost and said[-1] == []
    for states in said[1:]:                     # where it should be by now, while it is not seen
        assert all(state.predicted is not None for _, state in states)


def test_a_lost_target_is_expected_where_its_lstm_says(scene):
    """And what is detected there is this target again, with what it predicts moved to there."""
    there = scene.boxes[0, :1]
    seen = [there]
    tracker = MultiTracker.load(detect=lambda frame: (seen[0], np.ones(len(seen[0]))))
    tracker.init(scene[0], there)
    for _ in range(3):
        tracker.update(scene[0])
    seen[0] = np.empty((0, 4))
    empty = np.full_like(scene[0], 90)
    while not (state := tracker.update(empty)[0][1]).lost:
        pass
    target = tracker.targets[1]
    target.motion = np.array([200., 0.])        # as if the LSTM had said so
    box = np.add(state.box, (200, 0, 0, 0))
    target.likeness = lambda features: np.ones(len(features))
    target.next_looks, looked = (lambda frame, looks=target.next_looks:
                                 (looked.append(looks(frame)), looked[-1])[1]), []
    seen[0] = box[None] + [4, 0, 0, 0]
    (number, state), = tracker.update(empty)
    np.testing.assert_allclose(looked[0][0].centre, box[:2] + box[2:] / 2)      # its only look
    assert number == 1 and not state.lost and len(looked[0]) == 1
    np.testing.assert_allclose(state.box, seen[0][0], atol=1)
    assert iou(np.array(state.predicted), seen[0][0]) > .3 and not target.motion.any()


def test_what_is_predicted_goes_with_a_corrected_box():
    state = State((0, 0, 100, 100), 0., True, (5, 5, 90, 90), (3, 3))
    frame = np.zeros((60, 90, 3), np.uint8)
    moved = _moved(state, np.array([40., 40, 8, 10]), False, frame)
    np.testing.assert_allclose(moved.predicted, (44 - 3.6, 45 - 4.5, 7.2, 9))
    assert moved.box == (40, 40, 8, 10) and not moved.lost and moved.reach == (3, 3)
    beyond = _moved(state, np.array([80., 0, 40, 40]), False, frame).predicted
    assert beyond[0] + beyond[2] / 2 == 90


def test_detections_that_no_target_can_be_started_from_are_left_out(scene):
    """Beyond the frame, or much larger; one that is partly beyond it is none of these."""
    there, partly = scene.boxes[0, 0], [-20., -30, 60, 90]
    boxes = np.array([[-500, -500, 30, 30], [-9000, -9000, 20000, 20000], partly, there])
    tracker = MultiTracker(detect=lambda frame: (boxes, np.ones(len(boxes))))
    tracker.init(scene[0])
    for _ in range(BIRTH):
        states = tracker.update(scene[0])
    np.testing.assert_allclose([state.box for _, state in states], [partly, there])


def test_lost_targets_are_searched_for_in_the_same_pass(scene):
    tracker = MultiTracker.load()
    tracker.init(scene[0], scene.boxes[0])
    passes, describe = [], tracker.eyes.describe
    tracker.eyes.describe = lambda crops: (passes.append(len(crops)), describe(crops))[1]
    for target in tracker.targets.values():
        target.describe = None      # none of its own
        target.lose(scene[0])
    tracker.update(scene[1])
    assert passes == [3 * (2 + LOOKS)]          # where it should be, at two sizes, and elsewhere


@pytest.mark.parametrize("answer", [None, [1, 2, 3], ([[1, 2, 3, 4]], []), ([[1, 2, 0, 4]], [1.]),
                                    ([[1, 2, np.nan, 4]], [1.]), ([["a"] * 4], [1.])])
def test_a_detector_that_gives_something_else_is_named(scene, answer):
    tracker = MultiTracker(detect=lambda frame: answer)
    tracker.init(scene[0])
    with pytest.raises(ValueError, match="a detector gives boxes"):
        tracker.update(scene[1])


# ------------------------------------------------------------------------------- association


def test_the_assignment_is_the_best_of_all():
    rng = np.random.default_rng(0)
    from itertools import permutations
    for _ in range(20):
        fits = rng.random((4, 4))
        best = max(sum(fits[i, j] for i, j in enumerate(p)) for p in permutations(range(4)))
        pairs = assign(fits, 0)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        assert sum(fits[p] for p in pairs) == pytest.approx(best)
    assert assign([[.9, .3], [.8, .1]], .4) == [(0, 0)]
    assert assign(np.empty((0, 3)), .4) == assign(np.empty((3, 0)), .4) == []


def test_similarity():
    box = np.array([[100., 100, 40, 40]])
    near, far = box + [[4., 0, 0, 0]], box + [[200., 0, 0, 0]]
    fits = similarity(box, [20.], np.concatenate([box, near, far]), [[1., 1, 1]])
    assert fits[0, 0] == pytest.approx(1) and .7 < fits[0, 1] < 1 and fits[0, 2] == 0
    alike = similarity(box, [20.], np.concatenate([near, near]), [[.2, .9]])
    assert assign(alike, 0) == [(0, 1)]             # of two at the same place the similar one


def test_a_candidate_is_born_when_it_was_seen_running():
    box = np.array([[10., 10, 20, 20]])
    candidates = Candidates()
    assert [len(candidates.see(box + 2 * t)) for t in range(BIRTH)] == [0] * (BIRTH - 1) + [1]
    assert len(candidates.see(box)) == 0            # it is no candidate any more: from the start
    assert len(candidates.see(np.empty((0, 4)))) == 0
    assert [len(candidates.see(box)) for _ in range(BIRTH)] == [0] * (BIRTH - 1) + [1]
