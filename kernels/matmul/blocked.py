"""The product of two large matrices, block by block in the caches, on Numba's threads alone.

    for each 512 terms of the sums                  (DEPTH)
        b's rows of these terms, in panels of 16 columns one after the other: 16 numbers are a line
            of the cache, and a tile reads line after line
        each thread, of the rows of a that are its own, 24 at a time:
            if a is transposed: these, in strips of six rows, as a tile reads them
            tiles of sums in registers (`kernels.microkernel`); eight panels, 256 KB, stay in
            the level 2 cache while these rows pass by

So a number of b comes from far away once in 24 rows, from the level 2 cache once in a tile, and a
number of a stays in the level 1 cache for all of its tiles (after Goto and van de Geijn, Anatomy of
High-Performance Matrix Multiplication, 2008). Measured on one thread: with AVX2, .94 to .99 of OpenBLAS's
speed, .8 where few rows of a transposed a meet a large b; with AVX-512, on a Zen 5 where OpenBLAS
uses AVX2, 1.6 to 2.1 from 1.5 million multiplications on.

Where there are several threads, or AVX-512, this takes BLAS's place, in the recurrent rungs too.
OpenBLAS's threads wait for their next product without sleeping, some 20 ms, on the cores that the next
kernel's threads want: with two cores, a step of an LSTM that took turns between the two lasted 40
ms, and takes 18 like this.
"""

import numpy as np

from kernels import memory
from kernels.jit import float32_only, jit, lanes, most_threads, plain, prange, simd, threads
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.microkernel import COLUMNS, NONE, ROWS, ZERO, multiply, pack, spare, workspace

SMALL = 2**20  # multiplications
FEW = 64  # rows: up to so many, BLAS is faster than AVX2; terms: up to so many, slower
DEPTH = 512  # terms
WIDTH = 4096  # columns of b that are in panels at a time: so these take 8 MB at most
BLOCK = 24  # rows of a, whole tiles
LINES = 32  # rows of b that are put into panels at a time


@rung(matmul, device="cpu", why="blocks in the caches; no threads of BLAS beside Numba's")
def blocked(a, b):
    (m, k), n = a.shape, b.shape[1]
    y = memory.empty((m, n))
    panels = -(-min(n, WIDTH) // COLUMNS)
    packed = workspace("panels", panels * min(k, DEPTH) * COLUMNS)
    _product(*in_memory(a), *in_memory(b), k, y, packed, min(threads(), -(-m // ROWS)))
    return y


@blocked.needs
def _(a, b):
    (m, k), n = a.shape, b.shape[1]
    if m * k * n < SMALL:
        return f"fewer than {SMALL:,} multiplications: BLAS starts faster"
    few = FEW if lanes() == 8 else 8
    if m <= few:
        return f"not more than {few} rows: a copy of the other matrix does not pay"
    if n < COLUMNS:
        return f"fewer columns than the {COLUMNS} of a tile: BLAS is faster"
    answer = float32_only(a, b)
    if answer is True and k > FEW and most_threads() == 1 and lanes() == 8:
        return "one thread only: BLAS is as fast, and its threads are in nobody's way"
    return answer


def in_memory(matrix):
    """Its numbers in their order, and how far apart those of neighbouring rows and columns are."""
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return plain(matrix.T).reshape(-1), 1, matrix.shape[0]
    return plain(matrix).reshape(-1), matrix.shape[1], 1


@jit(parallel=True)
def _product(a, a_row, a_column, b, b_row, b_column, k, y, packed, parts):
    n = y.shape[1]
    for left in range(0, n, WIDTH):
        width = min(WIDTH, n - left)
        for start in range(0, k, DEPTH):
            depth = min(DEPTH, k - start)
            first = start * b_row + left * b_column
            for part in prange(parts):
                _pack(np.int64(part), parts, b, first, b_row, b_column, depth, width, packed)
            for part in prange(parts):
                _rows(
                    np.int64(part), parts, a, start * a_column, a_row, a_column, packed, depth,
                    y, left, width,
                )  # fmt: skip


@jit(error_model="numpy")
def _pack(part, parts, b, first, b_row, b_column, depth, width, packed):
    """This part of b's rows, `depth` of them from b[first] on, in panels (width/16, depth, 16), the
    last one filled up with zeros."""
    groups = (depth + LINES - 1) // LINES
    for group in range(part * groups // parts, (part + 1) * groups // parts):
        begin, end = group * LINES, min(group * LINES + LINES, depth)
        for column in range(0, width, COLUMNS):
            count = min(COLUMNS, width - column)
            pack(b, first + column * b_column, b_row, b_column, begin, end, count, packed, column * depth)


@jit(error_model="numpy")
def _rows(part, parts, a, first, a_row, a_column, packed, depth, y, left, width):
    """This part of y's rows, the columns `left` and on: += `depth` terms, a's columns from
    a[first] on."""
    m, n = y.shape
    tiles = (m + ROWS - 1) // ROWS
    begin, end = part * tiles // parts * ROWS, min((part + 1) * tiles // parts * ROWS, m)
    turned = a_column != 1
    if turned:  # strips of six rows: (BLOCK / 6, depth, 6)
        strips = np.empty(BLOCK * depth, np.float32)
        rows = np.arange(BLOCK)
        rows = rows // ROWS * (ROWS * depth) + rows % ROWS
        columns = np.arange(depth) * ROWS
    else:
        strips = np.empty(0, np.float32)
        rows, columns = np.arange(BLOCK) * a_row, np.arange(depth)
    to, edge = np.arange(BLOCK) * n, spare()
    adds = first > 0
    for top in range(begin, end, BLOCK):
        count = min(BLOCK, end - top)
        source = a.ctypes.data + 4 * (first + top * a_row)
        if turned:
            for row in range(0, count, ROWS):
                height = min(ROWS, count - row)
                for k in range(depth):
                    line = simd.load_some(a, first + (top + row) + k * a_column, height)
                    simd.store_some(strips, row * depth + k * ROWS, line, height)
            source = strips.ctypes.data
        multiply(
            source, rows, count, columns, depth, packed.ctypes.data,
            y.ctypes.data + 4 * (top * n + left), to, width, ZERO, NONE, adds, edge,
        )  # fmt: skip
    return strips.size + rows.size + columns.size + to.size  # used last here: see _pack
