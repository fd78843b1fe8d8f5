"""CorrelationTracker: rendered scenes with exact boxes, its parts, and odd inputs."""

import numpy as np
import pytest

from tracker import State, correlation, synthetic
from tracker.boxes import iou
from tracker.correlation import CELLS, CROP, CorrelationTracker, second_peak, sub_cell
from tracker.features import FeatureNetwork
from tracker.scaling import CURVATURE, PART

cv2 = pytest.importorskip("cv2")
BACKGROUND = synthetic.procedural_photo(np.random.default_rng(3), 400)[:300]
PIECE = synthetic.procedural_photo(np.random.default_rng(8), 100)


def scene(n, step=(3., 2.), size=(60, 44), growth=1., start=(60., 70.)):
    """A textured box that moves over a textured background: frames and true boxes (n, 4)."""
    frames, boxes = [], []
    for t in range(n):
        w, h = (int(s * growth ** t) for s in size)
        x, y = int(start[0] + step[0] * t), int(start[1] + step[1] * t)
        frame = BACKGROUND.copy()
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, 400), min(y + h, 300)
        piece = cv2.resize(PIECE, (w, h), interpolation=cv2.INTER_AREA)
        if x1 > x0 and y1 > y0:
            frame[y0:y1, x0:x1] = piece[y0 - y:y1 - y, x0 - x:x1 - x]
        frames.append(frame)
        boxes.append((x, y, w, h))
    return frames, np.array(boxes, float)


def follow(tracker, frames, box):
    tracker.init(frames[0], box)
    states = [tracker.update(frame) for frame in frames[1:]]
    return states, np.array([box, *(state.box for state in states)])


@pytest.mark.parametrize("step, size, growth", [
    ((3., 2.), (60, 44), 1.), ((-2., 9.), (30, 30), 1.), ((3., 1.), (20, 80), 1.),
    ((1., 1.), (40, 36), 1.02), ((1., 0.), (12, 12), 1.), ((0., 0.), (200, 180), 1.),
])  # fmt: skip
def test_it_follows(step, size, growth):
    frames, boxes = scene(20, step, size, growth)
    states, found = follow(CorrelationTracker(), frames, boxes[0])
    overlap = iou(found, boxes)
    assert overlap.min() > .6 and overlap.mean() > .75, overlap
    assert all(state.confidence > .5 and not state.lost for state in states)


def test_it_follows_with_a_network():
    frames, boxes = scene(10)
    _, found = follow(CorrelationTracker(FeatureNetwork()), frames, boxes[0])
    assert iou(found, boxes).min() > .7


@pytest.mark.parametrize("without", ["scale", "window", "histogram"])
def test_every_part_can_be_left_out(without):
    frames, boxes = scene(8)
    _, found = follow(CorrelationTracker(**{without: False}), frames, boxes[0])
    assert iou(found, boxes).min() > .7
    if without == "scale":
        np.testing.assert_allclose(found[:, 2:], boxes[:, 2:])


@pytest.mark.parametrize("growth", [1.01, 1., .99])
def test_the_size_follows_the_targets(growth):
    frames, boxes = scene(30, (1., 1.), (60, 56), growth)
    tracker = CorrelationTracker()
    _, found = follow(tracker, frames, boxes[0])
    # One look in two frames, of which PART is believed, lags so far behind a steady growth.
    lag = 2 * abs(np.log(growth)) / PART
    assert abs(np.log(found[:, 2:] / boxes[:, 2:])).max() < lag + .06
    assert tracker.scaling.curvature != CURVATURE       # it was learned what a wrong size costs


def test_features():
    both = CorrelationTracker(FeatureNetwork())
    crops = np.random.default_rng(0).uniform(0, 255, (2, CROP, CROP, 3)).astype("float32")
    assert both.describe(crops).shape == (2, CELLS, CELLS, 66)
    assert CorrelationTracker(FeatureNetwork(), hand=False).describe(crops).shape[3] == 32
    assert CorrelationTracker().describe(crops).shape[3] == 34
    assert both.describe(crops).dtype == np.float32
    with pytest.raises(ValueError, match="no features"):
        CorrelationTracker(hand=False)


def test_the_target_vanishes():
    """Where the target was is only background: much less confidence than before."""
    frames, boxes = scene(12)
    tracker = CorrelationTracker()
    states, _ = follow(tracker, frames, boxes[0])
    gone = [tracker.update(BACKGROUND) for _ in range(3)]
    assert max(s.confidence for s in gone) < min(s.confidence for s in states)


def test_a_target_that_leaves_and_one_that_is_cut_off():
    frames, boxes = scene(30, (-6., 0.), start=(80., 100.))     # out on the left
    states, found = follow(CorrelationTracker(), frames, boxes[0])
    assert np.isfinite(found).all()
    assert ((found[:, :2] + found[:, 2:] / 2 >= 0) & (found[:, :2] < (400, 300))).all()
    frames, boxes = scene(10, (2., 0.), start=(-25., 100.))     # begins partly outside
    _, found = follow(CorrelationTracker(), frames, boxes[0])
    assert iou(found, boxes)[-1] > .5


@pytest.mark.parametrize("size", [(2, 2), (3, 40), (8, 6), (400, 300), (900, 700)])
def test_tiny_and_huge_targets(size):
    rng = np.random.default_rng(1)
    tracker = CorrelationTracker()
    tracker.init(BACKGROUND, (100. if size[0] < 400 else -10., 80. if size[1] < 300 else -5., *size))
    for _ in range(4):
        state = tracker.update(np.roll(BACKGROUND, rng.integers(0, 3, 2), (0, 1)))
        assert np.isfinite(state.box).all() and min(state.box[2:]) > 1
        assert state.box[2] <= 1.1 * max(size[0], 400) and 0 <= state.confidence <= 1


@pytest.mark.parametrize("level", [0, 127, 255])
def test_frames_of_one_colour(level):
    frame = np.full((120, 160, 3), level, np.uint8)
    states, found = follow(CorrelationTracker(), [frame] * 5, (50., 40., 30., 20.))
    assert np.isfinite(found).all() and np.isfinite([s.confidence for s in states]).all()


def test_a_frame_of_another_size_is_an_error_and_changes_nothing():
    frames, boxes = scene(4)
    tracker = CorrelationTracker()
    follow(tracker, frames, boxes[0])
    before = tracker.box
    with pytest.raises(ValueError, match="the first one had"):
        tracker.update(cv2.resize(frames[3], (40, 30)))
    np.testing.assert_array_equal(tracker.box, before)


def test_frames_may_be_views_and_are_left_alone():
    frames, boxes = scene(3)
    views = [frame[:, ::-1] for frame in frames]
    mirrored = boxes.copy()
    mirrored[:, 0] = 400 - boxes[:, 0] - boxes[:, 2]
    copies = [frame.copy() for frame in frames]
    for frame in frames:
        frame.flags.writeable = False
    _, found = follow(CorrelationTracker(), views, mirrored[0])
    assert iou(found, mirrored).min() > .8
    assert all(np.array_equal(a, b) for a, b in zip(frames, copies))


def test_manners():
    tracker = CorrelationTracker()
    frames, boxes = scene(4)
    with pytest.raises(RuntimeError, match="before init"):
        tracker.update(frames[0])
    with pytest.raises(ValueError, match="outside the frame"):
        tracker.init(frames[0], (900, 900, 10, 10))
    with pytest.raises(TypeError, match="uint8"):
        tracker.init(frames[0].astype(float), boxes[0])
    first = follow(tracker, frames, boxes[0])[1]
    again = follow(tracker, frames, boxes[0])[1]            # init() starts afresh
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="shape"):
        tracker.update(frames[0][..., 0])
    assert isinstance(tracker.update(frames[3]), State)


def test_a_predicted_motion_moves_the_search():
    """A jump of more than a search's reach is found when it was foretold."""
    frames, boxes = scene(2, (150., 60.), start=(40., 40.))
    tracker = CorrelationTracker()
    tracker.init(frames[0], boxes[0])
    tracker.motion = np.array([140., 55.])
    assert iou(tracker.update(frames[1]).box, boxes[1]) > .7
    assert not tracker.motion.any()


def test_response_tells_of_any_place_and_changes_nothing():
    frames, boxes = scene(6)
    tracker = CorrelationTracker()
    follow(tracker, frames[:5], boxes[0])
    before = tracker.box.copy()
    centre = boxes[5, :2] + boxes[5, 2:] / 2
    here = tracker.response(frames[5], centre + [9, -7], 1.)
    np.testing.assert_allclose(here.shift, [-9, 7], atol=3)
    elsewhere = tracker.response(frames[5], (330., 40.), 1.)
    assert here.peak > 2 * elsewhere.peak and here.second < here.peak
    np.testing.assert_array_equal(tracker.box, before)
    assert here.merged.shape == (1, CELLS, CELLS) and here.crops.shape == (1, CROP, CROP, 3)
    peak = np.unravel_index(here.merged[0].argmax(), (CELLS, CELLS))
    np.testing.assert_allclose((np.array(peak)[::-1] - CELLS / 2) * here.side / CELLS, here.shift,
                               atol=here.side / CELLS)


def test_the_sub_cell_peak_of_a_parabola():
    i = np.arange(40)
    away = (i[:, None] - 3.3) ** 2 + (i - 36.8) ** 2
    shift, height = sub_cell(50. - away, (3, 37))
    np.testing.assert_allclose(shift, [36.8 - 40, 3.3])
    assert height == pytest.approx(50)
    response = np.zeros((40, 40))
    response[0, 39], response[1, 0], response[9, 0] = 1, .9, .4     # .9 belongs to the peak
    assert second_peak(response, (0, 39)) == .4


def test_variations_keep_the_target_in_the_middle():
    crop = np.zeros((CROP, CROP, 3), "float32")
    crop[70:90, 60:100] = 255
    for varied in correlation.variations(crop):
        weight = varied[..., 0] / varied[..., 0].sum()
        middle = [(weight.sum(axis) * (np.arange(CROP) + .5)).sum() for axis in (0, 1)]
        np.testing.assert_allclose(middle, 80, atol=.3)
