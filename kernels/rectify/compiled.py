"""One pass over memory: each number is masked, written and added to its channel's sum at once.

Sums are of blocks of some thousand numbers first, then of blocks, in float64: the same for any
number of threads, and as exact as the pairwise sums of NumPy.
"""

import numpy as np

from kernels import memory
from kernels.jit import jit, plain, prange, simd, usable
from kernels.ladder import rung
from kernels.rectify import rectify_grad

BLOCK, FEW = 2**14, 4  # numbers; channels
LARGE, AHEAD = 2**21, 1024  # numbers: of larger arrays, lines are asked for so long before,
WIDE = 256  # unless a row has more numbers than that: the processor foresees these by itself


@rung(rectify_grad, device="cpu", why="one pass over memory instead of three")
def compiled(g, y):
    dz, channels = memory.empty(g.shape, g.dtype), g.shape[-1]
    if not g.size:
        return dz, np.zeros(channels, g.dtype)
    rows = max(BLOCK // channels, 1)
    sums = np.zeros((-(-g.size // (rows * channels)), channels), g.dtype)
    arrays = (plain(a).reshape(-1) for a in (g, y))
    ahead = AHEAD if g.size > LARGE and channels <= WIDE else None  # two functions for Numba
    flat = dz.reshape(-1), sums, sums.reshape(-1)
    _mask.shared(g.size)(*arrays, *flat, rows * channels, ahead)
    return dz, sums.sum(axis=0, dtype=np.float64).astype(g.dtype)


@compiled.needs
def _(g, y):
    if g.shape[-1] < FEW:
        return f"fewer than {FEW} channels: a line would hold no more than these"
    return usable(g, y)


@jit(parallel=True)
def _mask(g, y, dz, sums, flat_sums, block, ahead):
    blocks, channels = sums.shape
    lanes = 64 // g.itemsize
    whole = channels // lanes * lanes
    for number in prange(blocks):
        for row in range(number * block, min((number + 1) * block, g.size), channels):
            if ahead is not None:
                for at in range(row + ahead, row + ahead + channels, lanes):
                    simd.prefetch(g, at)
                    simd.prefetch(y, at)
                    simd.prefetch_to_write(dz, at)
            for c in range(0, whole, lanes):
                _line(g, y, dz, row + c, flat_sums, number * channels + c, None)
            if whole < channels:
                _line(g, y, dz, row + whole, flat_sums, number * channels + whole, channels - whole)


@jit(forceinline=True)
def _line(g, y, dz, at, sums, to, count):
    zero = simd.zeros(g)
    part = simd.where(simd.get(y, at, count) > zero, simd.get(g, at, count), zero)
    simd.put(dz, at, part, count)
    simd.put(sums, to, simd.get(sums, to, count) + part, count)
