"""The definition, pixel by pixel and cell by cell: the oracle of the other rungs."""

import math

import numpy as np

from kernels.hog import CHANNELS, hog
from kernels.ladder import rung


@rung(hog, device="cpu", why="the definition in Python loops")
def formula(x, cell):
    n, height, width, channels = x.shape
    rows, columns = height // cell, width // cell
    result = np.zeros((n, rows, columns, CHANNELS), x.dtype)
    for image in range(n):
        h = np.zeros((rows, columns, 18))
        for r in range(1, height - 1):
            for c in range(1, width - 1):
                gx, gy = _gradient(x[image].astype(np.float64), r, c, channels)
                o = math.floor(math.atan2(gy, gx) / math.pi * 9 + 0.5) % 18
                v, u = (r + 0.5) / cell - 0.5, (c + 0.5) / cell - 0.5
                for i in (math.floor(v), math.floor(v) + 1):
                    for j in (math.floor(u), math.floor(u) + 1):
                        if 0 <= i < rows and 0 <= j < columns:
                            near = (1 - abs(v - i)) * (1 - abs(u - j))
                            h[i, j, o] += near * math.hypot(gx, gy)
        e = ((h[..., :9] + h[..., 9:]) ** 2).sum(2)
        for i in range(rows):
            for j in range(columns):
                norms = []
                for up in (max(i - 1, 0), min(i + 1, rows - 1)):
                    for side in (max(j - 1, 0), min(j + 1, columns - 1)):
                        energy = e[i, j] + e[up, j] + e[i, side] + e[up, side]
                        norms.append(1 / math.sqrt(energy + 1e-4))
                for o in range(18):
                    clipped = [min(norm * h[i, j, o], 0.2) for norm in norms]
                    result[image, i, j, o] = sum(clipped) / 2
                    for k in range(4):
                        result[image, i, j, 27 + k] += clipped[k] / math.sqrt(18)
                for o in range(9):
                    both = h[i, j, o] + h[i, j, o + 9]
                    result[image, i, j, 18 + o] = sum(min(n * both, 0.2) for n in norms) / 2
    return result


def _gradient(x, r, c, channels):
    """The longest of the channels' gradients at a pixel."""
    best = 0.0, 0.0
    for k in range(channels):
        gx, gy = x[r, c + 1, k] - x[r, c - 1, k], x[r + 1, c, k] - x[r - 1, c, k]
        if gx * gx + gy * gy > best[0] ** 2 + best[1] ** 2:
            best = gx, gy
    return best
