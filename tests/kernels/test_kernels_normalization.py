"""Normalisation by groups: every rung against the formula, the formula against PyTorch."""

import numpy as np
import pytest
from check_rungs import check_rungs, numeric_gradient
from hypothesis import given
from hypothesis import strategies as st

from kernels import moments, normalize, normalize_grad

SHAPES = [(1, 1, 1, 1), (2, 1, 6, 1), (3, 1, 40, 1), (0, 2, 4, 2), (1, 7, 3, 3), (2, 5, 6, 3),
          (1, 300, 17, 17), (2, 131, 18, 6), (3, 2, 32, 1), (2, 3, 40, 20)]  # fmt: skip


def arguments(shape, mean, seed):
    *shape, groups = shape
    rng = np.random.default_rng(seed)
    x, g = mean + rng.standard_normal(shape), rng.standard_normal(shape)
    gamma, beta = rng.standard_normal((2, shape[2]))
    return x, g, gamma, beta, groups


@given(st.sampled_from(SHAPES), st.sampled_from([0.0, 5.0]), st.integers(0, 99))
def test_every_rung_equals_the_formula(shape, mean, seed):
    x, g, gamma, beta, groups = arguments(shape, mean, seed)
    found = check_rungs(moments, x, groups, tolerance32=3e-6)
    check_rungs(normalize, x, found, gamma, beta, 0.01, tolerance32=3e-5)
    # Sums over all pixels of terms that cancel: so many roundings.
    tolerance = 1e-5 * max(1, np.sqrt(x.shape[0] * x.shape[1]))
    check_rungs(normalize_grad, g, x, found, gamma, 0.01, tolerance32=tolerance)


def test_a_large_mean_costs_no_digits():
    x = (1000 + np.random.default_rng(0).standard_normal((1, 5000, 20))).astype(np.float32)
    exact = x.astype(np.float64)
    for groups in (20, 1):
        found = moments(x, groups)
        want = moments.rungs["array"](exact, groups)
        np.testing.assert_allclose(found[0], want[0], rtol=1e-7)
        np.testing.assert_allclose(found[1], want[1], rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (1, 6, 3, 3), (3, 1, 5, 1)])
def test_gradients_against_finite_differences(shape):
    x, g, gamma, beta, groups = arguments(shape, 1, 0)

    def forward(x, gamma, beta):
        return normalize(x, moments(x, groups), gamma, beta, 0.1)

    dx, dgamma, dbeta = normalize_grad(g, x, moments(x, groups), gamma, 0.1)
    for got, f, at in [(dx, lambda x: forward(x, gamma, beta), x),
                       (dgamma, lambda gamma: forward(x, gamma, beta), gamma),
                       (dbeta, lambda beta: forward(x, gamma, beta), beta)]:  # fmt: skip
        np.testing.assert_allclose(got, numeric_gradient(f, at, g), atol=1e-7)


@pytest.mark.parametrize("kind", ["group", "batch", "layer"])
def test_against_pytorch(kind):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    image, g = rng.standard_normal((2, 4, 7, 5, 6))  # (N, H, W, C)
    gamma, beta = rng.standard_normal((2, 6))
    tensors = x, weight, bias = [torch.from_numpy(a).requires_grad_() for a in (image, gamma, beta)]
    if kind == "layer":
        theirs = torch.nn.functional.layer_norm(x, (6,), weight, bias, 1e-3)
        ours, groups = image.reshape(-1, 1, 6), 1
    elif kind == "batch":
        theirs = torch.nn.functional.batch_norm(
            x.permute(0, 3, 1, 2), None, None, weight, bias, training=True, eps=1e-3
        ).permute(0, 2, 3, 1)
        ours, groups = image.reshape(1, -1, 6), 6
    else:
        theirs = torch.nn.functional.group_norm(
            x.permute(0, 3, 1, 2), 3, weight, bias, 1e-3
        ).permute(0, 2, 3, 1)
        ours, groups = image.reshape(4, -1, 6), 3
    found = moments(ours, groups)
    y = normalize(ours, found, gamma, beta).reshape(image.shape)
    np.testing.assert_allclose(y, theirs.detach(), atol=1e-12)
    gradients = normalize_grad(g.reshape(ours.shape), ours, found, gamma)
    for got, want in zip(gradients, torch.autograd.grad(theirs, tensors, torch.from_numpy(g))):
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-11)


def test_errors_say_what_is_wrong():
    x, g, gamma, beta, _ = arguments((2, 3, 6, 3), 0, 0)
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 groups"):
        moments(x, 4)
    with pytest.raises(ValueError, match="no mean of no numbers"):
        moments(x[:, :0], 2)
    with pytest.raises(ValueError, match=r"x must have shape \(N, P, C\), got \(3, 6\)"):
        moments(x[0], 2)
    found = moments(x, 3)
    with pytest.raises(ValueError, match=r"gamma must have shape \(6\), got \(5,\)"):
        normalize(x, found, gamma[:5], beta)
    with pytest.raises(ValueError, match=r"moments must have shape \(2, 2, G\)"):
        normalize(x, found[:, :1], gamma, beta)
    with pytest.raises(ValueError, match=r"g must have shape \(2, 3, 6\)"):
        normalize_grad(g[:1], x, found, gamma)
    with pytest.raises(TypeError, match="floating point"):
        moments(x.astype(int), 2)
