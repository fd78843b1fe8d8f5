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
    winner_type,
)


@rung(max_pool2d, device="cpu", why="the definition in Python loops")
def formula(x, size, stride, padding, keep):
    y = np.zeros(output_shape(x.shape, size, stride, padding), x.dtype)
    winners = np.zeros(y.shape, winner_type(size))
    for at, pixels in _windows(x.shape, size, stride, padding):
        winners[at] = _largest(x, pixels)
        y[at] = x[pixels[winners[at]]]
    return (y, winners) if keep else y


@rung(max_pool2d_grad, device="cpu", why="the definition in Python loops")
def formula(g, winners, x_shape, size, stride, padding):  # noqa: F811
    dx = np.zeros(x_shape, g.dtype)
    for at, pixels in _windows(x_shape, size, stride, padding):
        dx[pixels[winners[at]]] += g[at]
    return dx


@rung(max_pool2d_pick, device="cpu", why="the definition in Python loops")
def formula(u, winners, size, stride, padding):  # noqa: F811
    y = np.zeros(output_shape(u.shape, size, stride, padding), u.dtype)
    for at, pixels in _windows(u.shape, size, stride, padding):
        y[at] = u[pixels[winners[at]]]
    return y


@rung(avg_pool2d, device="cpu", why="the definition in Python loops")
def formula(x, size, stride, padding):  # noqa: F811
    y = np.zeros(output_shape(x.shape, size, stride, padding), x.dtype)
    for at, pixels in _windows(x.shape, size, stride, padding):
        y[at] = sum(x[pixel] for pixel in pixels.values()) / len(pixels)
    return y


@rung(avg_pool2d_grad, device="cpu", why="the definition in Python loops")
def formula(g, x_shape, size, stride, padding):  # noqa: F811
    dx = np.zeros(x_shape, g.dtype)
    for at, pixels in _windows(x_shape, size, stride, padding):
        for pixel in pixels.values():
            dx[pixel] += g[at] / len(pixels)
    return dx


def _windows(x_shape, size, stride, padding):
    """Each output's index, and {number in the window: index in x} of the pixels under it, in
    row-major order."""
    images, height, width, channels = x_shape
    _, oh, ow, _ = output_shape(x_shape, size, stride, padding)
    for n in range(images):
        for i in range(oh):
            for j in range(ow):
                top, left = i * stride[0] - padding[0][0], j * stride[1] - padding[1][0]
                places = [(k, l) for k in range(size[0]) for l in range(size[1])
                          if 0 <= top + k < height and 0 <= left + l < width]
                for c in range(channels):
                    yield (n, i, j, c), {k * size[1] + l: (n, top + k, left + l, c)
                                         for k, l in places}


def _largest(x, pixels):
    """The number of the first that is NaN, or else of the first that is the largest."""
    best, *others = pixels
    for number in others:
        if math.isnan(x[pixels[best]]):
            break
        if x[pixels[number]] > x[pixels[best]] or math.isnan(x[pixels[number]]):
            best = number
    return best
