"""Row by row: gradients in vectors, then one cheap addition for each of a pixel's two columns.

The direction needs no angle: how often |gy| exceeds tan(10°, 30°, 50°, 70°)·|gx| is its number
within a quadrant, and the signs tell the quadrant. A row of pixels first adds up into a row of cells
by columns; that row is then added, in vectors, to the two rows of cells around it. Bands of rows
are independent, but for a few pixels that two of them look at.
"""

import math

import numpy as np

from kernels.hog import CHANNELS, hog
from kernels.jit import jit, plain, prange, usable
from kernels.ladder import rung

BAND = 10   # rows of cells that one thread does at a time


@rung(hog, device="cpu", why="directions by comparison, and two additions a pixel instead of four")
def compiled(x, cell):
    n, height, width, _ = x.shape
    rows, columns = height // cell, width // cell
    histogram = np.zeros((n, rows, columns, 18), x.dtype)
    if min(height, width) > 2:      # else no pixel has a gradient
        _gather(plain(x), cell, histogram)
    energy = np.empty((n, rows + 2, columns + 2), x.dtype)
    result = np.empty((n, rows, columns, CHANNELS), x.dtype)
    _normalise(histogram, energy, result)
    return result


@compiled.needs
def _(x, cell):
    return usable(x)


@jit(parallel=True, fastmath=True)
def _gather(x, cell, histogram):
    n, height, width, channels = x.shape
    _, rows, columns, _ = histogram.shape
    bands = (rows + BAND - 1) // BAND
    inner = width - 2           # the columns that have a gradient; column 1 is number 0 here
    kind = x.dtype.type
    left, near = np.empty(inner, np.int64), np.empty(inner, x.dtype)
    for c in range(inner):      # where the cell to the left begins, and how near it is
        u = (c + 1.5) / cell + 0.5
        left[c] = int(u) * 18
        near[c] = int(u) + 1 - u
    for task in prange(n * bands):
        image, first = task // bands, task % bands * BAND
        last = min(first + BAND, rows)
        gx, gy, length = np.empty(inner, x.dtype), np.empty(inner, x.dtype), np.empty(inner, x.dtype)
        direction = np.empty(inner, np.int32)
        lines = np.empty((3, channels, width), x.dtype)     # three rows of pixels, by channels
        cells = np.empty((columns + 2) * 18, x.dtype)
        top = max(first * cell - cell // 2, 1)
        for r in range(top - 1, min(last * cell + (cell + 1) // 2, height - 1) + 1):
            line = lines[r % 3]
            for c in range(width):
                for k in range(channels):
                    line[k, c] = x[image, r, c, k]
            if r > top:         # all that the row before needs is there
                _gradients(lines[(r + 1) % 3], lines[(r + 2) % 3], line, gx, gy, length)
                _directions(gx, gy, length, direction)
                cells[:] = 0
                for c in range(inner):
                    at = left[c] + direction[c]
                    share = near[c] * length[c]
                    cells[at] += share
                    cells[at + 18] += length[c] - share
                v = (r - 0.5) / cell + 0.5
                for i in (int(v) - 1, int(v)):
                    if first <= i < last:
                        _add(kind(1 - abs(v - 1 - i)), cells[18:-18],
                             histogram[image, i].reshape(columns * 18))


@jit(fastmath=True)
def _add(share, cells, total):
    for j in range(total.size):
        total[j] += share * cells[j]


@jit(fastmath=True)
def _gradients(above, here, below, gx, gy, length):
    """Of each pixel but the outermost the channel's gradient that is longest, and its square."""
    length[:] = -1
    for k in range(len(here)):
        west, east, north, south = here[k, :-2], here[k, 2:], above[k, 1:-1], below[k, 1:-1]
        for c in range(gx.size):
            dx, dy = east[c] - west[c], south[c] - north[c]
            square = dx * dx + dy * dy
            longer = square > length[c]
            gx[c] = dx if longer else gx[c]
            gy[c] = dy if longer else gy[c]
            length[c] = square if longer else length[c]


@jit(fastmath=True)
def _directions(gx, gy, length, direction):
    """The number of each gradient's direction, 0 to 17, and its length from the square."""
    kind = gx.dtype.type
    t1, t2 = kind(math.tan(math.radians(10))), kind(math.tan(math.radians(30)))
    t3, t4 = kind(math.tan(math.radians(50))), kind(math.tan(math.radians(70)))
    zero, one, nine, twice = kind(0), kind(1), kind(9), kind(18)
    for c in range(gx.size):
        dx, dy = abs(gx[c]), abs(gy[c])
        length[c] = math.sqrt(length[c])
        o = (one if dy > t1 * dx else zero) + (one if dy > t2 * dx else zero)
        o += (one if dy > t3 * dx else zero) + (one if dy > t4 * dx else zero)  # 0 to 4 from x
        o = o if gx[c] * gy[c] > zero else nine - o             # 0 to 9
        o = o + nine if gy[c] < zero else o                     # 0 to 18
        flat = zero if gx[c] > zero else nine
        o = o if dy > t1 * dx else flat
        direction[c] = np.int32(o if o < twice else zero)


@jit(parallel=True, fastmath=True)
def _normalise(histogram, energy, result):
    n, rows, columns, _ = histogram.shape
    kind = histogram.dtype.type
    most, half, eighteenth = kind(0.2), kind(0.5), kind(1 / math.sqrt(18))
    for task in prange(n * (rows + 2)):     # the outermost cells are there twice
        image, i = task // (rows + 2), task % (rows + 2)
        cells = histogram[image, min(max(i - 1, 0), rows - 1)]
        for j in range(columns + 2):
            h = cells[min(max(j - 1, 0), columns - 1)]
            total = kind(0)
            for o in range(9):
                both = h[o] + h[o + 9]
                total += both * both
            energy[image, i, j] = total
    for task in prange(n * rows):
        image, i = task // rows, task % rows
        above, here, below = energy[image, i], energy[image, i + 1], energy[image, i + 2]
        for j in range(columns):
            left, middle, right = here[j], here[j + 1] + kind(1e-4), here[j + 2]
            n0 = 1 / math.sqrt(middle + left + above[j] + above[j + 1])
            n1 = 1 / math.sqrt(middle + right + above[j + 1] + above[j + 2])
            n2 = 1 / math.sqrt(middle + left + below[j] + below[j + 1])
            n3 = 1 / math.sqrt(middle + right + below[j + 1] + below[j + 2])
            h, y = histogram[image, i, j], result[image, i, j]
            s0 = s1 = s2 = s3 = kind(0)
            for o in range(18):
                a, b = min(h[o] * n0, most), min(h[o] * n1, most)
                c, d = min(h[o] * n2, most), min(h[o] * n3, most)
                y[o] = half * (a + b + c + d)
                s0 += a
                s1 += b
                s2 += c
                s3 += d
            for o in range(9):
                both = h[o] + h[o + 9]
                y[18 + o] = half * (min(both * n0, most) + min(both * n1, most)
                                    + min(both * n2, most) + min(both * n3, most))
            y[27], y[28] = s0 * eighteenth, s1 * eighteenth
            y[29], y[30] = s2 * eighteenth, s3 * eighteenth
