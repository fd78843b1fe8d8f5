"""Pooling: the largest, or the mean, of the pixels under a window that slides over the image.

Layout (N, H, W, C); each channel on its own. size: an integer or a pair; stride: the same, by
default the size, so that windows touch; padding as in `kernels.window`. The padding never counts:
it is -inf to the maximum and absent from the mean (as Keras's "same", and PyTorch's
count_include_pad=False). So every window must hold at least one pixel: padding >= size is an error.

Where the maximum is reached more than once, the first pixel in row-major order of the window is
the one that counts. A NaN is larger than everything.

Its gradient goes to the pixels that were the largest, and nothing else of the image matters. So
max_pool2d tells, if asked to, which pixel of its window each maximum is: for a 2x2 window and
float32 a sixteenth of what one would have to keep, and to read again, of the image.
"""

import numpy as np

from kernels.backend import is_array
from kernels.ladder import ladder
from kernels.window import pair, window


@ladder
def max_pool2d(x, size, stride=None, padding=0, keep=False):
    """Largest value under the window: x (N, H, W, C) -> (N, OH, OW, C).

    keep: returns (y, winners), where winners (N, OH, OW, C) are whole numbers: which pixel of its
    window each maximum is, counted row by row from 0, with those that lie in the padding.
    """
    _check_image("x", x)
    return x, *_geometry(x.shape, size, stride, padding)[:3], bool(keep)


@ladder
def max_pool2d_grad(g, winners, x_shape, size, stride=None, padding=0):
    """Gradient of Σ g·max_pool2d(x): g (N, OH, OW, C) goes to the pixels that were the largest.

    winners are what max_pool2d(x, ..., keep=True) returned; they are trusted. Returns an array of
    x's shape. Linear in g; its adjoint is `max_pool2d_pick`.
    """
    _check_image("g", g)
    x_shape = _shape(x_shape)
    *geometry, y_shape = _geometry(x_shape, size, stride, padding)
    _check_shape("g", g, y_shape)
    _check_winners(winners, y_shape)
    return g, winners, x_shape, *geometry


@ladder
def max_pool2d_pick(u, winners, size, stride=None, padding=0):
    """Values of u (N, H, W, C) at the pixels that were the largest: returns (N, OH, OW, C)."""
    _check_image("u", u)
    *geometry, y_shape = _geometry(u.shape, size, stride, padding)
    _check_winners(winners, y_shape)
    return u, winners, *geometry


@ladder
def avg_pool2d(x, size, stride=None, padding=0):
    """Mean of the pixels under the window: x (N, H, W, C) -> (N, OH, OW, C)."""
    _check_image("x", x)
    return x, *_geometry(x.shape, size, stride, padding)[:3]


@ladder
def avg_pool2d_grad(g, x_shape, size, stride=None, padding=0):
    """Gradient of Σ g·avg_pool2d(x) with respect to x: returns an array of shape x_shape."""
    _check_image("g", g)
    x_shape = _shape(x_shape)
    *geometry, y_shape = _geometry(x_shape, size, stride, padding)
    _check_shape("g", g, y_shape)
    return g, x_shape, *geometry


def output_shape(x_shape, size, stride=None, padding=0):
    """Shape (N, OH, OW, C) of the pooled image, by the same rules and with the same errors."""
    return _geometry(tuple(x_shape), size, stride, padding)[-1]


def winner_type(size):
    """The dtype of winners, for windows of that size."""
    return np.dtype(np.uint8 if size[0] * size[1] <= 256 else np.int32)


def _geometry(x_shape, size, stride, padding):
    """(size, stride, padding, y_shape) in normal form, or a ValueError."""
    n, h, w, c = x_shape
    size = pair(size, "size")
    stride, padding, _, (oh, ow) = window((h, w), size, size if stride is None else stride, padding)
    if any(max(sides) >= length for sides, length in zip(padding, size)):
        raise ValueError(
            f"padding {padding} must be smaller than the window of {size[0]} x {size[1]}, "
            "or a window would hold padding only"
        )
    return size, stride, padding, (n, oh, ow, c)


def _shape(x_shape):
    x_shape = tuple(int(n) for n in x_shape)
    if len(x_shape) != 4:
        raise ValueError(f"x_shape must have 4 axes (N, H, W, C), got {x_shape}")
    return x_shape


def _check_image(name, value):
    if not is_array(value):
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}; numpy.asarray makes it one"
        )
    if value.dtype.kind != "f":
        raise TypeError(f"{name} must hold floating point numbers, got {value.dtype}")
    if value.ndim != 4:
        raise ValueError(f"{name} must have 4 axes (N, H, W, C), got shape {value.shape}")


def _check_shape(name, value, shape):
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")


def _check_winners(winners, shape):
    if not is_array(winners) or winners.dtype.kind not in "iu":
        raise TypeError("winners must be what max_pool2d(..., keep=True) returned with the maxima")
    _check_shape("winners", winners, shape)


# The rungs, from the formula upward.
from kernels.pool2d import formula, array, compiled, cuda_numba, cuda_raw  # noqa: E402, F401, I001
