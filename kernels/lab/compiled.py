"""One pass: a cell's mean stays in registers until its colour is known."""

import numpy as np

from kernels.jit import jit, plain, prange, usable
from kernels.lab import MATRIX, lab
from kernels.ladder import rung


@rung(lab, device="cpu", why="one pass over the pixels, no arrays between")
def compiled(x, cell):
    n, height, width, _ = x.shape
    result = np.empty((n, height // cell, width // cell, 3), x.dtype)
    _convert(plain(x), cell, MATRIX.astype(x.dtype), result)
    return result


@compiled.needs
def _(x, cell):
    return usable(x)


@jit(parallel=True, fastmath=True)
def _convert(x, cell, matrix, result):
    n, rows, columns, _ = result.shape
    kind = x.dtype.type
    for task in prange(n * rows):
        image, i = task // rows, task % rows
        for j in range(columns):
            blue = green = red = kind(0)
            for r in range(i * cell, (i + 1) * cell):
                for c in range(j * cell, (j + 1) * cell):
                    blue += x[image, r, c, 0]
                    green += x[image, r, c, 1]
                    red += x[image, r, c, 2]
            scale = kind(1 / (255 * cell * cell))
            blue, green, red = _linear(blue * scale), _linear(green * scale), _linear(red * scale)
            fx = _f(matrix[0, 0] * blue + matrix[0, 1] * green + matrix[0, 2] * red)
            fy = _f(matrix[1, 0] * blue + matrix[1, 1] * green + matrix[1, 2] * red)
            fz = _f(matrix[2, 0] * blue + matrix[2, 1] * green + matrix[2, 2] * red)
            result[image, i, j, 0] = kind(1.16) * fy - kind(0.66)
            result[image, i, j, 1] = kind(500 / 255) * (fx - fy)
            result[image, i, j, 2] = kind(200 / 255) * (fy - fz)


@jit(fastmath=True)
def _linear(s):
    kind = type(s)
    return s * kind(1 / 12.92) if s <= kind(.04045) else ((s + kind(.055)) * kind(1 / 1.055)) ** kind(2.4)


@jit(fastmath=True)
def _f(t):
    kind = type(t)
    return np.cbrt(t) if t > kind((6 / 29) ** 3) else t * kind(1 / (3 * (6 / 29) ** 2)) + kind(4 / 29)
