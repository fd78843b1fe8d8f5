"""What the compiled recurrent cells share: products of many states with a packed weight matrix.

A batch's samples do not see each other, so a thread takes some of them through all steps. At each
step the new pre-activations are a product h R, with R in the cache. R is packed into panels of 16
columns: six rows of h by one panel are a tile of 6 x 16 sums that stay in registers through all
units (`kernels.simd`; twelve of AVX2's sixteen registers). States lie in rows of whole cache lines,
filled up with zeros, and in tiles of six rows (the last ones of four), so that no loop needs an
end of its own.
"""

import numpy as np

from kernels import memory
from kernels.jit import jit, simd, threads
from kernels.matmul.blocked import in_memory

LANES = 16  # of float32
ROWS = 6


def panels(w, blocks=1):
    """w (K, blocks·U) -> (lines of U, blocks, K, 16): each block's columns, 16 at a time, with
    zeros after the last."""
    k, columns = w.shape
    units = columns // blocks
    packed = memory.empty((-(-units // LANES) * blocks * k * LANES,))
    _pack(*in_memory(w), k, units, blocks, packed)
    return packed


@jit()
def _pack(w, row, column, k, units, blocks, packed):
    at = 0
    for u in range(0, units, LANES):
        count = min(LANES, units - u)
        for block in range(blocks):
            first = (block * units + u) * column
            if column == 1:
                for i in range(k):
                    simd.store(packed, at + i * LANES, simd.get(w, first + i * row, count))
            else:
                for j in range(LANES):
                    for i in range(k):
                        number = w[first + i * row + j * column] if j < count else np.float32(0)
                        packed[at + i * LANES + j] = number
            at += LANES * k


def split(n):
    """How many threads share n samples: at least a tile each."""
    return max(1, min(threads(), n // ROWS))


def limits(gate):
    """The gradient gate as two numbers."""
    scale, limit = gate or (1.0, None)
    return np.float32(scale), np.float32(np.inf if limit is None else limit)


def masks(mask, n, steps):
    """The mask, or one that is True everywhere."""
    return np.ones((n, steps), bool) if mask is None else np.array(mask, bool, order="C")


@jit()
def padded_rows(samples):
    """So many rows, or a few more, as tiles of six and of four can hold."""
    return 4 if 0 < samples < 3 else samples + samples % 2


@jit()
def product(sums, rows, h, width, depth, panel, start):
    """sums[rows, 16] += h[rows, :depth] @ panel[depth, 16], where the panel begins at `start`.
    Rows of h are `width` apart; rows: from `padded_rows`."""
    fours = (0, 2, 1)[rows % 6 // 2]
    sixes = rows - 4 * fours
    for row in range(0, sixes, 6):
        at, h0 = row * 16, row * width
        h1, h2, h3 = h0 + width, h0 + 2 * width, h0 + 3 * width
        h4, h5 = h0 + 4 * width, h0 + 5 * width
        a0, a1, a2 = simd.load(sums, at), simd.load(sums, at + 16), simd.load(sums, at + 32)
        a3, a4, a5 = simd.load(sums, at + 48), simd.load(sums, at + 64), simd.load(sums, at + 80)
        for k in range(depth):
            b = simd.load(panel, start + k * 16)
            a0 = simd.fma(simd.repeat(h, h0 + k), b, a0)
            a1 = simd.fma(simd.repeat(h, h1 + k), b, a1)
            a2 = simd.fma(simd.repeat(h, h2 + k), b, a2)
            a3 = simd.fma(simd.repeat(h, h3 + k), b, a3)
            a4 = simd.fma(simd.repeat(h, h4 + k), b, a4)
            a5 = simd.fma(simd.repeat(h, h5 + k), b, a5)
        simd.store(sums, at, a0)
        simd.store(sums, at + 16, a1)
        simd.store(sums, at + 32, a2)
        simd.store(sums, at + 48, a3)
        simd.store(sums, at + 64, a4)
        simd.store(sums, at + 80, a5)
    for row in range(sixes, rows, 4):
        at, h0 = row * 16, row * width
        h1, h2, h3 = h0 + width, h0 + 2 * width, h0 + 3 * width
        a0, a1 = simd.load(sums, at), simd.load(sums, at + 16)
        a2, a3 = simd.load(sums, at + 32), simd.load(sums, at + 48)
        for k in range(depth):
            b = simd.load(panel, start + k * 16)
            a0 = simd.fma(simd.repeat(h, h0 + k), b, a0)
            a1 = simd.fma(simd.repeat(h, h1 + k), b, a1)
            a2 = simd.fma(simd.repeat(h, h2 + k), b, a2)
            a3 = simd.fma(simd.repeat(h, h3 + k), b, a3)
        simd.store(sums, at, a0)
        simd.store(sums, at + 16, a1)
        simd.store(sums, at + 32, a2)
        simd.store(sums, at + 48, a3)


@jit()
def copy_rows(source, first, rows, units, target, width):
    """Rows first, first + 1, ... of source (N, units), flat, into rows of `width`."""
    for row in range(rows):
        for u in range(units):
            target[row * width + u] = source[(first + row) * units + u]


@jit()
def through_gate(gradients, row, width, scale, limit):
    """The gradient gate of `kernels.recurrent`, on one row."""
    start = row * width
    squares = simd.zeros(gradients)
    factor = simd.splat(scale)
    for u in range(start, start + width, 16):
        line = simd.load(gradients, u) * factor
        squares = simd.fma(line, line, squares)
        simd.store(gradients, u, line)
    if limit < np.inf:
        norm = np.float32(np.sqrt(simd.total(squares)))
        if not norm <= limit:
            shorter = simd.splat(limit / norm)
            for u in range(start, start + width, 16):
                simd.store(gradients, u, simd.load(gradients, u) * shorter)
