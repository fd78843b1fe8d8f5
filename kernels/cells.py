"""What the compiled recurrent cells share: products of many states with a packed weight matrix.

A batch's samples do not see each other, so a thread takes some of them through all steps. At each
step the new pre-activations are a product h R, with R in the cache. R is packed into panels of 16
columns, and multiplied in register tiles (`kernels.microkernel`). States lie in rows of whole cache
lines, filled up with zeros, so that no loop over units needs an end of its own.
"""

import numpy as np

from kernels import memory
from kernels.jit import jit, simd, threads
from kernels.matmul.blocked import in_memory
from kernels.microkernel import COLUMNS, ROWS, pack


def panels(w, blocks=1):
    """w (K, blocks·U) -> (lines of U, blocks, K, 16): each block's columns, 16 at a time, with
    zeros after the last."""
    k, columns = w.shape
    units = columns // blocks
    packed = memory.empty((-(-units // COLUMNS) * blocks * k * COLUMNS,))
    _pack(*in_memory(w), k, units, blocks, packed)
    return packed


@jit()
def _pack(w, row, column, k, units, blocks, packed):
    at = 0
    for u in range(0, units, COLUMNS):
        count = min(COLUMNS, units - u)
        for block in range(blocks):
            pack(w, (block * units + u) * column, row, column, 0, k, count, packed, at)
            at += COLUMNS * k


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
def copy_rows(source, first, rows, units, target, width):
    """Rows first, first + 1, ... of source (N, units), flat, into rows of `width`."""
    for row in range(rows):
        for u in range(units):
            target[row * width + u] = source[(first + row) * units + u]


@jit()
def take_row(source, row, target, width):
    """target[row] = source[row], of rows of `width`, whole lines."""
    for u in range(row * width, (row + 1) * width, 16):
        simd.store(target, u, simd.load(source, u))


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
