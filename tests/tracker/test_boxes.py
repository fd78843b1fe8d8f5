import itertools

import numpy as np
import pytest

from tracker import boxes

FRAME = np.zeros((48, 64, 3), np.uint8)


def _pixels(box):
    """The unit squares that a box of whole numbers covers."""
    x, y, w, h = box
    return set(itertools.product(range(x, x + w), range(y, y + h)))


def test_iou_counts_shared_pixels():
    rng = np.random.default_rng(0)
    a, b = np.concatenate([rng.integers(-3, 6, (2, 300, 2)), rng.integers(0, 8, (2, 300, 2))], -1)
    expected = [len(_pixels(p) & _pixels(q)) / max(len(_pixels(p) | _pixels(q)), 1)
                for p, q in zip(a, b)]
    assert len(set(expected)) > 20
    np.testing.assert_allclose(boxes.iou(a, b), expected, atol=1e-15)


def test_iou_of_a_box_with_itself_is_never_above_one():
    same = np.random.default_rng(1).uniform(0.01, 300, (5000, 4))
    assert boxes.iou(same, same).max() == 1
    np.testing.assert_allclose(boxes.iou(same, same), 1)


def test_iou_broadcasts_and_keeps_nan():
    table = boxes.iou(np.ones((3, 1, 4)), np.ones((5, 4)))
    assert table.shape == (3, 5) and (table == 1).all()
    assert np.isnan(boxes.iou([np.nan] * 4, [0, 0, 1, 1]))
    assert boxes.iou([0, 0, 0, 5], [0, 0, 0, 5]) == 0


def test_centres():
    assert boxes.centre([10, 20, 4, 6]).tolist() == [12, 23]
    assert boxes.centre_distance([[0, 0, 2, 2]], [[2, 3, 4, 4]]).tolist() == [5]
    box = np.random.default_rng(2).uniform(1, 90, (7, 4))
    np.testing.assert_allclose(boxes.from_centre(boxes.to_centre(box)), box)
    assert boxes.to_centre([10, 20, 4, 6]).tolist() == [12, 23, 4, 6]


@pytest.mark.parametrize("box, expected", [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((-5, -6, 10, 10), (0, 0, 5, 4)),
    ((60, 40, 10, 10), (60, 40, 4, 8)),
    ((-9, -9, 99, 99), (0, 0, 64, 48)),
    ((70, 10, 5, 5), (64, 10, 0, 5)),
])
def test_clip(box, expected):
    assert boxes.clip(box, 64, 48).tolist() == list(expected)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        boxes.iou(np.ones((2, 3)), np.ones(4))


@pytest.mark.parametrize("frame, error, words", [
    (None, TypeError, "imread"),
    ([[1]], TypeError, "list"),
    (np.zeros((4, 4), np.uint8), ValueError, "GRAY2BGR"),
    (np.zeros((4, 4, 4), np.uint8), ValueError, "alpha"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\)"),
    (np.zeros((4, 4, 3), np.float32), TypeError, "float32"),
])
def test_bad_frames_are_named(frame, error, words):
    with pytest.raises(error, match=words):
        boxes.check_frame(frame)


@pytest.mark.parametrize("box, words", [
    (None, "four numbers"),
    ((1, 2, 3), "four numbers"),
    ("abcd", "four numbers"),
    (np.ones((2, 4)), "four numbers"),
    ((1, 2, np.nan, 4), "finite"),
    ((1, 2, 3, np.inf), "finite"),
    ((1, 2, 0, 4), "w=0"),
    ((1, 2, 4, -1), "h=-1"),
    ((64, 2, 4, 4), "64 x 48"),
    ((-4, 2, 4, 4), "outside"),
    ((4, 48, 4, 4), "outside"),
    ((4, -4, 4, 4), "outside"),
])
def test_bad_boxes_are_named(box, words):
    with pytest.raises(ValueError, match=words):
        boxes.check_box(box, FRAME)


def test_good_input_passes():
    assert boxes.check_frame(FRAME) is FRAME
    checked = boxes.check_box((np.float32(63), 47, 5, 5.5), FRAME)
    assert checked.dtype == np.float64 and checked.tolist() == [63, 47, 5, 5.5]
    assert boxes.as_tuple(checked) == (63.0, 47.0, 5.0, 5.5)


@pytest.mark.parametrize("name", ["correlation", "recurrent", "MIL"])
def test_a_frame_of_another_size_and_a_box_beyond_reason_are_errors(name):
    import tracker
    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    t = tracker.load(name)
    with pytest.raises(ValueError, match="times as large as the frame"):
        t.init(frame, (10, 10, 1e30, 20))
    t.init(frame, (40, 40, 30, 20))
    with pytest.raises(ValueError, match="80 x 60 pixels, the first one had 160 x 120"):
        t.update(np.ascontiguousarray(frame[::2, ::2]))
    t.update(frame)
