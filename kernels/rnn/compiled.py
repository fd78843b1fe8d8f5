"""Compiled: samples go through all steps in one kernel, whose weights stay in the cache.

See `kernels.cells`. float32 only. Absolute error of a state after T steps about T·1e-7.
"""

import numpy as np

from kernels import memory
from kernels.cells import (
    copy_rows,
    limits,
    masks,
    padded_rows,
    panels,
    product,
    split,
    through_gate,
)
from kernels.jit import float32_only, jit, plain, prange, simd
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.recurrent import before, rows
from kernels.rnn import rnn, rnn_grad


@rung(rnn, device="cpu", why="one kernel for all steps; weights and states stay in the cache")
def compiled(xw, h0, R, mask, gate):
    n, steps, _ = xw.shape
    hs = memory.empty(xw.shape)
    flat = plain(xw).reshape(-1), plain(h0).reshape(-1), panels(R)
    _forward(*flat, masks(mask, n, steps), hs, hs.reshape(-1), split(n))
    return hs


@rung(rnn_grad, device="cpu", why="one kernel for all steps backward, then dR as one product")
def compiled(g, hs, xw, h0, R, mask, gate):  # noqa: F811
    n, steps, _ = xw.shape
    dxw, dh = memory.empty(xw.shape), np.empty(h0.shape, np.float32)
    flat = plain(g).reshape(-1), plain(hs).reshape(-1), panels(R.T)
    _backward(*flat, masks(mask, n, steps), dxw.reshape(-1), dh, *limits(gate), split(n))
    return dxw, dh, matmul(rows(before(np, hs, h0)).T, rows(dxw))


@rnn.rungs["compiled"].needs
def _(xw, h0, R, mask, gate):
    return float32_only(xw, h0, R)


@rnn_grad.rungs["compiled"].needs
def _(g, hs, xw, h0, R, mask, gate):
    return float32_only(xw, g, hs, h0, R)


@jit(parallel=True)
def _forward(xw, h0, panel, mask, hs, out, parts):
    n, steps, units = hs.shape
    lines = (units + 15) // 16
    width = lines * 16
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        padded = padded_rows(samples)
        h, new = np.zeros(padded * width, np.float32), np.zeros(padded * width, np.float32)
        a = np.zeros(padded * 16, np.float32)
        copy_rows(h0, first, samples, units, h, width)
        for t in range(steps):
            for line in range(lines):
                u = line * 16
                count = min(16, units - u)
                for row in range(samples):
                    at = ((first + row) * steps + t) * units + u
                    simd.store(a, row * 16, simd.get(xw, at, count))
                product(a, padded, h, width, units, panel, u * units)
                for row in range(samples):
                    state = simd.load(h, row * width + u)
                    if mask[first + row, t]:
                        state = simd.tanh(simd.load(a, row * 16))
                    simd.store(new, row * width + u, state)
                    simd.put(out, ((first + row) * steps + t) * units + u, state, count)
            h, new = new, h


@jit(parallel=True)
def _backward(g, hs, panel, mask, dxw, dh0, scale, limit, parts):
    n, steps = mask.shape
    units = dh0.shape[1]
    lines = (units + 15) // 16
    width = lines * 16
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        padded = padded_rows(samples)
        dh, da = np.zeros(padded * width, np.float32), np.zeros(padded * width, np.float32)
        back = np.zeros(padded * 16, np.float32)
        zero, one = simd.zeros(g), simd.splat(np.float32(1))
        for t in range(steps - 1, -1, -1):
            for row in range(samples):
                here = mask[first + row, t]
                for u in range(0, units, 16):
                    count, at = min(16, units - u), row * width + u
                    to = ((first + row) * steps + t) * units + u
                    gradient = simd.load(dh, at) + simd.get(g, to, count)
                    state = simd.get(hs, to, count)
                    slope = one - state * state if here else zero
                    simd.store(dh, at, gradient)
                    simd.store(da, at, gradient * slope)
                    simd.put(dxw, to, gradient * slope, count)
            for line in range(lines):
                back[:] = 0
                product(back, padded, da, width, units, panel, line * 16 * units)
                for row in range(samples):
                    if mask[first + row, t]:
                        simd.store(dh, row * width + line * 16, simd.load(back, row * 16))
            for row in range(samples):
                if mask[first + row, t]:
                    through_gate(dh, row, width, scale, limit)
        for row in range(samples):
            for u in range(units):
                dh0[first + row, u] = dh[row * width + u]
