"""Compiled: samples go through all steps in one kernel, whose weights stay in the cache.

See `kernels.cells`. float32 only. Absolute error of a state after T steps about T·1e-7.
"""

import numpy as np

from kernels import memory
from kernels.cells import (
    copy_rows,
    limits,
    masks,
    panels,
    split,
    take_row,
    through_gate,
)
from kernels.jit import float32_only, jit, plain, prange, simd
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.microkernel import NONE, ZERO, multiply, spare
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
    width = (units + 15) // 16 * 16
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        h, a = np.zeros(samples * width, np.float32), np.zeros(samples * width, np.float32)
        rows, columns, edge = np.arange(samples) * width, np.arange(units), spare()
        copy_rows(h0, first, samples, units, h, width)
        for t in range(steps):
            for row in range(samples):
                for u in range(0, width, 16):
                    at = ((first + row) * steps + t) * units + u
                    simd.store(a, row * width + u, simd.get(xw, at, min(16, units - u)))
            multiply(
                h.ctypes.data, rows, samples, columns, units, panel.ctypes.data, a.ctypes.data,
                rows, width, ZERO, NONE, True, edge,
            )  # fmt: skip
            for row in range(samples):
                for u in range(0, width, 16):
                    at = row * width + u
                    if mask[first + row, t]:
                        simd.store(h, at, simd.tanh(simd.load(a, at)))
                    to = ((first + row) * steps + t) * units + u
                    simd.put(out, to, simd.load(h, at), min(16, units - u))


@jit(parallel=True)
def _backward(g, hs, panel, mask, dxw, dh0, scale, limit, parts):
    n, steps = mask.shape
    units = dh0.shape[1]
    width = (units + 15) // 16 * 16
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        dh, da = np.zeros(samples * width, np.float32), np.zeros(samples * width, np.float32)
        back = np.zeros(samples * width, np.float32)
        rows, columns, edge = np.arange(samples) * width, np.arange(units), spare()
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
            multiply(
                da.ctypes.data, rows, samples, columns, units, panel.ctypes.data,
                back.ctypes.data, rows, width, ZERO, NONE, False, edge,
            )  # fmt: skip
            for row in range(samples):
                if mask[first + row, t]:
                    take_row(back, row, dh, width)
                    through_gate(dh, row, width, scale, limit)
        for row in range(samples):
            for u in range(units):
                dh0[first + row, u] = dh[row * width + u]
