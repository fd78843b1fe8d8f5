"""Four gathers and a weighted sum, for NumPy and CuPy alike.

All pixels of an output column share u, all of a row share v: indices and weights are computed per
axis, and only the pixels that are looked at are read, whatever the size of the frame. The image
gradient scatters; done per axis it is a product with the matrix of weights, dx = Vᵀ g U, which
adds in a fixed order on every device.
"""

from kernels.backend import array_module
from kernels.crop import crop, crop_box_grad, crop_image_grad
from kernels.ladder import rung


@rung(crop, device="any", why="gathers all pixels at once, with weights per row and per column")
def array(x, boxes, size):
    xp = array_module(x, boxes)
    dtype = x.dtype if x.dtype.kind == "f" else xp.dtype("float32")
    (rows, near_v, _), (columns, near_u, _) = axes(xp, boxes, x.shape, size, dtype)
    y = xp.zeros((boxes.shape[0], *size, x.shape[3]), dtype)
    for a in range(2):
        across = xp.zeros(y.shape, dtype)
        for b in range(2):
            across += _gather(xp, x, rows[a], columns[b]) * near_u[b][:, None, :, None]
        across *= near_v[a][:, :, None, None]
        y += across
    return y


@rung(crop_image_grad, device="any", why="one matrix product per axis instead of Python loops")
def array(g, boxes, x_shape):  # noqa: F811
    xp = array_module(g, boxes)
    n, oh, ow, c = g.shape
    _, height, width, _ = x_shape
    (rows, near_v, _), (columns, near_u, _) = axes(xp, boxes, x_shape, (oh, ow), g.dtype)
    v = _matrix(xp, rows, near_v, height).transpose(0, 2, 1)  # (N, H, OH)
    u = _matrix(xp, columns, near_u, width)  # (N, OW, W)
    dx = xp.matmul(v, g.reshape(n, oh, ow * c)).reshape(n, height, ow, c)
    dx = dx.transpose(0, 1, 3, 2).reshape(n, height * c, ow)
    dx = xp.matmul(dx, u).reshape(n, height, c, width).transpose(0, 1, 3, 2)  # (N, H, W, C)
    if x_shape[0] != n:  # one image served all boxes
        dx = dx.sum(axis=0, keepdims=True)
    return xp.ascontiguousarray(dx)


@rung(crop_box_grad, device="any", why="the same gathers, weighted by the slopes")
def array(g, x, boxes):  # noqa: F811
    xp = array_module(g, x, boxes)
    _, oh, ow, _ = g.shape
    dtype = boxes.dtype
    (rows, near_v, by_v), (columns, near_u, by_u) = axes(xp, boxes, x.shape, (oh, ow), dtype)
    dv = xp.zeros((boxes.shape[0], oh), dtype)  # the gradient by each row's v and column's u
    du = xp.zeros((boxes.shape[0], ow), dtype)
    for a in range(2):
        for b in range(2):
            slope = (_gather(xp, x, rows[a], columns[b]) * g).sum(axis=3)  # (N, OH, OW)
            dv += by_v[a] * (slope * near_u[b][:, None, :]).sum(axis=2)
            du += by_u[b] * (slope * near_v[a][:, :, None]).sum(axis=1)
    share_v, share_u = _shares(xp, oh, dtype), _shares(xp, ow, dtype)
    d_box = du, dv, du * share_u, dv * share_v  # u = x + share·w - 1/2, v likewise
    return xp.stack([slope.sum(axis=1) for slope in d_box], axis=1)


def axes(xp, boxes, x_shape, size, dtype):
    """For rows and for columns: indices, weights and slopes of both neighbours, (2, N, O) each.

    Outside of the image weight and slope are 0, and the index is some pixel inside.
    """
    both = []
    for axis, (length, outputs) in enumerate(zip(x_shape[1:3], size)):
        first, extent = boxes[:, 1 - axis, None], boxes[:, 3 - axis, None]
        u = first + extent * _shares(xp, outputs, boxes.dtype) - 0.5  # (N, O)
        u = xp.clip(u, -2, length + 1)  # infinite, where float32 boxes add up to more than it holds
        left = xp.floor(u)
        index = xp.stack([left, left + 1])
        inside = (index >= 0) & (index < length)
        near = xp.stack([left + 1 - u, u - left]) * inside
        sign = xp.asarray([-1, 1], dtype)[:, None, None] * inside
        index = xp.clip(index, 0, length - 1).astype("int64")
        both.append((index, near.astype(dtype), sign.astype(dtype)))
    return both


def _shares(xp, outputs, dtype):
    """Centres of `outputs` equal shares of [0, 1]."""
    return (xp.arange(outputs).astype(dtype) + 0.5) / outputs


def _gather(xp, x, rows, columns):
    """x[n, rows[n, i], columns[n, j]]: (N, OH, OW, C)"""
    if x.shape[0] == 1:
        return x[0][rows[:, :, None], columns[:, None, :]]
    images = xp.arange(x.shape[0])[:, None, None]
    return x[images, rows[:, :, None], columns[:, None, :]]


def _matrix(xp, index, near, length):
    """The weights as matrices (N, O, length) that interpolate along one axis."""
    pixels = xp.arange(length)
    matrix = xp.zeros((*index.shape[1:], length), near.dtype)
    for a in range(2):
        matrix += (index[a][:, :, None] == pixels) * near[a][:, :, None]
    return matrix
