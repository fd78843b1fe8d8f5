"""Unfold and multiply: convolution as one matrix product, for NumPy and CuPy alike.

Every output pixel sees a patch of KH·KW·C numbers. Written as the rows of a matrix ("im2col") the
patches meet all output channels in a single matrix product, and BLAS does the rest. The input
gradient multiplies first and adds the patches back where they came from ("col2im"), the weight
gradient multiplies the same patches with g.

The whole matrix would take N·OH·OW·KH·KW·C·itemsize bytes: KH·KW times the image for stride 1,
441 MiB for 32 images of 112 x 112 x 32 and a 3x3 kernel in float32. So it is made block by block
in one buffer of at most BUFFER_BYTES (or a single patch, should that be larger); beside it, only a
padded copy of the image is made. On a CPU a block has CACHE_BYTES at most, so that it is
multiplied while it is in the cache.
"""

from kernels.backend import array_module, device_of
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.ladder import rung
from kernels.window import window

BUFFER_BYTES = 64 * 2**20
CACHE_BYTES = 2**20


@rung(conv2d, device="any", why="one matrix product over unfolded patches instead of Python loops")
def im2col(x, w, stride, padding, dilation, groups):
    xp = array_module(x, w)
    dtype = xp.result_type(x.dtype, w.dtype)
    kernel = w.shape[:2]
    w = _group_weights(w, groups).astype(dtype, copy=False)  # (G, K, O/G), K = KH*KW*C/G
    if _is_matrix(x, kernel, stride, padding, groups):
        n, h, width, c = x.shape
        return xp.matmul(x.reshape(n * h * width, c), w[0]).reshape(n, h, width, w.shape[2])
    patches = _patches(xp, pad(xp, x, padding), kernel, stride, dilation, groups)
    _, n, oh, ow = patches.shape[:4]
    outputs = w.shape[2]
    y = xp.empty((n, oh, ow, groups * outputs), dtype)
    buffer = None
    for at in blocks(n, oh, ow, groups * w.shape[1] * dtype.itemsize, buffer_bytes(x)):
        buffer, columns = _unfold_block(xp, patches[(slice(None), *at)], buffer, dtype)
        # (M, G, O/G), a view of y: a block is cut along one axis only, the ones before it hold 1
        block = y[at].reshape(columns.shape[1], groups, outputs)
        xp.matmul(columns, w, out=block.transpose(1, 0, 2))
    return y


@rung(conv2d_input_grad, device="any", why="one matrix product, then KH·KW additions of slices")
def im2col(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    xp = array_module(g, w)
    dtype = xp.result_type(g.dtype, w.dtype)
    kernel = w.shape[:2]
    channels = x_shape[3] // groups
    w = _group_weights(w, groups).astype(dtype, copy=False).transpose(0, 2, 1)  # (G, O/G, K)
    dx = xp.zeros(padded_shape(x_shape, padding), dtype)
    n, oh, ow, _ = g.shape
    k = w.shape[2]
    buffer = None
    for at in blocks(n, oh, ow, groups * k * dtype.itemsize, buffer_bytes(g)):
        n, i, j, _ = g[at].shape
        rows = g[at].reshape(n * i * j, groups, w.shape[1]).transpose(1, 0, 2)  # (G, M, O/G)
        size = groups * n * i * j * k
        buffer = xp.empty(size, dtype) if buffer is None else buffer
        columns = buffer[:size].reshape(groups, n * i * j, k)
        xp.matmul(rows, w, out=columns)
        columns = columns.reshape(groups, n, i, j, *kernel, channels)
        for group in range(groups):
            own = slice(group * channels, (group + 1) * channels)
            _fold_block(columns[group], dx[..., own], at, stride, dilation)
    return crop(dx, x_shape, padding)


@rung(conv2d_weight_grad, device="any", why="one matrix product over the same unfolded patches")
def im2col(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    xp = array_module(g, x)
    dtype = xp.result_type(g.dtype, x.dtype)
    kh, kw, channels, outputs = w_shape
    if _is_matrix(x, (kh, kw), stride, padding, groups):
        n, h, width, _ = x.shape
        rows, g = x.reshape(n * h * width, channels), g.reshape(n * h * width, outputs)
        return xp.matmul(rows.T, g).reshape(w_shape)
    patches = _patches(xp, pad(xp, x, padding), (kh, kw), stride, dilation, groups)
    _, n, oh, ow = patches.shape[:4]
    k = kh * kw * channels
    dw = xp.zeros((groups, k, outputs // groups), dtype)
    buffer = None
    for at in blocks(n, oh, ow, groups * k * dtype.itemsize, buffer_bytes(x)):
        buffer, columns = _unfold_block(xp, patches[(slice(None), *at)], buffer, dtype)
        rows = g[at].reshape(columns.shape[1], groups, outputs // groups)
        rows = rows.transpose(1, 0, 2)  # (G, M, O/G)
        dw += xp.matmul(columns.transpose(0, 2, 1), rows)
    return dw.transpose(1, 0, 2).reshape(w_shape)  # (K, G, O/G)


def unfold(x, kernel, stride=1, padding=0, dilation=1):
    """The patches under a window: x (N, H, W, C) -> (N, OH, OW, KH, KW, C), all at once."""
    xp = array_module(x)
    stride, padding, dilation, _ = window(x.shape[1:3], kernel, stride, padding, dilation)
    return _patches(xp, pad(xp, x, padding), kernel, stride, dilation, 1)[0].copy()


def fold(patches, x_shape, stride=1, padding=0, dilation=1):
    """Add patches (N, OH, OW, KH, KW, C) up where they came from: the adjoint of `unfold`."""
    xp = array_module(patches)
    stride, padding, dilation, (oh, ow) = window(
        x_shape[1:3], patches.shape[3:5], stride, padding, dilation
    )
    x = xp.zeros(padded_shape(x_shape, padding), patches.dtype)
    everything = (slice(0, x_shape[0]), slice(0, oh), slice(0, ow))
    _fold_block(patches, x, everything, stride, dilation)
    return crop(x, x_shape, padding)


def blocks(n, oh, ow, pixel_bytes, limit):
    """Cut N x OH x OW output pixels into blocks of at most `limit` bytes (or of one pixel).

    Yields (images, rows, columns) as slices: whole images, else rows of one, else a part of a row.
    """
    pixels = max(1, limit // max(1, pixel_bytes))
    images, rows, columns = 1, 1, min(pixels, ow)
    if pixels >= ow:
        rows = min(pixels // ow, oh)
    if pixels >= oh * ow:
        images = min(pixels // (oh * ow), max(n, 1))
    for first in range(0, n, images):
        for top in range(0, oh, rows):
            for left in range(0, ow, columns):
                yield (
                    slice(first, min(first + images, n)),
                    slice(top, min(top + rows, oh)),
                    slice(left, min(left + columns, ow)),
                )


def buffer_bytes(x):
    """How large a block may be on the device of x."""
    return min(BUFFER_BYTES, CACHE_BYTES) if device_of(x) == "cpu" else BUFFER_BYTES


def shifted(at, k, l, stride, dilation):  # noqa: E741
    """Where the padded image lies under kernel tap (k, l) for the block `at` of output pixels."""
    images, rows, columns = at
    spans = []
    for span, tap, s, d in zip((rows, columns), (k, l), stride, dilation):
        spans.append(slice(span.start * s + tap * d, (span.stop - 1) * s + tap * d + 1, s))
    return (images, *spans)


def padded_shape(shape, padding):
    (top, bottom), (left, right) = padding
    n, h, w, c = shape
    return n, h + top + bottom, w + left + right, c


def pad(xp, x, padding, value=0):
    """x with a border of `value`; x itself where there is no border."""
    if padding == ((0, 0), (0, 0)):
        return x
    padded = xp.full(padded_shape(x.shape, padding), value, x.dtype)
    crop(padded, x.shape, padding)[...] = x
    return padded


def crop(padded, shape, padding):
    """The inverse of `pad`, as a view."""
    (top, _), (left, _) = padding
    return padded[:, top : top + shape[1], left : left + shape[2]]


def _patches(xp, x, kernel, stride, dilation, groups):
    """A view of the padded x, without copying: (G, N, OH, OW, KH, KW, C/G)."""
    n, h, w, c = x.shape
    kh, kw = kernel
    oh = (h - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (w - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    image, row, column, channel = x.strides
    return xp.lib.stride_tricks.as_strided(
        x,
        (groups, n, oh, ow, kh, kw, c // groups),
        (
            c // groups * channel,
            image,
            row * stride[0],
            column * stride[1],
            row * dilation[0],
            column * dilation[1],
            channel,
        ),
    )


def _unfold_block(xp, patches, buffer, dtype):
    """Copy patches (G, n, i, j, KH, KW, C/G) into the buffer. Returns it and (G, n*i*j, K)."""
    groups, n, i, j, kh, kw, c = patches.shape
    if buffer is None:  # the first block is the largest
        buffer = xp.empty(patches.size, dtype)
    columns = buffer[: patches.size].reshape(groups, n * i * j, kh * kw * c)
    columns.reshape(patches.shape)[...] = patches
    return buffer, columns


def _fold_block(patches, x, at, stride, dilation):
    """Add the patches (n, i, j, KH, KW, C) of the block `at` to the padded image x, in place."""
    for k in range(patches.shape[3]):
        for l in range(patches.shape[4]):  # noqa: E741
            x[shifted(at, k, l, stride, dilation)] += patches[:, :, :, k, l]


def _group_weights(w, groups):
    """(KH, KW, C/G, O) -> (G, KH*KW*C/G, O/G)"""
    kh, kw, c, o = w.shape
    return w.reshape(kh * kw * c, groups, o // groups).transpose(1, 0, 2)


def _is_matrix(x, kernel, stride, padding, groups):
    """A 1x1 kernel on every pixel needs no unfolding: x is the matrix already."""
    return (
        kernel == (1, 1)
        and stride == (1, 1)
        and padding == ((0, 0), (0, 0))
        and groups == 1
        and x.flags.c_contiguous
    )
