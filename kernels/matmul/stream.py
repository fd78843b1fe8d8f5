"""A batch of up to 8 meets a large matrix: the products of a dense layer at the memory's speed.

Each weight is used 8 times at most, so what counts is that it comes once, early enough, and in the
order in which it lies. The kernels below read (or write) the large matrix w (K, N) so:

    output           x w     8 rows of w at a time, a page of each, added to 4 or 8 rows of sums,
                             which stay in the cache, by register tiles (`kernels.microkernel`)
    input gradient   g wᵀ    dot products of 3 rows of w with 2 of g: six sums in registers
    weight gradient  xᵀ g    4 rows of the result, line by line, written past the caches: so the
                             lines that are overwritten are not read first

The processor foresees reads within a page of 4 KB, and a row of w often is a page: so lines that are
wanted soon are asked for by hand (`simd.prefetch`). Measured for 8 rows and w of 86528 x 1024, 354
MB, one thread of a Zen 5: 15, 21 and 12 ms, where BLAS takes 33, 44 and 59 and reading w alone 9. On
two Zen 3 cores the second and third took 26 and 20 ms with one thread, 12 and 13 with two; reading w
took 12.
"""

import numpy as np

from kernels import memory
from kernels.jit import float32_only, jit, plain, prange, simd, threads
from kernels.ladder import rung
from kernels.matmul import matmul
from kernels.matmul.blocked import in_memory
from kernels.microkernel import NONE, address, lanes, tile

FEW = 8  # rows of a batch
LANES = 16  # numbers of a line: w's rows are whole ones
LONG = 1024  # terms that are added up before they go to the result: so that sums stay exact
LARGE = 2**21  # numbers; smaller matrices are read from the caches
ROWS = 8  # of w that are added at a time
WIDE = 1024  # columns whose sums stay in the cache


@rung(matmul, device="cpu", why="a batch of 8: the large matrix comes once, asked for in time")
def stream(a, b):
    (m, k), n = a.shape, b.shape[1]
    if k <= FEW:
        y = memory.empty((m, n))
        _outer(*in_memory(a), plain(b).reshape(-1), k, y.reshape(-1), m, min(threads(), m // 4))
        return y
    turned = not b.flags.c_contiguous
    kernel, rows, split = (_dot, 2, n // 3) if turned else (_add, 4, n // LANES)
    batch = np.zeros((-(-m // rows) * rows, k), np.float32)  # in twos or fours
    batch[:m] = a
    y = memory.empty((len(batch), n))
    flat = (plain(array).reshape(-1) for array in (batch, b.T if turned else b, y))
    kernel(*flat, len(batch), k, n, min(threads(), split))
    return y[:m]


@stream.needs
def _(a, b):
    (m, k), n = a.shape, b.shape[1]
    if not (2 <= m <= FEW < k or 2 <= k <= FEW < m):
        return f"neither 2 to {FEW} rows nor sums of 2 to {FEW} terms"
    if max(k, m) * n < LARGE:
        return f"no matrix of {LARGE:,} numbers or more: the caches hold it"
    turned = b.flags.f_contiguous and not b.flags.c_contiguous
    if not b.flags.c_contiguous and (k <= FEW or not turned):
        return "b is not in the order in which it would be read"
    if turned and n < 3:
        return "fewer than three columns of a transposed matrix"
    if (k if turned else n) % LANES:
        return f"b's rows (transposed: its columns) are not whole lines of {LANES} numbers"
    return float32_only(a, b)


@jit(parallel=True)
def _add(x, w, y, m, k, n, parts):
    for part in prange(parts):
        _add_part(np.int64(part), parts, x, w, y, m, k, n)


@jit(error_model="numpy")
def _add_part(part, parts, x, w, y, m, terms, n):
    """These of the lines of y = x w, for m = 4 or 8 rows."""
    sums, zeros = np.empty(m * WIDE, np.float32), np.zeros(2 * LANES, np.float32)
    ws, ys, own = simd.pointer(w), simd.pointer(y), simd.pointer(sums)
    rows, columns, to = np.arange(4) * terms, np.arange(ROWS), np.arange(4) * WIDE
    begin, end = part * (n // LANES) // parts * LANES, (part + 1) * (n // LANES) // parts * LANES
    for first in range(begin, end, WIDE):
        last = min(first + WIDE, end)
        for start in range(0, terms, LONG):
            sums[:] = 0
            for top in range(start, min(start + LONG, terms), ROWS):
                count = min(ROWS, terms - top)
                for column in range(first, last, 2 * lanes()):
                    half = last - column < 2 * lanes()
                    for k in range(top + ROWS, min(top + 2 * ROWS, terms)):
                        simd.prefetch(ws, k * n + column)
                        if lanes() == LANES:
                            simd.prefetch(ws, k * n + column + LANES)
                    for row in range(0, m, 4):
                        tile(
                            address(x) + 4 * (row * terms + top), address(rows), address(columns),
                            count, address(w) + 4 * (top * n + column), 4 * n, 4 * lanes(),
                            address(zeros), address(sums) + 4 * (row * WIDE + column - first),
                            address(to), True, half, True, NONE,
                        )  # fmt: skip
            for row in range(m):
                for column in range(first, last, LANES):
                    at = row * n + column
                    numbers = simd.load(own, row * WIDE + column - first)
                    simd.store(ys, at, numbers + simd.load(ys, at) if start else numbers)
    # used last here: so they are not freed before
    return x.size + w.size + y.size + sums.size + zeros.size + rows.size + columns.size + to.size


@jit(parallel=True)
def _dot(g, w, y, m, k, n, parts):
    for part in prange(parts):
        _dot_part(np.int64(part), parts, g, w, y, m, k, n)


@jit(error_model="numpy")
def _dot_part(part, parts, g, w, y, m, terms, n):
    """These of the columns of y = g wᵀ, for w (n, terms) and an even m. The last three may overlap
    with those before, and are then computed twice."""
    gs, ws, zero = simd.pointer(g), simd.pointer(w), simd.zeros(g)
    triples, few = (n + 2) // 3, m <= 4  # in two passes, or one, there is more to ask for
    for triple in range(part * triples // parts, (part + 1) * triples // parts):
        j = min(3 * triple, n - 3)
        w0, w1, w2 = j * terms, (j + 1) * terms, (j + 2) * terms
        for row in range(0, m, 2):
            g0, g1 = row * terms, (row + 1) * terms
            soon = min(j + 3 + row // 2, n - 1) * terms  # in three passes the next three rows
            sooner = min(j + 3 + row // 2 + m // 2, n - 1) * terms
            a0 = a1 = a2 = b0 = b1 = b2 = zero
            for k in range(0, terms, LANES):
                simd.prefetch(ws, soon + k)
                if few:
                    simd.prefetch(ws, sooner + k)
                a, b = simd.load(gs, g0 + k), simd.load(gs, g1 + k)
                weights = simd.load(ws, w0 + k)
                a0, b0 = simd.fma(a, weights, a0), simd.fma(b, weights, b0)
                weights = simd.load(ws, w1 + k)
                a1, b1 = simd.fma(a, weights, a1), simd.fma(b, weights, b1)
                weights = simd.load(ws, w2 + k)
                a2, b2 = simd.fma(a, weights, a2), simd.fma(b, weights, b2)
            at, below = row * n + j, (row + 1) * n + j
            y[at], y[at + 1], y[at + 2] = simd.total(a0), simd.total(a1), simd.total(a2)
            y[below], y[below + 1], y[below + 2] = simd.total(b0), simd.total(b1), simd.total(b2)
    return g.size + w.size  # used last here: see _add_part


@jit(parallel=True)
def _outer(x, x_row, x_column, g, terms, y, m, parts):
    for part in prange(parts):
        _outer_part(np.int64(part), parts, x, x_row, x_column, g, terms, y, m)


@jit(error_model="numpy")
def _outer_part(part, parts, x, x_row, x_column, g, terms, y, m):
    """These of the rows of y (m, n) = x g, sums of few terms. The last four may overlap with those
    before, and are then computed twice."""
    n, quads = g.size // terms, (m + 3) // 4
    xs, gs, ys, zero = simd.pointer(x), simd.pointer(g), simd.pointer(y), simd.zeros(g)
    for quad in range(part * quads // parts, (part + 1) * quads // parts):
        row = min(4 * quad, m - 4)
        for j in range(0, n, LANES):
            y0 = y1 = y2 = y3 = zero
            for k in range(terms):
                line, at = simd.load(gs, k * n + j), row * x_row + k * x_column
                y0 = simd.fma(simd.repeat(xs, at), line, y0)
                y1 = simd.fma(simd.repeat(xs, at + x_row), line, y1)
                y2 = simd.fma(simd.repeat(xs, at + 2 * x_row), line, y2)
                y3 = simd.fma(simd.repeat(xs, at + 3 * x_row), line, y3)
            to = row * n + j
            simd.stream(ys, to, y0)
            simd.stream(ys, to + n, y1)
            simd.stream(ys, to + 2 * n, y2)
            simd.stream(ys, to + 3 * n, y3)
    simd.fence()
    return x.size + g.size + y.size  # used last here: see _add_part
