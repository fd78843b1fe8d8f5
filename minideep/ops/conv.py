"""Convolution, pooling and crops. Images are (N, H, W, C), kernels (KH, KW, C/groups, O).

The three contractions of convolution are one another's gradients: six lines differentiate them to
any order, and the transposed convolution is one of the three. Pooling closes in the same way.
"""

import kernels
from kernels.backend import array_module as module
from kernels.window import pair
from minideep.autograd import op
from minideep.mode import grad_enabled
from minideep.ops.elementwise import add
from minideep.ops.elementwise import relu as rectify
from minideep.ops.linear import einsum
from minideep.ops.reduce import max, mean, sum
from minideep.ops.shape import getitem
from minideep.recompute import vjp_by_recomputing
from minideep.tensor import Tensor

__all__ = """avg_pool2d conv2d conv2d_transpose crop global_avg_pool2d global_max_pool2d max_pool2d
resize""".split()


# ------------------------------------------------------------------------------------- convolution

@op
def _conv2d(x, w, *, stride, padding, dilation, groups):
    """y[n,i,j,o] = Σ_k Σ_l Σ_c x[n, i·s + k·d - p, j·s + l·d - p, c] · w[k,l,c,o]"""
    return kernels.conv2d(x, w, stride, padding, dilation, groups)


@op
def _conv2d_input_grad(z, w, *, x_shape, stride, padding, dilation, groups):
    return kernels.conv2d_input_grad(z, w, x_shape, stride, padding, dilation, groups)


@op
def _conv2d_weight_grad(z, x, *, w_shape, stride, padding, dilation, groups):
    return kernels.conv2d_weight_grad(z, x, w_shape, stride, padding, dilation, groups)


_conv2d.vjp(
    x=lambda g, w, x_shape, **a: _conv2d_input_grad(g, w, x_shape=x_shape, **a),
    w=lambda g, x, w_shape, **a: _conv2d_weight_grad(g, x, w_shape=w_shape, **a))
_conv2d_input_grad.vjp(
    z=lambda g, w, x_shape, **a: _conv2d(g, w, **a),
    w=lambda g, z, w_shape, x_shape, **a: _conv2d_weight_grad(z, g, w_shape=w_shape, **a))
_conv2d_weight_grad.vjp(
    z=lambda g, x, w_shape, **a: _conv2d(x, g, **a),
    x=lambda g, z, x_shape, w_shape, **a: _conv2d_input_grad(z, g, x_shape=x_shape, **a))


@op
def _conv2d_bias(x, w, b, *, stride, padding, dilation, groups):
    """conv2d(x, w) + b, added in the loop that makes the sums."""
    return kernels.conv2d_bias(x, w, b, stride, padding, dilation, groups)


@op
def _conv2d_bias_relu(x, w, b, *, stride, padding, dilation, groups):
    """max(conv2d(x, w) + b, 0), in the same loop."""
    return kernels.conv2d_bias(x, w, b, stride, padding, dilation, groups, relu=True)


_conv2d_bias.vjp(
    x=lambda g, w, x_shape, **a: _conv2d_input_grad(g, w, x_shape=x_shape, **a),
    w=lambda g, x, w_shape, **a: _conv2d_weight_grad(g, x, w_shape=w_shape, **a),
    b=lambda g: sum(g, axis=(0, 1, 2)))


@_conv2d_bias_relu.joint_vjp  # one mask for the three
def _conv2d_bias_relu_vjp(g, y, x, w, b, **a):
    if grad_enabled():
        return vjp_by_recomputing(lambda x, w, b: rectify(_conv2d_bias(x, w, b, **a)), (x, w, b), g)[0]
    dz, db = map(Tensor, kernels.rectify_grad(g.data, y.data))
    return (_conv2d_input_grad(dz, w, x_shape=x.shape, **a) if x.requires_grad else None,
            _conv2d_weight_grad(dz, x, w_shape=w.shape, **a) if w.requires_grad else None,
            db if b.requires_grad else None)


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1, relu=False):
    """Convolution of x (N, H, W, C) with w (KH, KW, C/groups, O), plus a bias b (O,) per output
    channel: (N, OH, OW, O). As in every library it is the cross-correlation: w is not mirrored.

    stride, dilation: an integer or a pair (rows, columns). padding: an integer, a pair,
    ((top, bottom), (left, right)), "valid", or "same" (Keras's: ceil(H / stride) outputs, the odd
    row at the bottom). groups = C is the depthwise convolution. relu: max(y, 0), which together with
    a bias costs nothing in the compiled kernels. Shapes that do not fit raise ValueError. Which
    kernel computes it: `kernels.explain("conv2d", x.data, w.data)`.
    """
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if b is not None:
        return (_conv2d_bias_relu if relu else _conv2d_bias)(x, w, b, **geometry)
    y = _conv2d(x, w, **geometry)
    return rectify(y) if relu else y


def conv2d_transpose(x, w, b=None, stride=1, padding=0, dilation=1, groups=1, output_size=None):
    """Transposed convolution: conv2d's gradient for its input, as an op (Zeiler et al. 2010).

    x (N, OH, OW, O), w (KH, KW, C/groups, O), b (C,) -> (N, H, W, C). `conv2d` with the same stride,
    padding and dilation maps (H, W) to (OH, OW); with a stride several (H, W) do. output_size says
    which; without it the smallest, or for "same" OH·stride and for "valid" at least that (Keras).
    """
    strides, dilations = pair(stride, "stride"), pair(dilation, "dilation")
    size = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in
            zip(x.shape[1:3], strides, dilations, w.shape)]
    if padding in ("same", "valid"):
        rim = [n * s for n, s in zip(x.shape[1:3], strides)]
        size = rim if padding == "same" else [a if a > b else b for a, b in zip(size, rim)]
    else:
        sides = padding if isinstance(padding, (tuple, list)) else (padding, padding)
        size = [n - (2 * p if isinstance(p, int) else p[0] + p[1]) for n, p in zip(size, sides)]
    size = tuple(size if output_size is None else output_size)
    y = _conv2d_input_grad(x, w, x_shape=(x.shape[0], *size, w.shape[2] * groups), stride=stride,
                           padding=padding, dilation=dilation, groups=groups)
    return y if b is None else add(y, b)


# ----------------------------------------------------------------------------------------- pooling

@op
def _max_pool2d(x, *, size, stride, padding, kept):
    if kept is None:
        return kernels.max_pool2d(x, size, stride, padding)
    y, kept["winners"] = kernels.max_pool2d(x, size, stride, padding, keep=True)
    return y


@op
def _max_pool2d_scatter(z, *, winners, x_shape, size, stride, padding):
    """Zeros of x_shape, with z added at the pixel that won each window."""
    return kernels.max_pool2d_grad(z, winners, x_shape, size, stride, padding)


@op
def _max_pool2d_pick(u, *, winners, size, stride, padding):
    """The values of u at the pixel that won each window."""
    return kernels.max_pool2d_pick(u, winners, size, stride, padding)


@op
def _avg_pool2d(x, *, size, stride, padding):
    return kernels.avg_pool2d(x, size, stride, padding)


@op
def _avg_pool2d_grad(z, *, x_shape, size, stride, padding):
    return kernels.avg_pool2d_grad(z, x_shape, size, stride, padding)


_max_pool2d.vjp(
    x=lambda g, x_shape, kept, **a: _max_pool2d_scatter(g, winners=kept["winners"], x_shape=x_shape, **a))
_max_pool2d_scatter.vjp(z=lambda g, x_shape, **a: _max_pool2d_pick(g, **a))
_max_pool2d_pick.vjp(u=lambda g, u_shape, **a: _max_pool2d_scatter(g, x_shape=u_shape, **a))
_avg_pool2d.vjp(x=lambda g, x_shape, **a: _avg_pool2d_grad(g, x_shape=x_shape, **a))
_avg_pool2d_grad.vjp(z=lambda g, x_shape, **a: _avg_pool2d(g, **a))


def max_pool2d(x, size, stride=None, padding=0):
    """The largest of each window, per channel: (N, H, W, C) -> (N, OH, OW, C).

    size, stride (default: size): an integer or a pair; padding as for conv2d, of -infinity. At a tie
    the first of the window, row by row, gets the gradient. For the way back only the place of each
    maximum in its window is kept, not x.
    """
    kept = {} if grad_enabled() and isinstance(x, Tensor) and x.requires_grad else None
    return _max_pool2d(x, size=size, stride=stride, padding=padding, kept=kept)


def avg_pool2d(x, size, stride=None, padding=0):
    """The mean of each window, per channel; padding is not counted in it (as Keras's "same")."""
    return _avg_pool2d(x, size=size, stride=stride, padding=padding)


def global_avg_pool2d(x, keepdims=False):
    """(N, H, W, C) -> (N, C)"""
    return mean(x, axis=(1, 2), keepdims=keepdims)


def global_max_pool2d(x, keepdims=False):
    """(N, H, W, C) -> (N, C)"""
    return max(x, axis=(1, 2), keepdims=keepdims)


# ------------------------------------------------------------------------------- crop and resize

@op
def _crop(x, boxes, *, size):
    return kernels.crop(x, boxes, size)


@_crop.joint_vjp
def _crop_vjp(g, y, x, boxes, size):
    if grad_enabled():
        return vjp_by_recomputing(lambda x, boxes: _crop_in_ops(x, boxes, size), (x, boxes), g)[0]
    return (Tensor(kernels.crop_image_grad(g.data, boxes.data, x.shape)) if x.requires_grad else None,
            Tensor(kernels.crop_box_grad(g.data, x.data, boxes.data)) if boxes.requires_grad else None)


def crop(x, boxes, size):
    """Cut boxes out of images and scale them to `size` (OH, OW), bilinearly.

    x (N, H, W, C), boxes (N, 4): x, y, w, h in pixels, 0-based, top left; one image serves all boxes
    if N = 1. Returns (N, OH, OW, C); outside the image is zero. Differentiable in image and boxes
    (spatial transformer, Jaderberg et al. 2015).
    """
    return _crop(x, boxes, size=pair(size, "size"))


def _crop_in_ops(x, boxes, size):
    """crop made of other ops: its second derivatives."""
    n, h, w, _ = x.shape
    xp = module(x.data)
    image = xp.arange(len(boxes)).reshape(-1, 1, 1) if n > 1 else 0

    def neighbours(start, length, count, limit):
        """Of the samples along one axis: (pixel, weight) of the two next to each, (N, count)."""
        at = (xp.arange(count) + 0.5) / count
        u = start[:, None] + length[:, None] * Tensor(at.astype(boxes.dtype)) - 0.5
        left = xp.floor(u.data)
        for pixel, weight in ((left, 1 + Tensor(left) - u), (left + 1, u - Tensor(left))):
            inside = (pixel >= 0) & (pixel < limit)
            yield xp.where(inside, pixel, 0).astype("int64"), weight * Tensor(inside)

    rows = list(neighbours(boxes[:, 1], boxes[:, 3], size[0], h))
    columns = list(neighbours(boxes[:, 0], boxes[:, 2], size[1], w))
    y = 0.0
    for i, weight_i in rows:
        for j, weight_j in columns:
            pixels = getitem(x, index=(image, i[:, :, None], j[:, None, :]))  # (N, OH, OW, C)
            y = y + pixels * (weight_i[:, :, None] * weight_j[:, None, :])[..., None]
    return y


def resize(x, size):
    """x (N, H, W, C) scaled to `size` (OH, OW) bilinearly, pixel centres at half integers, the edge
    repeated: as OpenCV's INTER_LINEAR. Shrinking takes no averages; pool first."""
    size = pair(size, "size")
    xp, matrices = module(x.data), []
    dtype = x.dtype if x.dtype.kind == "f" else "float32"
    for length, count in zip(x.shape[1:3], size):
        u = xp.clip((xp.arange(count) + 0.5) * (length / count) - 0.5, 0, length - 1)
        distance = xp.abs(u[:, None] - xp.arange(length))  # (count, length)
        matrices.append(Tensor(xp.maximum(1 - distance, 0).astype(dtype)))
    return einsum("nhwc,ih,jw->nijc", x, *matrices)
