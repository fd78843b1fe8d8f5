"""Convolution: one form, linear in the image and in the kernel, and its three contractions.

    y[n,i,j,o] = Σ_k Σ_l Σ_c x[n, i·s + k·d - p, j·s + l·d - p, c] · w[k,l,c,o]

Multiplied by g[n,i,j,o] and summed, this is one number L(g, x, w), linear in each of the three.
`conv2d` leaves g out of the sum, `conv2d_input_grad` x, `conv2d_weight_grad` w. Each is the
gradient of the others, so that derivatives of any order, and the transposed convolution (which is
`conv2d_input_grad`), need no further code.

Layout: images (N, H, W, C), kernels (KH, KW, C/groups, O). Outside of x lie zeros. With groups,
output channels o of group g = o // (O/groups) see the g-th C/groups input channels only.
stride and dilation: an integer or a pair. padding: an integer, a pair, ((top, bottom), (left,
right)), "same" or "valid" (see `kernels.window`).
"""

from functools import lru_cache

import numpy as np

from kernels.backend import array_module, is_array
from kernels.ladder import ladder
from kernels.window import check_key, pair, window

FUSED = {"direct", "winograd"}  # rungs that take a bias and ReLU too


@ladder
def conv2d(x, w, stride=1, padding=0, dilation=1, groups=1):
    """Convolve x (N, H, W, C) with w (KH, KW, C/groups, O): returns (N, OH, OW, O).

    OH = (H + top + bottom - (KH - 1)·dilation - 1) // stride + 1. Raises ValueError for shapes
    that do not fit together.
    """
    _check_pair("x", x, "w", w)
    return x, w, *_geometry(x.shape, w.shape, stride, padding, dilation, groups)[:4]


@ladder
def conv2d_input_grad(g, w, x_shape, stride=1, padding=0, dilation=1, groups=1):
    """Gradient of Σ g·conv2d(x, w) with respect to x: returns an array of shape x_shape.

    g has the shape of conv2d's output. As an op of its own it is the transposed convolution.
    """
    _check_pair("g", g, "w", w)
    x_shape = _shape("x_shape", x_shape)
    *geometry, y_shape = _geometry(x_shape, w.shape, stride, padding, dilation, groups)
    _check_gradient(g, y_shape)
    return g, w, x_shape, *geometry


@ladder
def conv2d_weight_grad(g, x, w_shape, stride=1, padding=0, dilation=1, groups=1):
    """Gradient of Σ g·conv2d(x, w) with respect to w: returns an array of shape w_shape.

    g has the shape of conv2d's output.
    """
    _check_pair("g", g, "x", x)
    w_shape = _shape("w_shape", w_shape)
    *geometry, y_shape = _geometry(x.shape, w_shape, stride, padding, dilation, groups)
    _check_gradient(g, y_shape)
    return g, x, w_shape, *geometry


def conv2d_bias(x, w, b, stride=1, padding=0, dilation=1, groups=1, relu=False):
    """conv2d(x, w) + b with b (O,), then ReLU if asked for: max(·, 0), where NaN stays NaN.

    The rung is conv2d's. Those in FUSED finish each number before it leaves their registers; the
    others' result is finished in two more passes over it.
    """
    x, w, *geometry = conv2d.contract(x, w, stride, padding, dilation, groups)
    _check_array("b", b, 1)
    if b.shape != w.shape[3:]:
        expected = f"b must hold one number for each of the {w.shape[3]} outputs"
        raise ValueError(f"{expected}, got shape {b.shape}")
    rung = conv2d.pick((x, w, *geometry))
    xp = array_module(x, w, b)
    if rung.name in FUSED and b.dtype == w.dtype:
        return rung(x, w, *geometry, b, relu)
    y = rung(x, w, *geometry)
    y = xp.add(y, b, out=y if xp.result_type(y, b) == y.dtype else None)
    return xp.maximum(y, 0, out=y) if relu else y


def output_shape(x_shape, w_shape, stride=1, padding=0, dilation=1, groups=1):
    """Shape (N, OH, OW, O) of conv2d's output, by the same rules and with the same errors."""
    return _geometry(
        _shape("x_shape", x_shape), _shape("w_shape", w_shape), stride, padding, dilation, groups
    )[-1]


def _geometry(x_shape, w_shape, stride, padding, dilation, groups):
    """(stride, padding, dilation, groups, y_shape) in normal form, or a ValueError."""
    try:
        check_key(stride, padding, dilation)
        return _remembered(x_shape, w_shape, stride, padding, dilation, groups)
    except TypeError:
        return _remembered.__wrapped__(x_shape, w_shape, stride, padding, dilation, groups)


@lru_cache(maxsize=4096, typed=True)
def _remembered(x_shape, w_shape, stride, padding, dilation, groups):
    n, h, w, c = x_shape
    kh, kw, c_group, o = w_shape
    if type(groups) is not int or groups < 1:
        groups, _ = pair(groups, "groups")
    if c % groups or o % groups:
        raise ValueError(
            f"groups={groups} must divide the {c} input channels and the {o} output channels"
        )
    if c != c_group * groups:
        raise ValueError(
            f"x has {c} channels, but w of shape {tuple(w_shape)} with groups={groups} takes "
            f"{c_group} x {groups} = {c_group * groups}"
        )
    stride, padding, dilation, (oh, ow) = window((h, w), (kh, kw), stride, padding, dilation)
    return stride, padding, dilation, groups, (n, oh, ow, o)


def _check_array(name, array, ndim):
    if not is_array(array):
        raise TypeError(
            f"{name} must be an array, got {type(array).__name__}; numpy.asarray makes it one"
        )
    if array.ndim != ndim:
        if name == "b":
            raise ValueError(f"b must have one axis (O,), got shape {array.shape}")
        layout = "(KH, KW, C/groups, O)" if name == "w" else "(N, H, W, channels)"
        raise ValueError(f"{name} must have {ndim} axes {layout}, got shape {array.shape}")


def _check_pair(name, a, other, b):
    """Four axes each. Bytes may meet floats, but among themselves they would overflow silently."""
    if type(a) is np.ndarray is type(b) and a.ndim == b.ndim == 4 and a.dtype.kind == "f":
        return  # as nearly always
    _check_array(name, a, 4)
    _check_array(other, b, 4)
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        found = f"{name} {a.dtype}, {other} {b.dtype}"
        raise TypeError(f"one of the two must hold floating point numbers, got {found}")


def _check_gradient(g, y_shape):
    if g.shape != y_shape:
        raise ValueError(f"g must have the shape of the output, {y_shape}, got {g.shape}")


def _shape(name, shape):
    shape = tuple(map(int, shape))
    if len(shape) != 4:
        raise ValueError(f"{name} must have 4 axes, got {shape}")
    return shape


# The rungs, from the formula upward.
from kernels.conv2d import formula, im2col, flipped, shifts  # noqa: E402, F401, I001
from kernels.conv2d import direct, scatter, winograd, depthwise, fft  # noqa: E402, F401, I001
from kernels.conv2d import cuda_numba, cuda_raw, cuda_tf32  # noqa: E402, F401, I001
