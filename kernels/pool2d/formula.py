"""Pooling in plain Python loops: the oracle of the array rung."""

import math

import numpy as np

from kernels.ladder import rung
from kernels.pool2d import (
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_pick,
    output_shape,
)


@rung(max_pool2d, device="cpu", why="the definition in Python loops")
def formula(x, size, stride, padding):
    y = np.zeros(output_shape(x.shape, size, stride, padding), x.dtype)
    for at, pixels in _windows(x.shape, size, stride, padding):
        y[at] = x[_largest(x, pixels)]
    return y


@rung(max_pool2d_grad, device="cpu", why="the definition in Python loops")
def formula(g, x, size, stride, padding):  # noqa: F811
    dx = np.zeros(x.shape, g.dtype)
    for at, pixels in _windows(x.shape, size, stride, padding):
        dx[_largest(x, pixels)] += g[at]
    return dx


@rung(max_pool2d_pick, device="cpu", why="the definition in Python loops")
def formula(u, x, size, stride, padding):  # noqa: F811
    y = np.zeros(output_shape(x.shape, size, stride, padding), u.dtype)
    for at, pixels in _windows(x.shape, size, stride, padding):
        y[at] = u[_largest(x, pixels)]
    return y


@rung(avg_pool2d, device="cpu", why="the definition in Python loops")
def formula(x, size, stride, padding):  # noqa: F811
    y = np.zeros(output_shape(x.shape, size, stride, padding), x.dtype)
    for at, pixels in _windows(x.shape, size, stride, padding):
        y[at] = sum(x[pixel] for pixel in pixels) / len(pixels)
    return y


@rung(avg_pool2d_grad, device="cpu", why="the definition in Python loops")
def formula(g, x_shape, size, stride, padding):  # noqa: F811
    dx = np.zeros(x_shape, g.dtype)
    for at, pixels in _windows(x_shape, size, stride, padding):
        for pixel in pixels:
            dx[pixel] += g[at] / len(pixels)
    return dx


def _windows(x_shape, size, stride, padding):
    """Each output's index, and the indices of the pixels under its window in row-major order."""
    images, height, width, channels = x_shape
    _, oh, ow, _ = output_shape(x_shape, size, stride, padding)
    for n in range(images):
        for i in range(oh):
            for j in range(ow):
                top, left = i * stride[0] - padding[0][0], j * stride[1] - padding[1][0]
                rows = range(max(top, 0), min(top + size[0], height))
                columns = range(max(left, 0), min(left + size[1], width))
                for c in range(channels):
                    yield (n, i, j, c), [(n, a, b, c) for a in rows for b in columns]


def _largest(x, pixels):
    best = pixels[0]
    for pixel in pixels[1:]:
        if math.isnan(x[best]):
            break
        if x[pixel] > x[best] or math.isnan(x[pixel]):
            best = pixel
    return best
