"""Compiled: rows are mixed over the box's width a line of numbers at a time, columns picked then.

Like `separable`, but without NumPy's passes and temporaries: one row at a time stays in the cache.
The gradients go the same way back. What a sample mixes is as in the array rung; in float32 a sample
next to a pixel's centre may be counted to the other side of it.
"""

import numpy as np

from kernels.crop import crop, crop_box_grad, crop_image_grad
from kernels.jit import jit, plain, prange, usable
from kernels.ladder import rung
from kernels.memory import empty


@rung(crop, device="cpu", why="mixes rows and picks columns in one pass, without temporaries")
def compiled(x, boxes, size):
    y = empty((len(boxes), *size, x.shape[3]), x.dtype if x.dtype.kind == "f" else np.float32)
    if y.size:
        _crop.shared(y.size)(plain(x), *_axes(plain(boxes), x.shape, size), y)
    return y


@rung(crop_image_grad, device="cpu", why="scatters to those pixels only that were looked at")
def compiled(g, boxes, x_shape):  # noqa: F811
    dx = np.zeros(x_shape, g.dtype)
    if g.size:
        _image_grad.shared(g.size)(plain(g), *_axes(plain(boxes), x_shape, g.shape[1:3]), dx)
    return dx


@rung(crop_box_grad, device="cpu", why="one pass over the gradient, without temporaries")
def compiled(g, x, boxes):  # noqa: F811
    d_boxes = np.zeros(boxes.shape, boxes.dtype)
    if g.size:
        axes = _axes(plain(boxes), x.shape, g.shape[1:3])
        _box_grad.shared(g.size)(plain(g), plain(x), *axes, d_boxes)
    return d_boxes


@crop.rungs["compiled"].needs
def _(x, boxes, size):
    return _pixels(x) and usable(boxes)


@crop_image_grad.rungs["compiled"].needs
def _(g, boxes, x_shape):
    return usable(g, boxes)


@crop_box_grad.rungs["compiled"].needs
def _(g, x, boxes):
    if x.dtype == np.uint8:
        return "floating point pixels only"
    return usable(g, x, boxes)


def _pixels(x):
    if not x.flags.c_contiguous:  # a copy of the frame would take longer than the crop
        return "contiguous pixels only"
    return x.dtype == np.uint8 or usable(x)


@jit()
def _axes(boxes, x_shape, size):
    """For rows and for columns: the pixel before each sample and the one after it (N, O, 2), and
    the weight of each, then its slope (N, O, 4). Both are 0, and the pixel some one, outside."""
    rows, columns = np.empty((len(boxes), size[0], 2), np.int64), np.empty(
        (len(boxes), size[1], 2), np.int64
    )  # fmt: skip
    by_row, by_column = np.zeros((len(boxes), size[0], 4)), np.zeros((len(boxes), size[1], 4))
    for n in range(len(boxes)):
        for axis in range(2):
            pixels, weights = (rows[n], by_row[n]) if axis == 0 else (columns[n], by_column[n])
            first, extent = np.float64(boxes[n, 1 - axis]), np.float64(boxes[n, 3 - axis])
            length = x_shape[1 + axis]
            for i in range(size[axis]):
                u = first + extent * ((i + 0.5) / size[axis]) - 0.5
                u = min(max(u, -2.0), length + 1.0)
                left = np.int64(np.floor(u))
                for side in range(2):
                    pixels[i, side] = min(max(left + side, 0), length - 1)
                    if 0 <= left + side < length:
                        weights[i, side] = u - left if side else left + 1 - u
                        weights[i, 2 + side] = 2 * side - 1
    return rows, columns, by_row, by_column


@jit(parallel=True)
def _crop(x, rows, columns, by_row, by_column, y):
    n, oh, ow, channels = y.shape
    for task in prange(n * oh):
        box, i = task // oh, task % oh
        image = x[np.int64(box) if len(x) > 1 else 0]  # prange counts in uint64
        left = columns[box, 0, 0]
        span = (columns[box, ow - 1, 1] + 1 - left) * channels
        above = image[rows[box, i, 0]].reshape(-1)[left * channels : left * channels + span]
        below = image[rows[box, i, 1]].reshape(-1)[left * channels : left * channels + span]
        by_above, by_below = y.dtype.type(by_row[box, i, 0]), y.dtype.type(by_row[box, i, 1])
        mixed, row = np.empty(span, y.dtype), y[box, i].reshape(-1)
        for k in range(span):
            mixed[k] = above[k] * by_above + below[k] * by_below
        pixels, weights = columns[box], by_column[box]
        for j in range(ow):
            a, b = (pixels[j, 0] - left) * channels, (pixels[j, 1] - left) * channels
            by_a, by_b = y.dtype.type(weights[j, 0]), y.dtype.type(weights[j, 1])
            if channels == 3:  # a loop of so few passes takes longer than they do
                row[3 * j] = mixed[a] * by_a + mixed[b] * by_b
                row[3 * j + 1] = mixed[a + 1] * by_a + mixed[b + 1] * by_b
                row[3 * j + 2] = mixed[a + 2] * by_a + mixed[b + 2] * by_b
            else:
                for c in range(channels):
                    row[j * channels + c] = mixed[a + c] * by_a + mixed[b + c] * by_b


@jit(parallel=True)
def _image_grad(g, rows, columns, by_row, by_column, dx):
    n, oh, ow, channels = g.shape
    for image in prange(len(dx)):  # several boxes of one image add to the same pixels
        for box in range(image, image + 1 if len(dx) > 1 else n):
            left = columns[box, 0, 0]
            width = columns[box, ow - 1, 1] + 1 - left
            for i in range(oh):
                mixed = np.zeros((width, channels), g.dtype)
                for j in range(ow):
                    for side in range(2):
                        to = columns[box, j, side] - left
                        weight = g.dtype.type(by_column[box, j, side])
                        for c in range(channels):
                            mixed[to, c] += g[box, i, j, c] * weight
                for side in range(2):
                    weight = g.dtype.type(by_row[box, i, side])
                    for j in range(width):
                        for c in range(channels):
                            dx[image, rows[box, i, side], left + j, c] += mixed[j, c] * weight


@jit(parallel=True)
def _box_grad(g, x, rows, columns, by_row, by_column, d_boxes):
    n, oh, ow, channels = g.shape
    for box in prange(n):
        image = x[np.int64(box) if len(x) > 1 else 0]  # prange counts in uint64
        d_x = d_y = d_w = d_h = 0.0
        for i in range(oh):
            for j in range(ow):
                dv = du = 0.0  # the gradient by the sample's row v and column u
                for a in range(2):
                    for b in range(2):
                        slope = 0.0
                        for c in range(channels):
                            pixel = image[rows[box, i, a], columns[box, j, b], c]
                            slope += g[box, i, j, c] * pixel
                        dv += slope * by_row[box, i, 2 + a] * by_column[box, j, b]
                        du += slope * by_row[box, i, a] * by_column[box, j, 2 + b]
                d_x, d_w = d_x + du, d_w + du * ((j + 0.5) / ow)
                d_y, d_h = d_y + dv, d_h + dv * ((i + 0.5) / oh)
        d_boxes[box, 0], d_boxes[box, 1] = d_x, d_y
        d_boxes[box, 2], d_boxes[box, 3] = d_w, d_h
