"""Whole sequences of recurrent cells as one op, and the gradient gate.

The fused op runs a kernel over all time steps, forward and backward. The same recurrence in single
ops (`_lstm_in_ops`, ...) gives second derivatives, and the tests hold the fused one to it.
All take inputs already projected, xw = x @ W + b of (N, T, gates·U), and a mask (N, T) of booleans:
where it is False, the state is carried over unchanged.
"""

import kernels
from kernels.backend import array_module as module, device_of
from minideep.autograd import op
from minideep.mode import grad_enabled
from minideep.ops.elementwise import sigmoid, sqrt, tanh, where
from minideep.ops.reduce import sum
from minideep.ops.shape import split, stack
from minideep.recompute import vjp_by_recomputing
from minideep.tensor import Tensor

__all__ = "gradient_gate gru lstm rnn".split()


# ------------------------------------------------------------------------------- the gradient gate

@op
def _gradient_gate(x, *, scale, limit):
    return x


def _gated(g, scale, limit):
    g = g * scale
    if limit is None:
        return g
    square = sum(g * g, axis=-1, keepdims=True)
    over = square > limit * limit
    return g * where(over, limit / sqrt(where(over, square, 1.0)), 1.0)


_gradient_gate.vjp(x=lambda g, scale, limit: _gated(g, scale, limit))


def gradient_gate(x, scale=1.0, limit=None):
    """x itself; on the way back the gradient is multiplied by `scale`, then, with a `limit`, shrunk
    to at most that L2 norm over the last axis, each sample for itself.

    On the path from one time step to the one before it keeps gradients from exploding (a limit, or
    scale < 1) or from vanishing (scale > 1).
    """
    check_gate((scale, limit))
    return _gradient_gate(x, scale=float(scale), limit=limit)


def check_gate(gate):
    """None, or (scale, limit) with scale >= 0 and limit None or > 0; otherwise a ValueError."""
    if gate is None:
        return None
    try:
        scale, limit = gate
        if not scale >= 0 or limit is not None and not limit > 0:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError("a gradient gate is None or (scale, limit), scale >= 0 and limit None or "
                         f"> 0; got {gate!r}") from None
    return float(scale), None if limit is None else float(limit)


def _enter(state, gate):
    return state if gate is None else gradient_gate(state, *gate)


# ------------------------------------------------------------------------------------ plain (Elman)

@op
def _rnn(xw, h0, R, *, mask, gate):
    return kernels.rnn(xw, h0, R, mask, gate)


@_rnn.joint_vjp
def _rnn_vjp(g, y, xw, h0, R, mask, gate):
    if grad_enabled():
        return vjp_by_recomputing(lambda *a: _rnn_in_ops(*a, mask, gate), (xw, h0, R), g)[0]
    arrays = (t.data for t in (g, y, xw, h0, R))
    return [Tensor(a) for a in kernels.rnn_grad(*arrays, mask, gate)]


def _rnn_in_ops(xw, h, R, mask, gate):
    hs = []
    for t in range(xw.shape[1]):
        new = tanh(xw[:, t] + _enter(h, gate) @ R)
        h = _keep(mask, t, new, h)
        hs.append(h)
    return stack(hs, axis=1)  # (N, T, U)


def _keep(mask, t, new, old):
    return new if mask is None else where(mask[:, t, None], new, old)


def rnn(xw, h0, R, mask=None, gate=None):
    """h_t = tanh(xw_t + h_{t-1} R) (Elman 1990). xw (N, T, U), h0 (N, U), R (U, U) -> (N, T, U)."""
    return _rnn(xw, h0, R, mask=_mask(mask, xw), gate=check_gate(gate))


def _mask(mask, xw):
    if mask is None:
        return None
    xp = module(xw.data)
    return xp.asarray(mask.data if isinstance(mask, Tensor) else mask).astype(bool)


# -------------------------------------------------------------------------------------------- LSTM

@op
def _lstm(xw, h0, c0, R, *, mask, gate, kept):
    if kept is None:
        return kernels.lstm(xw, h0, c0, R, mask, gate)  # (2, N, T, U): h and c
    states, kept["gates"] = kernels.lstm(xw, h0, c0, R, mask, gate, keep=True)
    return states


@_lstm.joint_vjp
def _lstm_vjp(g, y, xw, h0, c0, R, mask, gate, kept):
    if grad_enabled():
        return vjp_by_recomputing(lambda *a: _lstm_in_ops(*a, mask, gate), (xw, h0, c0, R), g)[0]
    arrays = (t.data for t in (g, y, xw, h0, c0, R))
    gates = None if kept is None else kept.pop("gates", None)  # once: then computed again
    return [Tensor(a) for a in kernels.lstm_grad(*arrays, mask, gate, gates)]


def _lstm_in_ops(xw, h, c, R, mask, gate):
    hs, cs = [], []
    for t in range(xw.shape[1]):
        gates = xw[:, t] + _enter(h, gate) @ R  # (N, 4U)
        i, f, candidate, o = split(gates, 4, axis=1)
        new_c = sigmoid(f) * _enter(c, gate) + sigmoid(i) * tanh(candidate)
        new_h = sigmoid(o) * tanh(new_c)
        h, c = _keep(mask, t, new_h, h), _keep(mask, t, new_c, c)
        hs.append(h)
        cs.append(c)
    return stack([stack(hs, axis=1), stack(cs, axis=1)])


def lstm(xw, h0, c0, R, mask=None, gate=None):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers 2000):

        i, f, o = sigmoid(...), c~ = tanh(...) of xw_t + h_{t-1} R, in the order i, f, c~, o
        c_t = f c_{t-1} + i c~,  h_t = o tanh(c_t)

    xw (N, T, 4U), h0, c0 (N, U), R (U, 4U). Returns all h and all c, each (N, T, U).
    """
    kept = {} if grad_enabled() and device_of(xw.data) == "cpu" else None
    states = _lstm(xw, h0, c0, R, mask=_mask(mask, xw), gate=check_gate(gate), kept=kept)
    return states[0], states[1]


# --------------------------------------------------------------------------------------------- GRU

@op
def _gru(xw, h0, R, rb, *, mask, gate):
    return kernels.gru(xw, h0, R, rb, mask, gate)


@_gru.joint_vjp
def _gru_vjp(g, y, xw, h0, R, rb, mask, gate):
    if grad_enabled():
        return vjp_by_recomputing(lambda *a: _gru_in_ops(*a, mask, gate), (xw, h0, R, rb), g)[0]
    arrays = (t.data for t in (g, y, xw, h0, R, rb))
    return [Tensor(a) for a in kernels.gru_grad(*arrays, mask, gate)]


def _gru_in_ops(xw, h, R, rb, mask, gate):
    hs = []
    for t in range(xw.shape[1]):
        before = _enter(h, gate)
        xz, xr, xh = split(xw[:, t], 3, axis=1)
        hz, hr, hh = split(before @ R + rb, 3, axis=1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        new = z * before + (1 - z) * tanh(xh + r * hh)
        h = _keep(mask, t, new, h)
        hs.append(h)
    return stack(hs, axis=1)


def gru(xw, h0, R, rb, mask=None, gate=None):
    """Gated recurrent unit (Cho et al. 2014), reset after the product as in cuDNN and Keras:

        z, r = sigmoid(...), h~ = tanh(xw_h + r (h_{t-1} R_h + rb_h)), h_t = z h_{t-1} + (1 - z) h~

    xw (N, T, 3U) in the order z, r, h~, h0 (N, U), R (U, 3U), rb (3U,) -> (N, T, U).
    """
    return _gru(xw, h0, R, rb, mask=_mask(mask, xw), gate=check_gate(gate))
