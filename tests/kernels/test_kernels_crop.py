"""Bilinear crop and its gradients: every rung against the formula, the formula against others."""

import time

import numpy as np
import pytest
from check_rungs import check_adjoint, check_rungs, numeric_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import crop, crop_box_grad, crop_image_grad


@st.composite
def cases(draw):
    """(x, boxes, size, g): boxes inside, across and outside of the image, some on pixel centres."""
    n = draw(st.integers(0, 3))
    images = draw(st.sampled_from([1, n])) if n else 0
    shape = (images, draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(0, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    boxes = np.concatenate([rng.uniform(-5, 7, (n, 2)), rng.uniform(0.1, 9, (n, 2))], axis=1)
    if draw(st.booleans()):
        boxes = np.ceil(boxes)
    size = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    return rng.standard_normal(shape), boxes, size, rng.standard_normal((n, *size, shape[3]))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_rung_equals_the_formula(case):
    x, boxes, size, g = case
    check_rungs(crop, x, boxes, size, tolerance32=1e-4)
    check_rungs(crop_image_grad, g, boxes, x.shape, tolerance32=1e-4)
    # In float32 a sample may fall on the other side of a kink, where the slope is another one.
    check_rungs(crop_box_grad, g, x, boxes, tolerance32=1e6)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_image_gradient_is_the_adjoint(case):
    x, boxes, size, g = case
    check_adjoint(
        lambda x: crop(x, boxes, size), lambda g: crop_image_grad(g, boxes, x.shape), x, g
    )


def test_box_gradient_against_finite_differences(rng=np.random.default_rng(0)):
    x = rng.standard_normal((2, 6, 7, 2))
    boxes = np.array([[0.3, 1.2, 4.4, 3.7], [-2.1, -1.3, 11.7, 9.1]])  # no sample on a centre
    g = rng.standard_normal((2, 3, 4, 2))
    check_rungs(crop_box_grad, g, x, boxes)
    numeric = numeric_gradient(lambda boxes: crop(x, boxes, (3, 4)), boxes, g)
    np.testing.assert_allclose(crop_box_grad(g, x, boxes), numeric, atol=1e-6)


def test_box_gradient_at_a_kink_is_the_slope_to_the_right():
    x = np.array([0.0, 1.0, 5.0]).reshape(1, 1, 3, 1)
    slope = crop_box_grad(np.ones((1, 1, 1, 1)), x, np.array([[1.0, 0.0, 1.0, 1.0]]))
    assert slope[0, 0] == 4  # from 1 to 5, not from 0 to 1


def test_the_whole_box_is_the_image(rng=np.random.default_rng(1)):
    x = rng.standard_normal((1, 5, 7, 3))
    np.testing.assert_allclose(crop(x, np.array([[0.0, 0, 7, 5]]), (5, 7)), x, rtol=1e-12)


def test_whole_pixels_are_a_slice_and_outside_is_zero(rng=np.random.default_rng(2)):
    x = rng.integers(1, 255, (1, 5, 7, 3)).astype(np.uint8)
    y = crop(x, np.array([[2.0, 1, 3, 4]]), (4, 3))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y[0], x[0, 1:5, 2:5])
    y = crop(x, np.array([[5.0, 3, 4, 4]]), (4, 4))
    np.testing.assert_array_equal(y[0, :2, :2], x[0, 3:, 5:])
    assert not y[0, 2:].any() and not y[0, :, 2:].any()
    assert not crop(x, np.array([[1e30, -1e30, 4, 4]]), (4, 4)).any()
    with np.errstate(over="ignore"):
        assert not crop(x, np.array([[3e38, 0, 3e38, 4]], np.float32), (4, 4)).any()


@pytest.mark.parametrize("size", [(4, 5), (16, 9), (11, 30)])
def test_against_opencv(size, rng=np.random.default_rng(3)):
    """cv2.resize repeats the border, crop fades to zero: the same where no sample is outside."""
    cv2 = pytest.importorskip("cv2")
    x = rng.standard_normal((1, 12, 20, 3)).astype(np.float32)
    box = np.array([[4.0, 3.0, 10.0, 6.0]])
    # A box inside the image, resized together with its surroundings to know its neighbours.
    step_v, step_u = 6 / size[0], 10 / size[1]
    matrix = np.array([[step_u, 0, 4 + step_u / 2 - 0.5], [0, step_v, 3 + step_v / 2 - 0.5]])
    inverse = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    theirs = cv2.warpAffine(x[0], matrix, size[::-1], flags=inverse)
    # OpenCV rounds coordinates to 1/32 of a pixel.
    np.testing.assert_allclose(crop(x, box, size)[0], theirs, atol=0.15)
    smooth = np.linspace(0, 1, 20, dtype=np.float32)[None, None, :, None] * np.ones((1, 12, 1, 1))
    exact = (4 + (np.arange(size[1]) + 0.5) * 10 / size[1] - 0.5) / 19
    np.testing.assert_allclose(crop(smooth, box, size)[0, 0, :, 0], exact, rtol=1e-5)


def test_against_pytorch(rng=np.random.default_rng(4)):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 6, 7, 3))
    boxes = np.array([[0.3, 1.2, 4.4, 3.7], [-2.1, -1.3, 11.7, 9.1]])
    oh, ow = 5, 4
    # grid_sample counts from -1 to 1 across the image; its samples outside are zeros too.
    u = boxes[:, 0, None] + (np.arange(ow) + 0.5) * boxes[:, 2, None] / ow
    v = boxes[:, 1, None] + (np.arange(oh) + 0.5) * boxes[:, 3, None] / oh
    grid = np.empty((2, oh, ow, 2))
    grid[..., 0] = (2 * u / 7 - 1)[:, None, :]
    grid[..., 1] = (2 * v / 6 - 1)[:, :, None]
    tx = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    ty = torch.nn.functional.grid_sample(tx, torch.from_numpy(grid), align_corners=False)
    np.testing.assert_allclose(
        crop(x, boxes, (oh, ow)), ty.permute(0, 2, 3, 1).detach().numpy(), atol=1e-12
    )
    g = rng.standard_normal((2, oh, ow, 3))
    (dx,) = torch.autograd.grad(ty, tx, torch.from_numpy(g).permute(0, 3, 1, 2))
    np.testing.assert_allclose(
        crop_image_grad(g, boxes, x.shape), dx.permute(0, 2, 3, 1).numpy(), atol=1e-12
    )


def test_a_crop_of_a_large_frame_reads_only_the_crop():
    """It takes as long as the same crop of a small frame, in turns; converting 1080p to floats
    takes many times as long."""
    frame = np.zeros((1, 1080, 1920, 3), np.uint8)
    frames = {"large": frame, "small": np.ascontiguousarray(frame[:, :300, :300])}
    boxes = {"large": [800.0, 300.0, 250.0, 250.0], "small": [20.0, 30.0, 250.0, 250.0]}
    times = {"large": [], "small": []}
    for _ in range(15):
        for name, values in times.items():
            start = time.process_time()
            crop(frames[name], np.array([boxes[name]]), (32, 32))  # too little to be divided
            values.append(time.process_time() - start)
    assert min(times["large"]) < 3 * min(times["small"])


@pytest.mark.parametrize(
    "box, message",
    [
        ([0, 0, np.nan, 2], "box 1 is"),
        ([0, np.inf, 2, 2], "finite"),
        ([0, 0, 0, 2], "w, h > 0"),
        ([0, 0, 2, -1], "w, h > 0"),
    ],
)
def test_impossible_boxes(box, message):
    boxes = np.array([[0.0, 0, 2, 2], box])
    with pytest.raises(ValueError, match=message):
        crop(np.ones((1, 4, 4, 1)), boxes, 3)


@pytest.mark.parametrize(
    "x, boxes, message",
    [
        (np.ones((4, 4, 1)), np.ones((1, 4)), "axes"),
        (np.ones((3, 4, 4, 1)), np.ones((2, 4)), "N = 3 images"),
        (np.ones((1, 4, 4, 1)), np.ones((2, 4), int), "floating point"),
        (np.ones((1, 4, 4, 1), np.int16), np.ones((2, 4)), "uint8"),
        (np.ones((1, 0, 4, 1)), np.ones((2, 4)), "without pixels"),
        (np.ones((1, 4, 4, 1)), [[0, 0, 1, 1]], "numpy.asarray"),
    ],
)
def test_errors_say_what_is_wrong(x, boxes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        crop(x, boxes, (2, 2))
