"""Pooling and its gradients: every rung against the formula, the formula against PyTorch."""

import numpy as np
import pytest
from check_rungs import check_adjoint, check_rungs, numeric_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad, max_pool2d_pick


@st.composite
def cases(draw, ties=True):
    """(x, u like x, g like the output, arguments); x has ties if asked, -inf and NaN sometimes."""
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.one_of(st.none(), st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * 2)))
    sides = [st.tuples(st.integers(0, s - 1), st.integers(0, s - 1)) for s in size]
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.just(0), st.tuples(*sides)))
    height, width = (draw(st.integers(s, s + 4)) for s in size)
    shape = (draw(st.integers(0, 2)), height, width, draw(st.integers(0, 2)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if ties:
        x = rng.integers(0, 3, shape).astype(float)
        special = draw(st.sampled_from([0.0, -np.inf, np.nan]))
        x[x == 0] = special
    else:
        x = rng.permutation(np.prod(shape)).reshape(shape) / 10.0
    arguments = {"size": size, "stride": stride, "padding": padding}
    g = rng.standard_normal(avg_pool2d(x, **arguments).shape)
    return x, rng.standard_normal(shape), g, arguments


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_rung_equals_the_formula(case):
    x, u, g, arguments = case
    y, winners = check_rungs(max_pool2d, x, keep=True, **arguments)
    np.testing.assert_array_equal(check_rungs(max_pool2d, x, **arguments), y)
    check_rungs(max_pool2d_grad, g, winners, x.shape, **arguments)
    check_rungs(max_pool2d_pick, u, winners, **arguments)
    check_rungs(avg_pool2d, u, **arguments)
    check_rungs(avg_pool2d_grad, g, x.shape, **arguments)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_adjoints(case):
    x, u, g, arguments = case
    _, winners = max_pool2d(x, keep=True, **arguments)
    check_adjoint(
        lambda u: max_pool2d_pick(u, winners, **arguments),
        lambda g: max_pool2d_grad(g, winners, x.shape, **arguments),
        u,
        g,
    )
    check_adjoint(
        lambda u: avg_pool2d(u, **arguments),
        lambda g: avg_pool2d_grad(g, x.shape, **arguments),
        u,
        g,
    )


@settings(max_examples=20, deadline=None)
@given(cases(ties=False))
def test_gradient_of_max_against_finite_differences(case):
    x, _, g, arguments = case
    numeric = numeric_gradient(lambda x: max_pool2d(x, **arguments), x, g, step=1e-3)
    np.testing.assert_allclose(gradient_of_max(g, x, **arguments), numeric, atol=1e-9)


def gradient_of_max(g, x, *args, **kwargs):
    """Without `keep` in between."""
    _, winners = max_pool2d(x, *args, **kwargs, keep=True)
    return max_pool2d_grad(g, winners, x.shape, *args, **kwargs)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_picking_from_x_itself_is_the_maximum(case):
    x, _, _, arguments = case
    y, winners = max_pool2d(x, keep=True, **arguments)
    np.testing.assert_array_equal(max_pool2d_pick(x, winners, **arguments), y)


@pytest.mark.parametrize("size, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), 1, 0)])
def test_against_pytorch(size, stride, padding, rng=np.random.default_rng(0)):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = rng.standard_normal((2, 7, 8, 3))
    tx = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    peers = [
        (max_pool2d, gradient_of_max, x, functional.max_pool2d(tx, size, stride, padding)),
        (
            avg_pool2d,
            avg_pool2d_grad,
            x.shape,
            functional.avg_pool2d(tx, size, stride, padding, count_include_pad=False),
        ),
    ]
    for forward, backward, second, ty in peers:
        y = forward(x, size, stride, padding)
        np.testing.assert_allclose(y, ty.permute(0, 2, 3, 1).detach().numpy(), rtol=1e-12)
        g = rng.standard_normal(y.shape)
        (dx,) = torch.autograd.grad(ty, tx, torch.from_numpy(g).permute(0, 3, 1, 2))
        ours = backward(g, second, size, stride, padding)
        np.testing.assert_allclose(ours, dx.permute(0, 2, 3, 1).numpy(), rtol=1e-12)


@pytest.mark.parametrize("shape, dtype", [((1, 741, 515, 32), np.float32),
                                          ((2, 525, 724, 17), np.float32),
                                          ((1, 515, 741, 32), np.float64)])
def test_a_result_that_no_cache_keeps(shape, dtype):
    """It is written past the caches, where its lines are whole."""
    x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(dtype)
    y = max_pool2d(x, 2)
    assert y.size > 2**21 and x.size < 2**24       # whole numbers that float32 tells apart
    h, w = (2 * (side // 2) for side in shape[1:3])
    rows = np.maximum(x[:, 0:h:2, :w], x[:, 1:h:2, :w])
    np.testing.assert_array_equal(y, np.maximum(rows[:, :, 0::2], rows[:, :, 1::2]))
    g = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    dx, ones = gradient_of_max(g, x, 2), np.ones((1, 2, 2, 1), dtype)
    assert not dx[:, h:].any() and not dx[:, :, w:].any()
    won = x[:, :h, :w] == np.kron(y, ones)
    np.testing.assert_array_equal(dx[:, :h, :w], np.where(won, np.kron(g, ones), 0))


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = np.zeros((1, 2, 2, 1))
    x[0, 0, 1, 0] = x[0, 1, 0, 0] = 5
    dx = gradient_of_max(np.ones((1, 1, 1, 1)), x, 2)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 1], [0, 0]])


def test_a_gradient_goes_to_one_pixel_only():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    _, winners = max_pool2d(x, 2, keep=True)
    infinite = np.full((1, 2, 2, 1), np.inf, np.float32)  # times 0 it would be NaN
    dx = check_rungs(max_pool2d_grad, infinite, winners, x.shape, 2)
    np.testing.assert_array_equal(dx[0, :, :, 0] == np.inf, np.kron(np.ones((2, 2)), [[0, 0], [0, 1]]))
    assert not np.isnan(dx).any()


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (1, 300)])
@pytest.mark.parametrize("channels", [1, 16, 20])
def test_large_windows_have_large_numbers(size, channels):
    x = np.random.default_rng(0).permutation(40 * 310 * channels).reshape(1, 40, 310, channels)
    x = x.astype(float) / 1000
    y, winners = check_rungs(max_pool2d, x, size, 5, 0, True)
    assert winners.dtype == (np.uint8 if size == (16, 16) else np.int32)
    assert winners.max() > 200
    check_rungs(max_pool2d_grad, y, winners, x.shape, size, 5)
    check_rungs(max_pool2d_pick, x, winners, size, 5)


def test_nan_is_not_hidden():
    x = np.zeros((1, 2, 2, 1))
    x[0, 1, 0, 0] = np.nan
    assert np.isnan(max_pool2d(x, 2)).all()
    dx = gradient_of_max(np.ones((1, 1, 1, 1)), x, 2)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 0], [1, 0]])


def test_more_pixels_than_float32_counts():
    one, shape = np.zeros((1, 1, 1, 1), np.float32), (1, 4200, 4200, 1)
    for op, args in ((max_pool2d_grad, (one, one.astype(np.int32), shape, 4200)),
                     (max_pool2d_pick, (np.broadcast_to(one, shape), one.astype(np.int32), 4200)),
                     (max_pool2d, (np.broadcast_to(one, shape), 4200, None, 0, True))):
        assert "2^24 pixels" in op.rungs["compiled"].refusal("cpu", op.contract(*args))


def test_padding_does_not_count_in_the_mean():
    y = avg_pool2d(np.ones((1, 3, 3, 1)), 2, 2, "same")
    np.testing.assert_array_equal(y, np.ones((1, 2, 2, 1)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.ones((1, 4, 4, 1)), 2, 2, 2), "must be smaller than the window"),
        ((np.ones((1, 4, 4, 1)), 5), "does not fit"),
        ((np.ones((1, 4, 4, 1)), 0), "size must be at least 1"),
        ((np.ones((4, 4, 1)), 2), "4 axes"),
        ((np.ones((1, 4, 4, 1), int), 2), "floating point"),
        (([1.0], 2), "numpy.asarray"),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    for op in (max_pool2d, avg_pool2d):
        with pytest.raises((ValueError, TypeError), match=message):
            op(*arguments)
    x, g = np.ones((1, 4, 4, 1)), np.ones((1, 2, 2, 1))
    winners = np.zeros((1, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match=r"g must have shape \(1, 2, 2, 1\)"):
        max_pool2d_grad(np.ones((1, 3, 2, 1)), winners, x.shape, 2)
    with pytest.raises(ValueError, match=r"winners must have shape \(1, 2, 2, 1\)"):
        max_pool2d_grad(g, winners[:, 1:], x.shape, 2)
    for wrong in (g, [[0]]):
        with pytest.raises(TypeError, match="what max_pool2d.*keep=True"):
            max_pool2d_pick(x, wrong, 2)
