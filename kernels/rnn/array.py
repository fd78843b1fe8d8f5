"""All samples at once, a loop over the steps only: for NumPy and CuPy alike.

Backward, the gradient of R needs no loop: it is one matrix product over all N·T steps.
"""

from kernels.backend import array_module
from kernels.ladder import rung
from kernels.recurrent import before, rows, through_gate
from kernels.rnn import rnn, rnn_grad


@rung(rnn, device="any", why="one matrix product per step for all samples together")
def array(xw, h0, R, mask, gate):
    xp = array_module(xw, h0, R)
    hs = xp.empty(xw.shape, xp.result_type(xw.dtype, h0.dtype, R.dtype))
    h = h0
    for t in range(xw.shape[1]):
        new = xp.tanh(xw[:, t] + h @ R)
        h = new if mask is None else xp.where(mask[:, t, None], new, h)
        hs[:, t] = h
    return hs


@rung(rnn_grad, device="any", why="all samples together, and dR as one matrix product at the end")
def array(g, hs, xw, h0, R, mask, gate):  # noqa: F811
    xp = array_module(g, hs, xw, h0, R)
    dxw = xp.empty(xw.shape, xw.dtype)
    slope = 1 - hs * hs
    if mask is not None:
        slope = slope * mask[:, :, None]
    dh = xp.zeros(h0.shape, h0.dtype)
    for t in reversed(range(xw.shape[1])):
        dh = dh + g[:, t]
        da = dh * slope[:, t]
        dxw[:, t] = da
        back = through_gate(xp, da @ R.T, gate)
        dh = back if mask is None else xp.where(mask[:, t, None], back, dh)
    dR = rows(before(xp, hs, h0)).T @ rows(dxw)
    return dxw, dh, dR
