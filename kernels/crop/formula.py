"""One output pixel and its four neighbours at a time: the oracle of the array rung."""

import math

import numpy as np

from kernels.crop import crop, crop_box_grad, crop_image_grad
from kernels.ladder import rung


@rung(crop, device="cpu", why="the definition in Python loops")
def formula(x, boxes, size):
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float32")
    y = np.zeros((len(boxes), *size, x.shape[3]), dtype)
    for (n, i, j), (image, row, column), weight, _ in _neighbours(x.shape, boxes, size):
        y[n, i, j] += weight * x[image, row, column]
    return y


@rung(crop_image_grad, device="cpu", why="the definition in Python loops")
def formula(g, boxes, x_shape):  # noqa: F811
    dx = np.zeros(x_shape, g.dtype)
    for (n, i, j), pixel, weight, _ in _neighbours(x_shape, boxes, g.shape[1:3]):
        dx[pixel] += weight * g[n, i, j]
    return dx


@rung(crop_box_grad, device="cpu", why="the definition in Python loops")
def formula(g, x, boxes):  # noqa: F811
    d_boxes = np.zeros(boxes.shape, boxes.dtype)
    oh, ow = g.shape[1:3]
    for (n, i, j), pixel, _, (by_v, by_u) in _neighbours(x.shape, boxes, (oh, ow)):
        slope = float((g[n, i, j] * x[pixel]).sum())
        d_boxes[n] += [
            slope * by_u,
            slope * by_v,
            slope * by_u * (j + 0.5) / ow,
            slope * by_v * (i + 0.5) / oh,
        ]
    return d_boxes


def _neighbours(x_shape, boxes, size):
    """Every output pixel, each of its neighbours in the image, the neighbour's weight, and that
    weight's derivatives by the sample's row v and column u."""
    images, height, width, _ = x_shape
    oh, ow = size
    for n, (x, y, w, h) in enumerate(boxes.tolist()):
        for i in range(oh):
            v = y + (i + 0.5) * h / oh - 0.5
            for j in range(ow):
                u = x + (j + 0.5) * w / ow - 0.5
                top, left = math.floor(v), math.floor(u)
                for row, near_v, by_v in ((top, top + 1 - v, -1), (top + 1, v - top, 1)):
                    for column, near_u, by_u in ((left, left + 1 - u, -1), (left + 1, u - left, 1)):
                        if 0 <= row < height and 0 <= column < width:
                            pixel = (n if images > 1 else 0, row, column)
                            yield (n, i, j), pixel, near_v * near_u, (by_v * near_u, near_v * by_u)
