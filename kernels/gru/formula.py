"""One sample and one step at a time, as the formula is written: the oracle of the array rung."""

import numpy as np

from kernels.gru import gru, gru_grad
from kernels.ladder import rung
from kernels.recurrent import sigmoid, through_gate


@rung(gru, device="cpu", why="the formula, one sample and one step at a time")
def formula(xw, h0, R, rb, mask, gate):
    samples, steps, _ = xw.shape
    hs = np.zeros((samples, steps, h0.shape[1]), xw.dtype)
    for n in range(samples):
        h = h0[n]
        for t in range(steps):
            if mask is None or mask[n, t]:
                z, r, candidate, _ = _cell(xw[n, t], h, R, rb)
                h = z * h + (1 - z) * candidate
            hs[n, t] = h
    return hs


@rung(gru_grad, device="cpu", why="the chain rule, one sample and one step at a time")
def formula(g, hs, xw, h0, R, rb, mask, gate):  # noqa: F811
    dxw, dh0, dR, drb = (np.zeros_like(a) for a in (xw, h0, R, rb))
    for n in range(xw.shape[0]):
        dh = np.zeros_like(h0[n])
        for t in reversed(range(xw.shape[1])):
            dh = dh + g[n, t]
            if mask is not None and not mask[n, t]:
                continue
            h = hs[n, t - 1] if t > 0 else h0[n]
            z, r, candidate, recalled = _cell(xw[n, t], h, R, rb)
            d_candidate = dh * (1 - z) * (1 - candidate**2)
            dz = dh * (h - candidate) * z * (1 - z)
            dr = d_candidate * recalled * r * (1 - r)
            dxw[n, t] = np.concatenate([dz, dr, d_candidate])
            d_recurrent = np.concatenate([dz, dr, d_candidate * r])
            dR += np.outer(h, d_recurrent)
            drb += d_recurrent
            dh = through_gate(np, dh * z + R @ d_recurrent, gate)
        dh0[n] = dh
    return dxw, dh0, dR, drb


def _cell(x, h, R, rb):
    xz, xr, xh = np.split(x, 3)
    hz, hr, hh = np.split(h @ R + rb, 3)
    z, r = sigmoid(np, xz + hz), sigmoid(np, xr + hr)
    return z, r, np.tanh(xh + r * hh), hh
