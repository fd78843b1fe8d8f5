"""One sample and one step at a time, as the formula is written: the oracle of the array rung."""

import numpy as np

from kernels.ladder import rung
from kernels.recurrent import through_gate
from kernels.rnn import rnn, rnn_grad


@rung(rnn, device="cpu", why="the formula, one sample and one step at a time")
def formula(xw, h0, R, mask, gate):
    hs = np.zeros_like(xw)
    for n in range(xw.shape[0]):
        h = h0[n]
        for t in range(xw.shape[1]):
            if mask is None or mask[n, t]:
                h = np.tanh(xw[n, t] + h @ R)
            hs[n, t] = h
    return hs


@rung(rnn_grad, device="cpu", why="the chain rule, one sample and one step at a time")
def formula(g, hs, xw, h0, R, mask, gate):  # noqa: F811
    dxw, dh0, dR = np.zeros_like(xw), np.zeros_like(h0), np.zeros_like(R)
    for n in range(xw.shape[0]):
        dh = np.zeros_like(h0[n])
        for t in reversed(range(xw.shape[1])):
            dh = dh + g[n, t]
            if mask is not None and not mask[n, t]:
                continue
            previous = hs[n, t - 1] if t > 0 else h0[n]
            da = dh * (1 - hs[n, t] ** 2)
            dxw[n, t] = da
            dR += np.outer(previous, da)
            dh = through_gate(np, R @ da, gate)
        dh0[n] = dh
    return dxw, dh0, dR
