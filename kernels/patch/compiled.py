"""Rows, then columns, in one pass over the output: one mixed row at a time stays in the cache."""

import numpy as np

from kernels.jit import jit, plain, prange, problem, usable
from kernels.ladder import rung
from kernels.patch import patch
from kernels.patch.array import taps


@rung(patch, device="cpu", why="one pass: a mixed row is used while it is in the cache; no copies")
def compiled(x, boxes, size):
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float32")
    result = np.empty((boxes.shape[0], *size, x.shape[2]), dtype)
    for n, (left, top, w, h) in enumerate(boxes.tolist()):
        rows, near_rows = taps(top, h, size[0], x.shape[0])
        columns, near_columns = taps(left, w, size[1], x.shape[1])
        first, last = rows.min(), rows.max() + 1
        _mix(plain(x[first:last]), rows - first, near_rows.astype(dtype),
             columns, near_columns.astype(dtype), result[n])
    return result


@compiled.needs
def _(x, boxes, size):
    return problem() or True if x.dtype == "uint8" else usable(x)


@jit(parallel=True, fastmath=True)
def _mix(x, rows, near_rows, columns, near_columns, result):
    oh, ow, channels = result.shape
    first, last = columns.min(), columns.max() + 1
    taps, width, numbers = columns.shape[1], (last - first) * channels, ow * channels
    at = np.empty((taps, numbers), np.int64)        # of each tap of each number of a result's row
    near = np.empty((taps, numbers), result.dtype)
    for b in range(taps):
        for j in range(numbers):
            at[b, j] = (columns[j // channels, b] - first) * channels + j % channels
            near[b, j] = near_columns[j // channels, b]
    for i in prange(oh):
        wide, line = np.zeros(width, result.dtype), np.zeros(numbers, result.dtype)
        for a in range(rows.shape[1]):
            row = x[rows[i, a], first:last].reshape(width)
            for j in range(width):
                wide[j] += near_rows[i, a] * row[j]
        for b in range(taps):
            for j in range(numbers):
                line[j] += near[b, j] * wide[at[b, j]]
        for j in range(ow):
            for c in range(channels):
                result[i, j, c] = line[j * channels + c]
