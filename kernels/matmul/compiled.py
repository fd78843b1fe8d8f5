"""A large matrix meets a few rows: the gradients of a dense layer, for float32 on the CPU.

With a batch of 8 each weight is used 8 times. Reading it takes as long as that, and BLAS makes a
copy of it before it multiplies. Here the large matrix is read (or written) once, in the order in
which it lies, and the few rows stay in the cache:

    input gradient   dx = g wᵀ    rows of w are those of register tiles (`kernels.microkernel`)
    weight gradient  dw = xᵀ g    so are columns of x; the result's lines are written at once

Measured for w of 86528 x 1024, one thread: for a batch of 8 they take 0.6 of OpenBLAS's time, for
32 they take 0.7 to 0.9. The output itself, x w, reads w across its rows: BLAS is as fast there.
"""

import numpy as np

from kernels import memory
from kernels.jit import jit, plain, prange, threads, usable
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.microkernel import COLUMNS, NONE, ZERO, multiply, spare, workspace

FEW = 64  # rows
SMALL = 2**20  # multiplications
BLOCK = 48  # rows of a large matrix: as many as whole tiles


@rung(matmul, device="cpu", why="few rows: the large matrix is not copied")
def compiled(a, b):
    (m, k), n = a.shape, b.shape[1]
    y = memory.empty((m, n))
    if k <= FEW:
        turned = a.flags.f_contiguous
        rows = np.arange(m) * (1 if turned else k)
        columns = np.arange(k) * (m if turned else 1)
        packed = _panels(b, "right")
        parts = min(threads(), -(-m // BLOCK))
        flat, to = plain(a.T if turned else a).reshape(-1), np.arange(m) * n
        _outer(flat, rows, columns, packed, y, to, parts)
    else:
        packed = _panels(a.T, "left")
        parts = min(threads(), -(-n // BLOCK))
        _inner(plain(b.T).reshape(-1), packed, y, np.arange(k), np.arange(BLOCK) * k, parts)
    return y


def _panels(b, name):
    """b (K, N) in panels of 16 columns, the last one filled up with zeros: (N/16, K, 16)."""
    k, n = b.shape
    panels = -(-n // COLUMNS)
    packed = workspace(name, panels * k * COLUMNS).reshape(panels, k, COLUMNS)
    packed[-1] = 0
    for panel in range(panels):
        columns = b[:, panel * COLUMNS : (panel + 1) * COLUMNS]
        packed[panel, :, : columns.shape[1]] = columns
    return packed


@compiled.needs
def _(a, b):
    (m, k), n = a.shape, b.shape[1]
    if a.dtype != np.float32 or b.dtype != np.float32:
        return "float32 only"
    if m * k * n < SMALL:
        return f"fewer than {SMALL:,} multiplications: BLAS starts faster"
    if k > FEW and (m > FEW or b.flags.c_contiguous):
        return f"neither a sum of up to {FEW} terms nor up to {FEW} rows times a transposed matrix"
    return usable(a, b)


@jit(parallel=True)
def _outer(a, rows, columns, b, y, to, parts):
    for part in prange(parts):
        _outer_part(np.int64(part), parts, a, rows, columns, b, y, to)


@jit(error_model="numpy")
def _outer_part(part, parts, a, rows, columns, b, y, to):
    m, n = y.shape
    blocks, edge = (m + BLOCK - 1) // BLOCK, spare()
    first, last = part * blocks // parts * BLOCK, min((part + 1) * blocks // parts * BLOCK, m)
    multiply(
        a.ctypes.data, rows[first:last], last - first, columns, columns.size, b.ctypes.data,
        y.ctypes.data, to[first:last], n, ZERO, NONE, False, edge,
    )  # fmt: skip


@jit(parallel=True)
def _inner(b, a, y, columns, rows, parts):
    for part in prange(parts):
        _inner_part(np.int64(part), parts, b, a, y, columns, rows)


@jit(error_model="numpy")
def _inner_part(part, parts, b, a, y, columns, rows):
    """yᵀ (N, M) = b (N, K) times a's panels (M/16, K, 16), turned to y block by block."""
    (m, n), k = y.shape, columns.size
    wide = len(a) * COLUMNS
    blocks, edge = (n + BLOCK - 1) // BLOCK, spare()
    turned, to = np.empty((BLOCK, wide), np.float32), np.arange(BLOCK) * wide
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        first = block * BLOCK
        count = min(BLOCK, n - first)
        multiply(
            b.ctypes.data + 4 * first * k, rows, count, columns, k, a.ctypes.data,
            turned.ctypes.data, to, wide, ZERO, NONE, False, edge,
        )  # fmt: skip
        for i in range(m):
            for j in range(count):
                y[i, first + j] = turned[j, i]
    return to.size  # used last here: so it is not freed before
