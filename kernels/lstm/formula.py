"""One sample and one step at a time, as the formula is written: the oracle of the array rung."""

import numpy as np

from kernels.ladder import rung
from kernels.lstm import lstm, lstm_grad
from kernels.recurrent import sigmoid, through_gate


@rung(lstm, device="cpu", why="the formula, one sample and one step at a time")
def formula(xw, h0, c0, R, mask, gate, keep):
    samples, steps, _ = xw.shape
    states, gates = np.zeros((2, samples, steps, h0.shape[1]), xw.dtype), np.zeros_like(xw)
    for n in range(samples):
        h, c = h0[n], c0[n]
        for t in range(steps):
            if mask is None or mask[n, t]:
                i, f, candidate, o = _cell(xw[n, t], h, R)
                c = f * c + i * candidate
                h = o * np.tanh(c)
                gates[n, t] = np.concatenate([i, f, candidate, o])
            states[0, n, t], states[1, n, t] = h, c
    return (states, gates) if keep else states


@rung(lstm_grad, device="cpu", why="the chain rule, one sample and one step at a time")
def formula(g, states, xw, h0, c0, R, mask, gate, gates):  # noqa: F811
    dxw, dh0, dc0, dR = (np.zeros_like(a) for a in (xw, h0, c0, R))
    hs, cs = states
    for n in range(xw.shape[0]):
        dh, dc = np.zeros_like(h0[n]), np.zeros_like(c0[n])
        for t in reversed(range(xw.shape[1])):
            dh, dc = dh + g[0, n, t], dc + g[1, n, t]
            if mask is not None and not mask[n, t]:
                continue
            h, c = (hs[n, t - 1], cs[n, t - 1]) if t > 0 else (h0[n], c0[n])
            i, f, candidate, o = _cell(xw[n, t], h, R)
            squashed = np.tanh(cs[n, t])
            dc = dc + dh * o * (1 - squashed**2)
            di = dc * candidate * i * (1 - i)
            df = dc * c * f * (1 - f)
            d_candidate = dc * i * (1 - candidate**2)
            do = dh * squashed * o * (1 - o)
            da = np.concatenate([di, df, d_candidate, do])
            dxw[n, t] = da
            dR += np.outer(h, da)
            dh, dc = through_gate(np, R @ da, gate), through_gate(np, dc * f, gate)
        dh0[n], dc0[n] = dh, dc
    return dxw, dh0, dc0, dR


def _cell(x, h, R):
    i, f, candidate, o = np.split(x + h @ R, 4)
    return sigmoid(np, i), sigmoid(np, f), np.tanh(candidate), sigmoid(np, o)
