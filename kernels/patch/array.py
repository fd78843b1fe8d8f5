"""A sum of weighted rows, then of weighted columns, for NumPy and CuPy alike.

The mean of linear mixtures is one linear mixture: every output row has 2k input rows and weights,
the same for all columns. So rows are mixed first, whole runs of memory at a time, then columns.
"""

import numpy as np

from kernels.backend import array_module, to_numpy
from kernels.ladder import rung
from kernels.patch import patch


@rung(patch, device="any", why="mixes whole rows, then whole columns, not single pixels")
def array(x, boxes, size):
    xp = array_module(x, boxes)
    dtype = x.dtype if x.dtype.kind == "f" else xp.dtype("float32")
    result = xp.zeros((boxes.shape[0], *size, x.shape[2]), dtype)
    for n, (left, top, w, h) in enumerate(to_numpy(boxes).astype("float64").tolist()):
        rows, near_rows = taps(top, h, size[0], x.shape[0])
        columns, near_columns = taps(left, w, size[1], x.shape[1])
        first, last = int(columns.min()), int(columns.max()) + 1
        wide = xp.zeros((size[0], last - first, x.shape[2]), dtype)
        for a in range(rows.shape[1]):
            near = xp.asarray(near_rows[:, a].astype(dtype))[:, None, None]
            wide += x[xp.asarray(rows[:, a]), first:last] * near
        for b in range(columns.shape[1]):
            near = xp.asarray(near_columns[:, b].astype(dtype))[:, None]
            result[n] += wide[:, xp.asarray(columns[:, b] - first)] * near
    return result


def taps(start, extent, outputs, length):
    """Along one axis: for every output the input pixels and their weights, (outputs, 2k) each."""
    k = max(1, int(extent / outputs))
    i = np.arange(outputs)[:, None]
    v = start + (i + (np.arange(k) + 0.5) / k) * extent / outputs - 0.5     # (outputs, k)
    # what a run of samples far outside adds to the last pixel stays finite
    v = np.clip(v, -1, length)
    low = np.floor(v)
    index = np.concatenate([low, low + 1], 1)
    near = np.concatenate([low + 1 - v, v - low], 1) / k
    return np.clip(index, 0, length - 1).astype(np.int64), near
