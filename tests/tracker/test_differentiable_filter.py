"""The filter op is ridge regression, and its gradients are those of the same thing op by op."""

import numpy as np
import pytest

import minideep
from minideep import tensor
from tracker.differentiable_filter import _response_in_ops, filter_response


def arrays(rng, h, w, labels="each", n=2, c=3):
    label = rng.normal(size=(n, h, w) if labels == "each" else (h, w))
    return [rng.normal(size=(n, h, w, c)), rng.normal(size=(n, h, w, c)), label, rng.random(n) + .5]


def tensors(values, requires_grad=True):
    return [tensor(v, "float64", requires_grad) for v in values]


def ridge_regression(x, z, y, penalty, mask):
    """One map's answer in matrices: f minimises ‖A f - y‖² + λ‖f‖², A the circulant of x."""
    h, w, c = x.shape
    cells = [(i, j) for i in range(h) for j in range(w)]

    def circulant(maps):        # row: a cell of the answer; column: a weight (shift, channel)
        return np.array([[maps[(i - k) % h, (j - m) % w, ch] for k, m in cells for ch in range(c)]
                         for i, j in cells])

    a = circulant(x)
    f = a.T @ np.linalg.solve(a @ a.T + penalty * np.eye(h * w), y.ravel())
    f = f.reshape(h, w, c) * (1 if mask is None else mask[..., None])
    return (circulant(z) @ f.ravel()).reshape(h, w)


@pytest.mark.parametrize("h, w", [(6, 6), (5, 7)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_ridge_regression(h, w, masked):
    rng = np.random.default_rng(0)
    x, z, y, penalty = arrays(rng, h, w)
    mask = rng.random((2, h, w)) if masked else None
    r = filter_response(*tensors((x, z, y, penalty)), mask).numpy()
    for k in range(2):
        expected = ridge_regression(x[k], z[k], y[k], penalty[k], mask[k] if masked else None)
        np.testing.assert_allclose(r[k], expected, atol=1e-12)


@pytest.mark.parametrize("h, w", [(6, 8), (5, 7)])
@pytest.mark.parametrize("labels", ["each", "one"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_the_composite_and_of_differences(h, w, labels, masked):
    rng = np.random.default_rng(1)
    values = arrays(rng, h, w, labels)
    mask = rng.random((2, h, w)) if masked else None
    g = rng.normal(size=(2, h, w))
    fused, composite = tensors(values), tensors(values)
    filter_response(*fused, mask).backward(tensor(g, "float64"))
    there = None if mask is None else tensor(mask).data
    _response_in_ops(*composite, there).backward(tensor(g, "float64"))
    for a, b in zip(fused, composite):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-11)

    def loss(changed):
        return (filter_response(*tensors(changed, False), mask).numpy() * g).sum()

    step = 1e-5
    for i, value in enumerate(values):
        for _ in range(4):
            at = tuple(rng.integers(s) for s in value.shape)
            up, down = [v.copy() for v in values], [v.copy() for v in values]
            up[i][at] += step
            down[i][at] -= step
            expected = (loss(up) - loss(down)) / (2 * step)
            assert fused[i].grad.numpy()[at] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_second_derivatives():
    """The gradient of ‖∂r/∂x‖² against central differences."""
    rng = np.random.default_rng(2)
    x, z, y, penalty = arrays(rng, 4, 5, n=1, c=2)
    mask = rng.random((1, 4, 5))

    def penalised(a, create_graph):
        t = tensors((a, z, y, penalty))
        r = filter_response(*t, mask)
        (g,) = minideep.grad((r * r).sum(), [t[0]], create_graph=create_graph)
        return t[0], (g * g).sum()

    leaf, value = penalised(x, True)
    value.backward()
    for _ in range(4):
        at = tuple(rng.integers(s) for s in x.shape)
        step = np.zeros_like(x)
        step[at] = 1e-5
        difference = penalised(x + step, False)[1].item() - penalised(x - step, False)[1].item()
        assert leaf.grad.numpy()[at] == pytest.approx(difference / 2e-5, rel=1e-5, abs=1e-6)


def test_it_answers_the_label_and_follows_a_shift():
    rng = np.random.default_rng(3)
    x, _, y, _ = arrays(rng, 8, 8)
    little = np.full(2, 1e-9)
    r = filter_response(*tensors((x, x, y, little))).numpy()
    np.testing.assert_allclose(r, y, atol=1e-6)
    shifted = np.roll(x, (2, -3), (1, 2))
    r = filter_response(*tensors((x, shifted, y, little))).numpy()
    np.testing.assert_allclose(r, np.roll(y, (2, -3), (1, 2)), atol=1e-6)


def test_float32_stays_and_is_close():
    rng = np.random.default_rng(4)
    values = arrays(rng, 8, 8)
    exact = filter_response(*tensors(values)).numpy()
    single = filter_response(*[tensor(v.astype(np.float32)) for v in values]).numpy()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=1e-4)


def test_a_graph_may_be_gone_through_twice():
    values = tensors(arrays(np.random.default_rng(5), 6, 6))
    loss = (filter_response(*values) ** 2).sum()
    loss.backward(retain_graph=True)
    once = values[0].grad.numpy().copy()
    loss.backward()
    np.testing.assert_array_equal(values[0].grad.numpy(), 2 * once)


def test_wrong_shapes_are_refused():
    x, z, y, penalty = tensors(arrays(np.random.default_rng(6), 6, 6))
    with pytest.raises(ValueError, match="wants search maps of the same shape"):
        filter_response(x, z[:, :5], y, penalty)
    with pytest.raises(ValueError, match=r"penalties \(N,\)"):
        filter_response(x, z, y, penalty[:1])
    with pytest.raises(ValueError, match="masks"):
        filter_response(x, z, y, penalty, np.ones((6, 6)))
