"""Compiled: samples go through all steps in one kernel, whose weights stay in the cache.

See `kernels.cells`. Forward, a line of 16 units at a time: four products, then the cell on what is
still in the cache. Backward, the gates of all N·T steps come back from one matrix product, as in
the array rung; the loop over the steps is the kernel's.

float32 only. Absolute error of a state after T steps about T·1e-7.
"""

import numpy as np

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
from kernels.lstm import lstm, lstm_grad
from kernels.recurrent import before, rows


@rung(lstm, device="cpu", why="one kernel for all steps; weights and states stay in the cache")
def compiled(xw, h0, c0, R, mask, gate):
    n, steps, _ = xw.shape
    states = np.empty((2, n, steps, h0.shape[1]), np.float32)
    flat = (plain(a).reshape(-1) for a in (xw, h0, c0))
    _forward(*flat, panels(R, 4), masks(mask, n, steps), states, states.reshape(-1), split(n))
    return states


@rung(lstm_grad, device="cpu", why="one kernel for all steps backward, matrix products around it")
def compiled(g, states, xw, h0, c0, R, mask, gate):  # noqa: F811
    n, steps, _ = xw.shape
    h_before, c_before = before(np, states[0], h0), before(np, states[1], c0)
    da = (rows(h_before) @ R).reshape(xw.shape)  # (N, T, 4U)
    da += xw
    dh, dc = np.empty(h0.shape, np.float32), np.empty(c0.shape, np.float32)
    flat = (plain(a).reshape(-1) for a in (g, states, c_before))
    backward = panels(R.T)
    _backward(
        *flat, backward, masks(mask, n, steps), da.reshape(-1), dh, dc, *limits(gate), split(n)
    )
    return da, dh, dc, rows(h_before).T @ rows(da)


@lstm.rungs["compiled"].needs
def _(xw, h0, c0, R, mask, gate):
    return float32_only(xw, h0, c0, R)


@lstm_grad.rungs["compiled"].needs
def _(g, states, xw, h0, c0, R, mask, gate):
    return float32_only(xw, g, states, h0, c0, R)


@jit(parallel=True)
def _forward(xw, h0, c0, panel, mask, states, out, parts):
    _, n, steps, units = states.shape
    lines = (units + 15) // 16
    width, plane = lines * 16, n * steps * units
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        padded = padded_rows(samples)
        h, new = np.zeros(padded * width, np.float32), np.zeros(padded * width, np.float32)
        c, a = np.zeros(padded * width, np.float32), np.zeros(4 * padded * 16, np.float32)
        copy_rows(h0, first, samples, units, h, width)
        copy_rows(c0, first, samples, units, c, width)
        for t in range(steps):
            for line in range(lines):
                u = line * 16
                count = min(16, units - u)
                for block in range(4):
                    own = a[block * padded * 16 : (block + 1) * padded * 16]
                    for row in range(samples):
                        at = (((first + row) * steps + t) * 4 + block) * units + u
                        simd.store(own, row * 16, simd.get(xw, at, count))
                    start = (line * 4 + block) * units * 16
                    product(own, padded, h, width, units, panel, start)
                for row in range(samples):
                    at = row * width + u
                    h_line, c_line = simd.load(h, at), simd.load(c, at)
                    if mask[first + row, t]:
                        i = simd.sigmoid(simd.load(a, row * 16))
                        f = simd.sigmoid(simd.load(a, (padded + row) * 16))
                        candidate = simd.tanh(simd.load(a, (2 * padded + row) * 16))
                        o = simd.sigmoid(simd.load(a, (3 * padded + row) * 16))
                        c_line = simd.fma(f, c_line, i * candidate)
                        h_line = o * simd.tanh(c_line)
                    simd.store(new, at, h_line)
                    simd.store(c, at, c_line)
                    to = ((first + row) * steps + t) * units + u
                    simd.put(out, to, h_line, count)
                    simd.put(out, plane + to, c_line, count)
            h, new = new, h


@jit(parallel=True)
def _backward(g, states, c_before, panel, mask, a, dh0, dc0, scale, limit, parts):
    """a: pre-activations of all steps (N, T, 4U), flat; becomes their gradient."""
    n, steps = mask.shape
    units = dh0.shape[1]
    lines = (units + 15) // 16
    width, plane = lines * 16, n * steps * units
    for part in prange(parts):
        first = part * n // parts
        samples = (part + 1) * n // parts - first
        padded = padded_rows(samples)
        dh, dc = np.zeros(padded * width, np.float32), np.zeros(padded * width, np.float32)
        da = np.zeros(padded * 4 * units, np.float32)  # of this step
        back = np.zeros(padded * 16, np.float32)
        zero, one = simd.zeros(g), simd.splat(np.float32(1))
        for t in range(steps - 1, -1, -1):
            for row in range(samples):
                here = mask[first + row, t]
                for u in range(0, units, 16):
                    count, at = min(16, units - u), row * width + u
                    state = ((first + row) * steps + t) * units + u
                    gates = ((first + row) * steps + t) * 4 * units + u
                    mine = row * 4 * units + u
                    dh_line = simd.load(dh, at) + simd.get(g, state, count)
                    dc_line = simd.load(dc, at) + simd.get(g, plane + state, count)
                    di = df = d_candidate = do = zero
                    if here:
                        i = simd.sigmoid(simd.get(a, gates, count))
                        f = simd.sigmoid(simd.get(a, gates + units, count))
                        candidate = simd.tanh(simd.get(a, gates + 2 * units, count))
                        o = simd.sigmoid(simd.get(a, gates + 3 * units, count))
                        squashed = simd.tanh(simd.get(states, plane + state, count))
                        dc_line = simd.fma(dh_line * o, one - squashed * squashed, dc_line)
                        di = dc_line * candidate * i * (one - i)
                        df = dc_line * simd.get(c_before, state, count) * f * (one - f)
                        d_candidate = dc_line * i * (one - candidate * candidate)
                        do = dh_line * squashed * o * (one - o)
                        dc_line = dc_line * f
                    simd.store(dh, at, dh_line)
                    simd.store(dc, at, dc_line)
                    simd.put(da, mine, di, count)
                    simd.put(da, mine + units, df, count)
                    simd.put(da, mine + 2 * units, d_candidate, count)
                    simd.put(da, mine + 3 * units, do, count)
                    simd.put(a, gates, di, count)
                    simd.put(a, gates + units, df, count)
                    simd.put(a, gates + 2 * units, d_candidate, count)
                    simd.put(a, gates + 3 * units, do, count)
            for line in range(lines):
                back[:] = 0
                product(back, padded, da, 4 * units, 4 * units, panel, line * 4 * units * 16)
                for row in range(samples):
                    if mask[first + row, t]:
                        simd.store(dh, row * width + line * 16, simd.load(back, row * 16))
            for row in range(samples):
                if mask[first + row, t]:
                    through_gate(dh, row, width, scale, limit)
                    through_gate(dc, row, width, scale, limit)
        for row in range(samples):
            for u in range(units):
                dh0[first + row, u] = dh[row * width + u]
                dc0[first + row, u] = dc[row * width + u]
