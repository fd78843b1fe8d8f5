"""Compiled: samples go through all steps in one kernel, whose weights stay in the cache.

See `kernels.cells`. Forward, a line of 16 units at a time: one product with their four panels, then
the cell on what is still in the cache. A step's numbers lie far apart, a line here and there, which the
processor does not foresee: they are asked for a step ahead. Backward needs the gates: where the
forward call has not kept them, it is made again.

float32 only. Absolute error of a state after T steps about T·1e-7.
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
from kernels.lstm import lstm, lstm_grad
from kernels.matmul import matmul
from kernels.microkernel import NONE, ZERO, multiply, spare
from kernels.recurrent import before, rows


@rung(lstm, device="cpu", why="one kernel for all steps; weights and states stay in the cache")
def compiled(xw, h0, c0, R, mask, gate, keep):
    n, steps, _ = xw.shape
    states = memory.empty((2, n, steps, h0.shape[1]))
    gates = memory.empty(xw.shape if keep else (0,))
    flat = (plain(a).reshape(-1) for a in (xw, h0, c0))
    out = states, states.reshape(-1), gates.reshape(-1)
    _forward(*flat, panels(R, 4), masks(mask, n, steps), *out, keep, split(n))
    return (states, gates) if keep else states


@rung(lstm_grad, device="cpu", why="one kernel for all steps backward, then dR as one product")
def compiled(g, states, xw, h0, c0, R, mask, gate, gates):  # noqa: F811
    if gates is None:
        _, gates = lstm.rungs["compiled"](xw, h0, c0, R, mask, gate, True)
    n, steps, _ = xw.shape
    da = memory.empty(xw.shape)
    dh, dc = np.empty(h0.shape, np.float32), np.empty(c0.shape, np.float32)
    flat = (plain(a).reshape(-1) for a in (g, states, c0, gates))
    results = da.reshape(-1), dh, dc
    _backward(*flat, panels(R.T), masks(mask, n, steps), *results, *limits(gate), split(n))
    return da, dh, dc, matmul(rows(before(np, states[0], h0)).T, rows(da))


@lstm.rungs["compiled"].needs
def _(xw, h0, c0, R, mask, gate, keep):
    return float32_only(xw, h0, c0, R)


@lstm_grad.rungs["compiled"].needs
def _(g, states, xw, h0, c0, R, mask, gate, gates):
    kept = () if gates is None else (gates,)
    return float32_only(xw, g, states, h0, c0, R, *kept)


@jit(parallel=True)
def _forward(xw, h0, c0, panel, mask, states, out, gates, keep, parts):
    _, n, steps, units = states.shape
    lines = (units + 15) // 16
    width, plane = lines * 16, n * steps * units
    zero = simd.zeros(xw)
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        h, new = np.zeros(samples * width, np.float32), np.zeros(samples * width, np.float32)
        c, a = np.zeros(samples * width, np.float32), np.zeros(samples * 4 * 16, np.float32)
        rows, to_rows = np.arange(samples) * width, np.arange(samples) * 4 * 16
        columns, edge = np.arange(units), spare()
        copy_rows(h0, first, samples, units, h, width)
        copy_rows(c0, first, samples, units, c, width)
        for t in range(steps):
            for line in range(lines):
                u = line * 16
                count = min(16, units - u)
                for row in range(samples):
                    for block in range(4):
                        at = (((first + row) * steps + t) * 4 + block) * units + u
                        simd.prefetch(xw, at + 4 * units)
                        simd.store(a, (row * 4 + block) * 16, simd.get(xw, at, count))
                multiply(
                    h.ctypes.data, rows, samples, columns, units,
                    panel.ctypes.data + 4 * line * 4 * units * 16, a.ctypes.data, to_rows, 4 * 16,
                    ZERO, NONE, True, edge,
                )  # fmt: skip
                for row in range(samples):
                    at = row * width + u
                    h_line, c_line = simd.load(h, at), simd.load(c, at)
                    i = f = candidate = o = zero
                    if mask[first + row, t]:
                        i = simd.sigmoid(simd.load(a, row * 4 * 16))
                        f = simd.sigmoid(simd.load(a, (row * 4 + 1) * 16))
                        candidate = simd.tanh(simd.load(a, (row * 4 + 2) * 16))
                        o = simd.sigmoid(simd.load(a, (row * 4 + 3) * 16))
                        c_line = simd.fma(f, c_line, i * candidate)
                        h_line = o * simd.tanh(c_line)
                    simd.store(new, at, h_line)
                    simd.store(c, at, c_line)
                    to = ((first + row) * steps + t) * units + u
                    simd.prefetch_to_write(out, to + units)
                    simd.prefetch_to_write(out, plane + to + units)
                    simd.put(out, to, h_line, count)
                    simd.put(out, plane + to, c_line, count)
                    if keep:
                        to = ((first + row) * steps + t) * 4 * units + u
                        for block in range(4, 8):
                            simd.prefetch_to_write(gates, to + block * units)
                        simd.put(gates, to, i, count)
                        simd.put(gates, to + units, f, count)
                        simd.put(gates, to + 2 * units, candidate, count)
                        simd.put(gates, to + 3 * units, o, count)
            h, new = new, h


@jit(parallel=True)
def _backward(g, states, c0, gates, panel, mask, dxw, dh0, dc0, scale, limit, parts):
    n, steps = mask.shape
    units = dh0.shape[1]
    width, plane = (units + 15) // 16 * 16, n * steps * units
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        dh, dc = np.zeros(samples * width, np.float32), np.zeros(samples * width, np.float32)
        da = np.zeros(samples * 4 * units, np.float32)  # of this step
        back = np.zeros(samples * width, np.float32)
        rows, to_rows = np.arange(samples) * 4 * units, np.arange(samples) * width
        columns, edge = np.arange(4 * units), spare()
        zero, one = simd.zeros(g), simd.splat(np.float32(1))
        for t in range(steps - 1, -1, -1):
            for row in range(samples):
                here = mask[first + row, t]
                for u in range(0, units, 16):
                    count, at = min(16, units - u), row * width + u
                    state = ((first + row) * steps + t) * units + u
                    to = ((first + row) * steps + t) * 4 * units + u
                    mine = row * 4 * units + u
                    dh_line = simd.load(dh, at) + simd.get(g, state, count)
                    dc_line = simd.load(dc, at) + simd.get(g, plane + state, count)
                    simd.prefetch(g, state - units)
                    simd.prefetch(g, plane + state - units)
                    simd.prefetch(states, plane + state - 2 * units)
                    for block in range(4):
                        simd.prefetch(gates, to + (block - 4) * units)
                        simd.prefetch_to_write(dxw, to + (block - 4) * units)
                    di = df = d_candidate = do = zero
                    if here:
                        i = simd.get(gates, to, count)
                        f = simd.get(gates, to + units, count)
                        candidate = simd.get(gates, to + 2 * units, count)
                        o = simd.get(gates, to + 3 * units, count)
                        if t > 0:
                            c_before = simd.get(states, plane + state - units, count)
                        else:
                            c_before = simd.get(c0, (first + row) * units + u, count)
                        squashed = simd.tanh(simd.get(states, plane + state, count))
                        dc_line = simd.fma(dh_line * o, one - squashed * squashed, dc_line)
                        di = dc_line * candidate * i * (one - i)
                        df = dc_line * c_before * f * (one - f)
                        d_candidate = dc_line * i * (one - candidate * candidate)
                        do = dh_line * squashed * o * (one - o)
                        dc_line = dc_line * f
                    simd.store(dh, at, dh_line)
                    simd.store(dc, at, dc_line)
                    simd.put(da, mine, di, count)
                    simd.put(da, mine + units, df, count)
                    simd.put(da, mine + 2 * units, d_candidate, count)
                    simd.put(da, mine + 3 * units, do, count)
                    simd.put(dxw, to, di, count)
                    simd.put(dxw, to + units, df, count)
                    simd.put(dxw, to + 2 * units, d_candidate, count)
                    simd.put(dxw, to + 3 * units, do, count)
            multiply(
                da.ctypes.data, rows, samples, columns, 4 * units, panel.ctypes.data,
                back.ctypes.data, to_rows, width, ZERO, NONE, False, edge,
            )  # fmt: skip
            for row in range(samples):
                if mask[first + row, t]:
                    take_row(back, row, dh, width)
                    through_gate(dh, row, width, scale, limit)
                    through_gate(dc, row, width, scale, limit)
        for row in range(samples):
            for u in range(units):
                dh0[first + row, u] = dh[row * width + u]
                dc0[first + row, u] = dc[row * width + u]
