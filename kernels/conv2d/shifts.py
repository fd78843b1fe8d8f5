"""Depthwise convolution: every channel on its own is a weighted sum of KH·KW shifted images.

A matrix product per channel would be one of a vector and a matrix, which leaves BLAS nothing to
reuse. Here the channel axis is the vector axis, and each kernel tap is one multiplication and one
addition over a block of pixels that stays in the cache.
"""

from kernels.backend import array_module
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.conv2d.im2col import blocks, buffer_bytes, crop, pad, padded_shape, shifted
from kernels.ladder import rung


@rung(conv2d, device="any", why="depthwise: KH·KW shifted multiply-adds, nothing is unfolded")
def shifts(x, w, stride, padding, dilation, groups):
    xp = array_module(x, w)
    kh, kw, _, o = w.shape
    x = pad(xp, x, padding)[..., None]  # (N, H, W, C, 1)
    w = w.reshape(kh, kw, groups, o // groups)  # O = C*M, M outputs per channel
    n, oh, ow = x.shape[0], *_output(x.shape, (kh, kw), stride, dilation)
    y = xp.zeros((n, oh, ow, groups, o // groups), xp.result_type(x.dtype, w.dtype))
    for at in blocks(n, oh, ow, o * y.itemsize, buffer_bytes(y)):
        block = y[at]
        term = xp.empty(block.shape, y.dtype)
        for k in range(kh):
            for l in range(kw):  # noqa: E741
                xp.multiply(x[shifted(at, k, l, stride, dilation)], w[k, l], out=term)
                block += term
    return y.reshape(n, oh, ow, o)


@rung(conv2d_input_grad, device="any", why="depthwise: KH·KW shifted multiply-adds")
def shifts(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    xp = array_module(g, w)
    kh, kw, _, o = w.shape
    n, oh, ow, _ = g.shape
    g = g.reshape(n, oh, ow, groups, o // groups)
    w = w.reshape(kh, kw, groups, o // groups)
    dx = xp.zeros(padded_shape(x_shape, padding), xp.result_type(g.dtype, w.dtype))
    for at in blocks(n, oh, ow, o * dx.itemsize, buffer_bytes(dx)):
        block = g[at]
        term = xp.empty(block.shape, dx.dtype)
        for k in range(kh):
            for l in range(kw):  # noqa: E741
                xp.multiply(block, w[k, l], out=term)
                dx[shifted(at, k, l, stride, dilation)] += _over_outputs(term)
    return crop(dx, x_shape, padding)


@rung(conv2d_weight_grad, device="any", why="depthwise: KH·KW products of shifted images, summed")
def shifts(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    xp = array_module(g, x)
    kh, kw, _, o = w_shape
    n, oh, ow, _ = g.shape
    g = g.reshape(n, oh, ow, groups, o // groups)
    x = pad(xp, x, padding)[..., None]  # (N, H, W, C, 1)
    dw = xp.zeros((kh, kw, groups, o // groups), xp.result_type(g.dtype, x.dtype))
    for at in blocks(n, oh, ow, o * dw.itemsize, buffer_bytes(x)):
        block = g[at]
        term = xp.empty(block.shape, dw.dtype)
        for k in range(kh):
            for l in range(kw):  # noqa: E741
                xp.multiply(block, x[shifted(at, k, l, stride, dilation)], out=term)
                dw[k, l] += term.sum(axis=(0, 1, 2))
    return dw.reshape(w_shape)


@conv2d.rungs["shifts"].needs
def _(x, w, stride, padding, dilation, groups):
    return _is_depthwise(w.shape, groups)


@conv2d_input_grad.rungs["shifts"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    return _is_depthwise(w.shape, groups)


@conv2d_weight_grad.rungs["shifts"].needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    return _is_depthwise(w_shape, groups)


def _is_depthwise(w_shape, groups):
    if w_shape[2] != 1 or groups == 1:
        return "depthwise only (C/groups = 1, more than one group)"
    return True


def _over_outputs(term):
    """Σ over the last axis; where that holds one output per channel it only goes."""
    return term[..., 0] if term.shape[-1] == 1 else term.sum(axis=-1)


def _output(x_shape, kernel, stride, dilation):
    """(OH, OW) of an image that is padded already."""
    sizes = zip(x_shape[1:3], kernel, stride, dilation)
    return [(size - (k - 1) * d - 1) // s + 1 for size, k, s, d in sizes]
