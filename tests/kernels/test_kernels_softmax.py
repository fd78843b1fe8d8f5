"""Softmax and the cross-entropies: every rung against the formula, the formula against others."""

import numpy as np
import pytest
from check_rungs import check_rungs, numeric_gradient
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels.jit import problem

SHAPES = [(1,), (3,), (0, 4), (2, 1), (5, 16), (4, 17), (2, 3, 33), (3, 100), (1, 1000)]
NAMES = """softmax softmax_grad log_softmax log_softmax_grad softmax_crossentropy
softmax_crossentropy_grad sigmoid_crossentropy sigmoid_crossentropy_grad""".split()


def arguments(shape, scale, seed):
    """What each of NAMES takes."""
    rng = np.random.default_rng(seed)
    x, g = scale * rng.standard_normal(shape), rng.standard_normal(shape)
    labels, targets = rng.integers(0, shape[-1], shape[:-1]), rng.random(shape)
    rows = np.array(rng.standard_normal(shape[:-1]))
    y, log_y = kernels.softmax(x), kernels.log_softmax(x)
    return [(x,), (g, y), (x,), (g, log_y), (x, labels), (rows, x, labels), (x, targets),
            (g, x, targets)]  # fmt: skip


@given(st.sampled_from(SHAPES), st.sampled_from([0, 1, 30, 1e4]), st.integers(0, 99))
def test_every_rung_equals_the_formula(shape, scale, seed):
    for name, args in zip(NAMES, arguments(shape, scale, seed)):
        check_rungs(kernels.ladders()[name], *args, tolerance32=2e-6)


@pytest.mark.parametrize("rung", ["array", "compiled"])
@pytest.mark.parametrize("shape", [(7, 16), (3, 37)])
def test_float32_against_scipy(rung, shape):
    if rung == "compiled" and problem():
        pytest.skip(problem())
    special = pytest.importorskip("scipy.special")
    x = (10 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    exact = x.astype(float)
    with kernels.use(softmax=rung, log_softmax=rung):
        y, log_y = kernels.softmax(x), kernels.log_softmax(x)
    np.testing.assert_allclose(y, special.softmax(exact, axis=-1), rtol=5e-6)
    np.testing.assert_allclose(log_y, special.log_softmax(exact, axis=-1), rtol=1e-6, atol=1e-6)


def test_gradients_against_finite_differences():
    (x,), (g, y), _, (_, log_y), (_, labels), (rows, *_), (_, targets), _ = arguments((3, 5), 2, 0)
    for function, got, weight in [
        (kernels.softmax, kernels.softmax_grad(g, y), g),
        (kernels.log_softmax, kernels.log_softmax_grad(g, log_y), g),
        (lambda x: kernels.softmax_crossentropy(x, labels),
         kernels.softmax_crossentropy_grad(rows, x, labels), rows),
        (lambda x: kernels.sigmoid_crossentropy(x, targets),
         kernels.sigmoid_crossentropy_grad(g, x, targets), g),
    ]:  # fmt: skip
        np.testing.assert_allclose(got, numeric_gradient(function, x, weight), atol=1e-8)


def test_against_pytorch():
    torch = pytest.importorskip("torch")
    (x,), _, _, _, (_, labels), (rows, *_), (_, targets), (g, *_) = arguments((6, 9), 5, 1)
    z = torch.from_numpy(x).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z, torch.from_numpy(labels), reduction="none")
    (dz,) = torch.autograd.grad(loss, z, torch.from_numpy(rows))
    np.testing.assert_allclose(kernels.softmax_crossentropy(x, labels), loss.detach(), rtol=1e-12)
    np.testing.assert_allclose(
        kernels.softmax_crossentropy_grad(rows, x, labels), dz, rtol=1e-9, atol=1e-15
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        z, torch.from_numpy(targets), reduction="none"
    )
    (dz,) = torch.autograd.grad(loss, z, torch.from_numpy(g))
    np.testing.assert_allclose(kernels.sigmoid_crossentropy(x, targets), loss.detach(), rtol=1e-12)
    np.testing.assert_allclose(kernels.sigmoid_crossentropy_grad(g, x, targets), dz, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [3, 16, 20])
def test_extreme_numbers(dtype, size):
    x = np.zeros((4, size), dtype)
    x[0, 1], x[1, :2], x[2, -1], x[3] = np.inf, -np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        y, log_y = kernels.softmax(x), kernels.log_softmax(x)
    for result in (y, np.exp(log_y)):
        assert np.isnan(result[[0, 2, 3]]).any(axis=1).all()
        np.testing.assert_allclose(result[1], [0, 0, *[1 / (size - 2)] * (size - 2)], rtol=1e-6)
    z = np.array([-np.inf, -1e4, -100, 0, 100, 1e4], dtype)
    loss = kernels.sigmoid_crossentropy(z[1:], np.zeros(5, dtype))
    np.testing.assert_allclose(loss, [0, 0, np.log(2), 100, 1e4], rtol=1e-6, atol=1e-30)
    assert (kernels.softmax(np.array([[0], [1e30]], dtype)) == 1).all()  # of one number


def test_errors_say_what_is_wrong():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"lie in 0 \.\.\. 2, as there are 3 classes; got 0 ... 3"):
        kernels.softmax_crossentropy(x, np.array([0, 3]))
    with pytest.raises(TypeError, match="int64"):
        kernels.softmax_crossentropy(x, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"shape of the logits without the last axis, \(2,\)"):
        kernels.softmax_crossentropy(x, np.array([[0, 1]]))
    with pytest.raises(ValueError, match=r"g must have the shape of the labels, \(2,\)"):
        kernels.softmax_crossentropy_grad(x, x, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"targets must have the shape of logits, \(2, 3\)"):
        kernels.sigmoid_crossentropy(x, x[:1])
    with pytest.raises(ValueError, match="one number or more"):
        kernels.softmax(np.ones((2, 0)))
    with pytest.raises(TypeError, match="floating point"):
        kernels.softmax(np.ones(2, int))
    with pytest.raises(TypeError, match="numpy.asarray"):
        kernels.softmax([1.0])
