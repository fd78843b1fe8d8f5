"""Rows first, then columns: each pixel is mixed twice, not four times, and rows are copied whole.

Interpolation along rows and along columns do not depend on each other. So two rows at a time are
mixed into one over the width that the box spans, where the numbers lie side by side in memory, and
only then are columns picked. Where each box ends must be known on the host: CPU only.
"""

import numpy as np

from kernels.crop import crop
from kernels.crop.array import axes
from kernels.ladder import rung


@rung(crop, device="cpu", why="mixes whole runs of rows, then columns, instead of four gathers")
def separable(x, boxes, size):
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float32")
    n, c = boxes.shape[0], x.shape[3]
    oh, ow = size
    (rows, near_v, _), (columns, near_u, _) = axes(np, boxes, x.shape, size, dtype)
    y = np.empty((n, oh, ow, c), dtype)
    for i in range(n):
        image = x[i if x.shape[0] > 1 else 0]
        left, right = columns[0, i, 0], columns[1, i, -1] + 1  # u grows from column to column
        wide = image[rows[0, i], left:right] * near_v[0, i][:, None, None]  # (OH, span, C)
        wide += image[rows[1, i], left:right] * near_v[1, i][:, None, None]
        near = np.repeat(near_u[:, i], c, axis=1)  # (2, OW*C)
        picked = wide.take(columns[0, i] - left, axis=1).reshape(oh, ow * c)
        mixed = np.multiply(picked, near[0], out=y[i].reshape(oh, ow * c))
        picked = wide.take(columns[1, i] - left, axis=1).reshape(oh, ow * c)
        picked *= near[1]
        mixed += picked
    return y
