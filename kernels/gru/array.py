"""All samples at once, a loop over the steps only: for NumPy and CuPy alike.

Backward, every state is known, so the gates of all N·T steps come back from one matrix product;
the loop keeps only what truly follows from the step after. The gradient of R is one more product.
"""

from kernels.backend import array_module
from kernels.gru import gru, gru_grad
from kernels.ladder import rung
from kernels.recurrent import before, rows, sigmoid, through_gate


@rung(gru, device="any", why="one matrix product per step for all samples together")
def array(xw, h0, R, rb, mask, gate):
    xp = array_module(xw, h0, R, rb)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    hs = xp.empty((n, steps, units), xp.result_type(xw.dtype, h0.dtype, R.dtype, rb.dtype))
    h = h0
    for t in range(steps):
        x, recurrent = xw[:, t], h @ R + rb  # (N, 3U)
        zr = sigmoid(xp, x[:, : 2 * units] + recurrent[:, : 2 * units])
        z, r = zr[:, :units], zr[:, units:]
        candidate = xp.tanh(x[:, 2 * units :] + r * recurrent[:, 2 * units :])
        new = candidate + z * (h - candidate)
        h = new if mask is None else xp.where(mask[:, t, None], new, h)
        hs[:, t] = h
    return hs


@rung(gru_grad, device="any", why="gates of all steps from one matrix product, dR from another")
def array(g, hs, xw, h0, R, rb, mask, gate):  # noqa: F811
    xp = array_module(g, hs, xw, h0, R, rb)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    previous = before(xp, hs, h0)
    recurrent = (rows(previous) @ R + rb).reshape(n, steps, 3 * units)
    zr = sigmoid(xp, xw[:, :, : 2 * units] + recurrent[:, :, : 2 * units])
    z, r = zr[:, :, :units], zr[:, :, units:]
    recalled = recurrent[:, :, 2 * units :]
    candidate = xp.tanh(xw[:, :, 2 * units :] + r * recalled)

    # How the pre-activations of z, r and the candidate move the new state: (N, T, U) each.
    by_z = (previous - candidate) * z * (1 - z)
    by_candidate = (1 - z) * (1 - candidate * candidate)
    by_r = by_candidate * recalled * r * (1 - r)
    slope = xp.stack([by_z, by_r, by_candidate * r], axis=2)  # (N, T, 3, U), as h R + rb sees it
    if mask is not None:
        slope = slope * mask[:, :, None, None]
        by_candidate = by_candidate * mask[:, :, None]

    d_recurrent = xp.empty(slope.shape, slope.dtype)
    dhs = xp.empty(hs.shape, hs.dtype)
    dh = xp.zeros(h0.shape, h0.dtype)
    for t in reversed(range(steps)):
        dh = dh + g[:, t]
        dhs[:, t] = dh
        step = dh[:, None] * slope[:, t]  # (N, 3, U)
        d_recurrent[:, t] = step
        back = through_gate(xp, step.reshape(n, 3 * units) @ R.T + dh * z[:, t], gate)
        dh = back if mask is None else xp.where(mask[:, t, None], back, dh)

    d_recurrent = d_recurrent.reshape(n, steps, 3 * units)
    dxw = d_recurrent.copy()
    dxw[:, :, 2 * units :] = dhs * by_candidate
    dR = rows(previous).T @ rows(d_recurrent)
    return dxw, dh, dR, rows(d_recurrent).sum(axis=0)
