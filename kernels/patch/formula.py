"""One output pixel and its samples at a time: the oracle of the other rungs."""

import math

import numpy as np

from kernels.ladder import rung
from kernels.patch import patch


@rung(patch, device="cpu", why="the definition in Python loops")
def formula(x, boxes, size):
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float32")
    (oh, ow), (height, width, channels) = size, x.shape
    result = np.zeros((len(boxes), oh, ow, channels), dtype)
    for n, (left, top, w, h) in enumerate(boxes.tolist()):
        for i in range(oh):
            for j in range(ow):
                total = np.zeros(channels)
                samples = 0
                for v in _samples(top, h, i, oh):
                    for u in _samples(left, w, j, ow):
                        for a, near_a in _neighbours(v, height):
                            for b, near_b in _neighbours(u, width):
                                total += near_a * near_b * x[a, b]
                        samples += 1
                result[n, i, j] = total / samples
    return result


def _samples(start, extent, i, outputs):
    k = max(1, int(extent / outputs))
    return [start + (i + (s + 0.5) / k) * extent / outputs - 0.5 for s in range(k)]


def _neighbours(v, length):
    """The two pixels around v, with their weights; beyond the image its last ones."""
    low = math.floor(v)
    for index, near in ((low, low + 1 - v), (low + 1, v - low)):
        yield min(max(index, 0), length - 1), near
