"""Recurrent cells over sequences: every rung against the formula, the formula against others."""

import warnings

import numpy as np
import pytest
from check_rungs import check_rungs, numeric_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.recurrent import sigmoid, through_gate

CELLS = {"rnn": 1, "gru": 3, "lstm": 4}  # and how many blocks of units R has


def case(cell, seed=0, n=2, t=3, u=3, masked=False, scale=1.0):
    """(arguments, mask): the arrays that `cell` takes, at random."""
    rng = np.random.default_rng(seed)
    blocks = CELLS[cell]
    xw = scale * rng.standard_normal((n, t, blocks * u))
    state = [rng.standard_normal((n, u)) for _ in range(2 if cell == "lstm" else 1)]
    weights = [rng.standard_normal((u, blocks * u))]
    if cell == "gru":
        weights.append(rng.standard_normal(blocks * u))
    mask = rng.random((n, t)) < 0.6 if masked else None
    return [xw, *state, *weights], mask


def ops(cell):
    return kernels.ladders()[cell], kernels.ladders()[cell + "_grad"]


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3),
    t=st.integers(0, 4),
    u=st.integers(1, 4),
    masked=st.booleans(),
    gate=st.sampled_from([None, (0.5, None), (1.0, 0.3), (0.0, None), (2.0, 1.0)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_rung_equals_the_formula(cell, n, t, u, masked, gate, seed):
    forward, backward = ops(cell)
    arguments, mask = case(cell, seed, n, t, u, masked)
    states = check_rungs(forward, *arguments, mask, gate)
    g = np.random.default_rng(seed + 1).standard_normal(states.shape)
    check_rungs(backward, g, states, *arguments, mask, gate, tolerance32=1e-4)
    if cell == "lstm":
        states, gates = check_rungs(forward, *arguments, mask, gate, keep=True)
        check_rungs(backward, g, states, *arguments, mask, gate, gates, tolerance32=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_against_finite_differences(cell, masked):
    forward, backward = ops(cell)
    arguments, mask = case(cell, seed=3, n=2, t=4, u=2, masked=masked)
    states = forward(*arguments, mask)
    g = np.random.default_rng(4).standard_normal(states.shape)
    gradients = backward(g, states, *arguments, mask)
    assert len(gradients) == len(arguments)
    for i, gradient in enumerate(gradients):

        def f(value, i=i):
            with kernels.use(**{cell: "formula"}):
                return forward(*arguments[:i], value, *arguments[i + 1 :], mask)

        numeric = numeric_gradient(f, arguments[i], g)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_where_the_mask_is_false_the_state_is_carried(cell):
    forward, _ = ops(cell)
    arguments, _ = case(cell, n=1, t=4)
    mask = np.array([[False, True, False, True]])
    states = np.atleast_3d(forward(*arguments, mask)).reshape(-1, 1, 4, 3)
    for component, first in zip(states, arguments[1:]):
        np.testing.assert_array_equal(component[:, 0], first)
        np.testing.assert_array_equal(component[:, 2], component[:, 1])
    short = [arguments[0][:, 1::2], *arguments[1:]]  # the same as leaving these steps out
    expected = np.atleast_3d(forward(*short)).reshape(-1, 1, 2, 3)
    np.testing.assert_allclose(states[:, :, 1::2], expected, rtol=1e-12)


@pytest.mark.parametrize("gate", [(0.5, None), (1.0, 0.1), (2.0, 0.4)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_gate_acts_between_steps(cell, masked, gate):
    """One step at a time, with the gate applied by hand to what comes back from each cell."""
    forward, backward = ops(cell)
    arguments, mask = case(cell, seed=5, n=2, t=4, u=3, masked=masked)
    states = forward(*arguments, mask, gate)
    np.testing.assert_array_equal(states, forward(*arguments, mask))  # identity forward
    g = np.random.default_rng(6).standard_normal(states.shape)
    whole = backward(g, states, *arguments, mask, gate)

    lstm = cell == "lstm"
    several = states if lstm else states[None]  # (1 or 2, N, T, U)
    several_g = g if lstm else g[None]
    xw, *first = arguments[: 1 + len(several)]
    weights = arguments[1 + len(several) :]
    flowing = np.zeros((len(several), 2, 3))
    d_weights = [np.zeros_like(w) for w in weights]
    dxw = np.zeros_like(xw)
    for t in reversed(range(4)):
        flowing = flowing + several_g[:, :, t]
        entering = [s[:, t - 1] for s in several] if t else first
        step = [xw[:, t : t + 1], *entering, *weights]
        here = np.ones(2, bool) if mask is None else mask[:, t]
        one_g = np.where(here[None, :, None], flowing, 0)[:, :, None]
        one_states = forward(*step)
        d_step = backward(one_g if lstm else one_g[0], one_states, *step)
        dxw[:, t] = d_step[0][:, 0]
        for total, part in zip(d_weights, d_step[1 + len(several) :]):
            total += part
        for k in range(len(several)):
            back = gate[0] * d_step[1 + k]
            if gate[1] is not None:
                norm = np.linalg.norm(back, axis=1, keepdims=True)
                back = np.where(norm > gate[1], back * gate[1] / np.maximum(norm, 1e-30), back)
            flowing[k] = np.where(here[:, None], back, flowing[k])
    for got, want in zip(whole, [dxw, *flowing, *d_weights], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_a_limited_gradient_keeps_its_direction():
    gradient = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    limited = through_gate(np, gradient, (1.0, 1.0))
    np.testing.assert_allclose(limited, [[0.6, 0.8], [0.3, 0.4], [0, 0]])
    np.testing.assert_allclose(through_gate(np, gradient, (0.5, None)), gradient / 2)


@pytest.mark.parametrize("cell", CELLS)
def test_large_numbers_do_not_overflow(cell):
    forward, backward = ops(cell)
    arguments, _ = case(cell, scale=1e4)
    arguments = [a.astype(np.float32) for a in arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states = forward(*arguments)
        gradients = backward(np.ones_like(states), states, *arguments)
        assert sigmoid(np, np.float32(-1e30)) == 0 and sigmoid(np, np.float32(1e30)) == 1
    assert all(np.isfinite(a).all() for a in (states, *gradients))


def test_lstm_against_pytorch(rng=np.random.default_rng(7)):
    torch = pytest.importorskip("torch")
    n, t, d, u = 2, 5, 3, 4
    layer = torch.nn.LSTM(d, u, batch_first=True, dtype=torch.float64)
    ours_from_theirs = [0, 1, 2, 3]  # both have i, f, c (called g), o
    W, R = (_from_torch(p, ours_from_theirs) for p in (layer.weight_ih_l0, layer.weight_hh_l0))
    b = _from_torch(layer.bias_ih_l0 + layer.bias_hh_l0, ours_from_theirs)
    x, h0, c0, g = (rng.standard_normal(s) for s in [(n, t, d), (n, u), (n, u), (n, t, u)])
    tx, th, tc = (torch.from_numpy(a).requires_grad_() for a in (x, h0, c0))
    hs, (_, last_c) = layer(tx, (th[None], tc[None]))
    xw = x @ W + b
    states = kernels.lstm(xw, h0, c0, R)
    np.testing.assert_allclose(states[0], hs.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(states[1][:, -1], last_c[0].detach().numpy(), rtol=1e-10)
    dx, dh, dc, d_hh = torch.autograd.grad(
        hs, (tx, th, tc, layer.weight_hh_l0), torch.from_numpy(g)
    )
    dxw, dh0, dc0, dR = kernels.lstm_grad(np.stack([g, 0 * g]), states, xw, h0, c0, R)
    theirs = [dx.numpy(), dh.numpy(), dc.numpy(), _from_torch(d_hh, ours_from_theirs)]
    for got, want in zip([dxw @ W.T, dh0, dc0, dR], theirs):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)


def test_gru_against_pytorch(rng=np.random.default_rng(8)):
    torch = pytest.importorskip("torch")
    n, t, d, u = 2, 5, 3, 4
    layer = torch.nn.GRU(d, u, batch_first=True, dtype=torch.float64)
    order = [1, 0, 2]  # PyTorch has r, z, h
    W, R = (_from_torch(p, order) for p in (layer.weight_ih_l0, layer.weight_hh_l0))
    b, rb = (_from_torch(p, order) for p in (layer.bias_ih_l0, layer.bias_hh_l0))
    x, h0, g = (rng.standard_normal(s) for s in [(n, t, d), (n, u), (n, t, u)])
    tx, th = (torch.from_numpy(a).requires_grad_() for a in (x, h0))
    hs, _ = layer(tx, th[None])
    xw = x @ W + b
    ours = kernels.gru(xw, h0, R, rb)
    np.testing.assert_allclose(ours, hs.detach().numpy(), rtol=1e-10)
    dx, dh, d_hh, d_b = torch.autograd.grad(
        hs, (tx, th, layer.weight_hh_l0, layer.bias_hh_l0), torch.from_numpy(g)
    )
    dxw, dh0, dR, drb = kernels.gru_grad(g, ours, xw, h0, R, rb)
    theirs = [dx.numpy(), dh.numpy(), _from_torch(d_hh, order), _from_torch(d_b, order)]
    for got, want in zip([dxw @ W.T, dh0, dR, drb], theirs):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)


def _from_torch(parameter, order):
    """(blocks·U, K) -> (K, blocks·U), the blocks in our order."""
    blocks = np.split(parameter.detach().numpy(), len(order))
    return np.concatenate([blocks[i] for i in order]).T


@pytest.mark.parametrize(
    "change, message",
    [
        ({"xw": np.ones((2, 3, 7))}, r"xw must have shape \(N, T, 4U\)"),
        ({"h0": np.ones((1, 2))}, r"c0 must have shape \(N, U\)"),
        ({"R": np.ones((8, 2))}, "R must have shape"),
        ({"R": [[1.0]]}, "numpy.asarray"),
        ({"R": np.ones((2, 8), int)}, "floating point"),
        ({"mask": np.ones((2, 3))}, "bool"),
        ({"mask": np.ones((2, 4), bool)}, r"mask must have shape \(N, T\) = \(2, 3\)"),
        ({"gate": 0.5}, r"gate must be None or \(scale, limit or None\)"),
        ({"gate": (-1, None)}, "scale >= 0"),
        ({"gate": (1, 0)}, "limit > 0"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    good = {"xw": np.ones((2, 3, 8)), "h0": np.ones((2, 2)), "c0": np.ones((2, 2))}
    good["R"] = np.ones((2, 8))
    with pytest.raises((ValueError, TypeError), match=message):
        kernels.lstm(**{**good, **change})
