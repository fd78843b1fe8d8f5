"""A few rows meet a large transposed matrix: the gradient of a dense layer's input, g wᵀ.

With a batch of 32 each weight is used 32 times, and BLAS makes a copy of it before it multiplies.
Here the rows of the large matrix are those of register tiles (`kernels.microkernel`), read once and
in the order in which they lie; the few rows are the tiles' columns, stay in the cache, and the
result is turned block by block.

Measured for 32 rows and w of 86528 x 1024, one thread: .7 to .9 of OpenBLAS's time. The output
itself, x w, reads w across its rows: BLAS is as fast there. The weight gradient xᵀ g has few terms,
not few rows (`kernels.matmul.blocked`), and up to 8 rows are bound by the memory
(`kernels.matmul.stream`).
"""

import numpy as np

from kernels import memory
from kernels.jit import float32_only, jit, plain, prange, threads
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.microkernel import COLUMNS, NONE, ZERO, multiply, spare

FEW = 64  # rows; terms: up to so many, the copy of the rows and the turned result cost more
SMALL = 2**20  # multiplications
BLOCK = 48  # columns of the result: as many as whole tiles


@rung(matmul, device="cpu", why="few rows: the large matrix is read once and not copied")
def few_rows(a, b):
    (m, k), n = a.shape, b.shape[1]
    y, packed = memory.empty((m, n)), _panels(a.T)
    parts = min(threads(), -(-n // BLOCK))
    _inner(plain(b.T).reshape(-1), packed, y, np.arange(k), np.arange(BLOCK) * k, parts)
    return y


def _panels(b):
    """b (K, N) in panels of 16 columns, the last one filled up with zeros: (N/16, K, 16)."""
    k, n = b.shape
    panels = -(-n // COLUMNS)
    packed = memory.empty((panels, k, COLUMNS))  # not a workspace: it is written here
    if n % COLUMNS:
        packed[-1] = 0
    for panel in range(panels):
        columns = b[:, panel * COLUMNS : (panel + 1) * COLUMNS]
        packed[panel, :, : columns.shape[1]] = columns
    return packed


@few_rows.needs
def _(a, b):
    (m, k), n = a.shape, b.shape[1]
    if m * k * n < SMALL:
        return f"fewer than {SMALL:,} multiplications: BLAS starts faster"
    if k <= FEW:
        return f"not more than {FEW} terms"
    if m > FEW or b.flags.c_contiguous or not b.flags.f_contiguous:
        return f"not up to {FEW} rows times a transposed matrix"
    return float32_only(a, b)


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
