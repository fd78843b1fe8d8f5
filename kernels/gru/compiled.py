"""Compiled: samples go through all steps in one kernel, whose weights stay in the cache.

See `kernels.cells`, and `kernels.lstm.compiled`, which has the same form. float32 only. Absolute
error of a state after T steps about T·1e-7.
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
from kernels.gru import gru, gru_grad
from kernels.jit import float32_only, jit, plain, prange, simd
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.microkernel import NONE, ZERO, multiply, spare
from kernels.recurrent import before, rows


@rung(gru, device="cpu", why="one kernel for all steps; weights and states stay in the cache")
def compiled(xw, h0, R, rb, mask, gate):
    n, steps, _ = xw.shape
    hs = memory.empty((n, steps, h0.shape[1]))
    flat = (plain(a).reshape(-1) for a in (xw, h0, rb))
    _forward(*flat, panels(R, 3), masks(mask, n, steps), hs, hs.reshape(-1), split(n))
    return hs


@rung(gru_grad, device="cpu", why="one kernel for all steps backward, matrix products around it")
def compiled(g, hs, xw, h0, R, rb, mask, gate):  # noqa: F811
    n, steps, _ = xw.shape
    previous = before(np, hs, h0)
    recurrent = matmul(rows(previous), R)  # (N·T, 3U)
    recurrent += rb
    dxw, dh = memory.empty(xw.shape), np.empty(h0.shape, np.float32)
    flat = (plain(a).reshape(-1) for a in (g, previous, xw))
    _backward(
        *flat, panels(R.T), masks(mask, n, steps), recurrent.reshape(-1), dxw.reshape(-1), dh,
        *limits(gate), split(n),
    )  # fmt: skip
    return dxw, dh, matmul(rows(previous).T, recurrent), recurrent.sum(axis=0)


@gru.rungs["compiled"].needs
def _(xw, h0, R, rb, mask, gate):
    return float32_only(xw, h0, R, rb)


@gru_grad.rungs["compiled"].needs
def _(g, hs, xw, h0, R, rb, mask, gate):
    return float32_only(xw, g, hs, h0, R, rb)


@jit(parallel=True)
def _forward(xw, h0, rb, panel, mask, hs, out, parts):
    n, steps, units = hs.shape
    lines = (units + 15) // 16
    width = lines * 16
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        h, new = np.zeros(samples * width, np.float32), np.zeros(samples * width, np.float32)
        a = np.zeros(samples * 3 * 16, np.float32)
        rows, to_rows = np.arange(samples) * width, np.arange(samples) * 3 * 16
        columns, edge = np.arange(units), spare()
        copy_rows(h0, first, samples, units, h, width)
        for t in range(steps):
            for line in range(lines):
                u = line * 16
                count = min(16, units - u)
                for block in range(3):
                    bias = simd.get(rb, block * units + u, count)
                    for row in range(samples):
                        simd.store(a, (row * 3 + block) * 16, bias)
                multiply(
                    h.ctypes.data, rows, samples, columns, units,
                    panel.ctypes.data + 4 * line * 3 * units * 16, a.ctypes.data, to_rows, 3 * 16,
                    ZERO, NONE, True, edge,
                )  # fmt: skip
                for row in range(samples):
                    state = simd.load(h, row * width + u)
                    if mask[first + row, t]:
                        x = ((first + row) * steps + t) * 3 * units + u
                        at, r_at, h_at = row * 48, row * 48 + 16, row * 48 + 32
                        z = simd.sigmoid(simd.get(xw, x, count) + simd.load(a, at))
                        r = simd.sigmoid(simd.get(xw, x + units, count) + simd.load(a, r_at))
                        recalled = simd.get(xw, x + 2 * units, count)
                        candidate = simd.tanh(simd.fma(r, simd.load(a, h_at), recalled))
                        state = simd.fma(z, state - candidate, candidate)
                    simd.store(new, row * width + u, state)
                    simd.put(out, ((first + row) * steps + t) * units + u, state, count)
            h, new = new, h


@jit(parallel=True)
def _backward(g, previous, xw, panel, mask, recurrent, dxw, dh0, scale, limit, parts):
    """recurrent: h R + rb of all steps (N, T, 3U), flat; becomes its gradient."""
    n, steps = mask.shape
    units = dh0.shape[1]
    width = (units + 15) // 16 * 16
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        dh, kept = np.zeros(samples * width, np.float32), np.zeros(samples * width, np.float32)
        da = np.zeros(samples * 3 * units, np.float32)  # of this step, as h R + rb sees it
        rows, to_rows = np.arange(samples) * 3 * units, np.arange(samples) * width
        columns, edge = np.arange(3 * units), spare()
        zero, one = simd.zeros(g), simd.splat(np.float32(1))
        for t in range(steps - 1, -1, -1):
            for row in range(samples):
                here = mask[first + row, t]
                start = ((first + row) * steps + t) * 3 * units
                for u in range(0, units, 16):
                    count, at = min(16, units - u), row * width + u
                    state, x = ((first + row) * steps + t) * units + u, start + u
                    mine = row * 3 * units + u
                    gradient = simd.load(dh, at) + simd.get(g, state, count)
                    keep = dz = dr = d_candidate = d_recalled = zero
                    if here:
                        recalled = simd.get(recurrent, x + 2 * units, count)
                        z = simd.sigmoid(simd.get(xw, x, count) + simd.get(recurrent, x, count))
                        r = simd.sigmoid(
                            simd.get(xw, x + units, count) + simd.get(recurrent, x + units, count)
                        )
                        candidate = simd.tanh(
                            simd.fma(r, recalled, simd.get(xw, x + 2 * units, count))
                        )
                        d_candidate = gradient * (one - z) * (one - candidate * candidate)
                        moved = simd.get(previous, state, count) - candidate
                        dz = gradient * moved * z * (one - z)
                        dr = d_candidate * recalled * r * (one - r)
                        d_recalled = d_candidate * r
                        keep = gradient * z
                    simd.store(dh, at, gradient)
                    simd.store(kept, at, keep)
                    simd.put(dxw, x, dz, count)
                    simd.put(dxw, x + units, dr, count)
                    simd.put(dxw, x + 2 * units, d_candidate, count)
                    simd.put(da, mine, dz, count)
                    simd.put(da, mine + units, dr, count)
                    simd.put(da, mine + 2 * units, d_recalled, count)
                    simd.put(recurrent, x, dz, count)
                    simd.put(recurrent, x + units, dr, count)
                    simd.put(recurrent, x + 2 * units, d_recalled, count)
            multiply(
                da.ctypes.data, rows, samples, columns, 3 * units, panel.ctypes.data,
                kept.ctypes.data, to_rows, width, ZERO, NONE, True, edge,
            )  # fmt: skip
            for row in range(samples):
                if mask[first + row, t]:
                    take_row(kept, row, dh, width)
                    through_gate(dh, row, width, scale, limit)
        for row in range(samples):
            for u in range(units):
                dh0[first + row, u] = dh[row * width + u]
