"""Patches of an image: every rung against the formula, the formula against OpenCV and slices."""

import numpy as np
import pytest
from check_rungs import check_rungs
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.patch import patch


@st.composite
def cases(draw):
    """(x, boxes, size): boxes inside, across and outside, shrunk by up to 9 and enlarged."""
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, 2))
    boxes = np.concatenate([rng.uniform(-9, 11, (n, 2)), rng.uniform(0.1, 14, (n, 2))], axis=1)
    if draw(st.booleans()):
        boxes = np.ceil(boxes)
    return rng.standard_normal(shape), boxes, (draw(st.integers(1, 5)), draw(st.integers(1, 5)))


@settings(max_examples=50, deadline=None)
@given(cases())
def test_every_rung_equals_the_formula(case):
    check_rungs(patch, *case, tolerance32=1e-4)


def test_whole_pixels_are_a_slice_and_the_border_repeats(rng=np.random.default_rng(0)):
    x = rng.integers(0, 255, (5, 7, 3)).astype(np.uint8)
    y = patch(x, np.array([[2.0, 1, 3, 4], [-2.0, -3, 11, 11], [90.0, 40, 2, 2]]), 4)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(patch(x, np.array([[2.0, 1, 3, 4]]), (4, 3))[0], x[1:5, 2:5])
    around = np.pad(x, ((3, 3), (2, 2), (0, 0)), "edge")
    np.testing.assert_array_equal(patch(x, np.array([[-2.0, -3, 11, 11]]), 11)[0], around)
    np.testing.assert_array_equal(y[2], np.broadcast_to(x[-1, -1], (4, 4, 3)))


def test_shrinking_by_whole_numbers_is_the_mean(rng=np.random.default_rng(1)):
    x = rng.standard_normal((12, 15, 2))
    small = patch(x, np.array([[0.0, 0, 15, 12]]), (4, 5))[0]
    np.testing.assert_allclose(small, x.reshape(4, 3, 5, 3, 2).mean((1, 3)), atol=1e-12)


@pytest.mark.parametrize("shrink", [0.4, 1.0, 1.9])
def test_against_opencv(shrink, rng=np.random.default_rng(2)):
    cv2 = pytest.importorskip("cv2")
    x = cv2.GaussianBlur(rng.uniform(0, 255, (60, 80, 3)), (0, 0), 2).astype(np.float32)
    side = 32 * shrink
    matrix = np.array([[shrink, 0, 50.3 + shrink / 2 - 0.5], [0, shrink, -5.2 + shrink / 2 - 0.5]])
    theirs = cv2.warpAffine(x, matrix, (32, 32), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR,
                            borderMode=cv2.BORDER_REPLICATE)
    ours = patch(x, np.array([[50.3, -5.2, side, side]]), 32)[0]
    np.testing.assert_allclose(ours, theirs, atol=1)  # OpenCV rounds coordinates to 1/32 of a pixel


@pytest.mark.parametrize(
    "x, boxes, message",
    [
        (np.ones((1, 4, 4, 1)), np.ones((1, 4)), "axes"),
        (np.ones((4, 4, 1), np.int16), np.ones((1, 4)), "uint8"),
        (np.ones((4, 4, 1)), np.array([[0.0, 0, 2, -1]]), "w, h > 0"),
        (np.ones((4, 4, 1)), np.array([[np.nan, 0, 2, 1]]), "finite"),
        (np.ones((0, 4, 1)), np.ones((1, 4)), "without pixels"),
    ],
)
def test_errors_say_what_is_wrong(x, boxes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        patch(x, boxes, 2)
