"""All samples at once, a loop over the steps only: for NumPy and CuPy alike.

Backward, every state is known, so the gates of all N·T steps come back from one matrix product;
the loop keeps only what truly follows from the step after. The gradient of R is one more product.
"""

from kernels.backend import array_module
from kernels.ladder import rung
from kernels.lstm import lstm, lstm_grad
from kernels.recurrent import before, rows, sigmoid, through_gate


@rung(lstm, device="any", why="one matrix product per step for all samples together")
def array(xw, h0, c0, R, mask, gate, keep):
    xp = array_module(xw, h0, c0, R)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    dtype = xp.result_type(xw.dtype, h0.dtype, c0.dtype, R.dtype)
    states = xp.empty((2, n, steps, units), dtype)
    gates = xp.empty(xw.shape, dtype) if keep else None
    h, c = h0, c0
    for t in range(steps):
        a = xw[:, t] + h @ R  # (N, 4U)
        i_f = sigmoid(xp, a[:, : 2 * units])
        candidate = xp.tanh(a[:, 2 * units : 3 * units])
        o = sigmoid(xp, a[:, 3 * units :])
        new_c = i_f[:, units:] * c + i_f[:, :units] * candidate
        new_h = o * xp.tanh(new_c)
        if keep:
            gates[:, t] = xp.concatenate([i_f, candidate, o], axis=1)
        if mask is None:
            h, c = new_h, new_c
        else:
            here = mask[:, t, None]
            h, c = xp.where(here, new_h, h), xp.where(here, new_c, c)
        states[0, :, t], states[1, :, t] = h, c
    if keep and mask is not None:
        gates = xp.where(mask[:, :, None], gates, 0)
    return (states, gates) if keep else states


@rung(lstm_grad, device="any", why="gates of all steps from one matrix product, dR from another")
def array(g, states, xw, h0, c0, R, mask, gate, gates):  # noqa: F811
    xp = array_module(g, states, xw, h0, c0, R)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    h_before, c_before = before(xp, states[0], h0), before(xp, states[1], c0)
    if gates is None:
        a = xw + (rows(h_before) @ R).reshape(n, steps, 4 * units)
        i_f = sigmoid(xp, a[:, :, : 2 * units])
        i, f = i_f[:, :, :units], i_f[:, :, units:]
        candidate = xp.tanh(a[:, :, 2 * units : 3 * units])
        o = sigmoid(xp, a[:, :, 3 * units :])
    else:
        i, f, candidate, o = (gates[:, :, k * units : (k + 1) * units] for k in range(4))
    squashed = xp.tanh(states[1])

    # How the pre-activations move the new c (those of i, f and ĉ) and the new h (that of o).
    by_ifc = [candidate * i * (1 - i), c_before * f * (1 - f), i * (1 - candidate * candidate)]
    slope = xp.stack([*by_ifc, squashed * o * (1 - o)], axis=2)  # (N, T, 4, U)
    c_to_h = o * (1 - squashed * squashed)
    if mask is not None:
        slope = slope * mask[:, :, None, None]

    dxw = xp.empty(slope.shape, slope.dtype)
    dh, dc = xp.zeros(h0.shape, h0.dtype), xp.zeros(c0.shape, c0.dtype)
    for t in reversed(range(steps)):
        dh, dc = dh + g[0, :, t], dc + g[1, :, t]
        dc_new = dc + dh * c_to_h[:, t]
        dxw[:, t, :3] = dc_new[:, None] * slope[:, t, :3]
        dxw[:, t, 3] = dh * slope[:, t, 3]
        back_h = through_gate(xp, dxw[:, t].reshape(n, 4 * units) @ R.T, gate)
        back_c = through_gate(xp, dc_new * f[:, t], gate)
        if mask is None:
            dh, dc = back_h, back_c
        else:
            here = mask[:, t, None]
            dh, dc = xp.where(here, back_h, dh), xp.where(here, back_c, dc)

    dxw = dxw.reshape(n, steps, 4 * units)
    return dxw, dh, dc, rows(h_before).T @ rows(dxw)
