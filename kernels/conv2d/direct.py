"""Implicit GEMM: im2col's matrix product, without the matrix. For float32 on the CPU.

The rows of im2col's matrix, the patches, lie in the image already: a patch is KH runs of KW·C
numbers, and its start moves by stride·C from one output pixel to the next. So the register tiles
of `kernels.microkernel` read them there, through a table with the start of every patch and one
with the runs in it. The weight gradient is the same product transposed: its rows are the kernel's
numbers, and what is summed over are the pixels of an output row, stride·C apart. The input gradient
is a convolution of g with the kernel turned around (see `flipped`); for stride s it falls apart
into one convolution for each of the s·s places of a pixel in its stride.

Work is cut into blocks of output rows of some `PIXELS` pixels. A block that needs padding first
copies the part of the image that it sees, with its border of zeros, into a small buffer; that,
the repacked kernel and, for the weight gradient, one sum for each thread are all the memory used
beside the arguments and the result (for stride s the input gradient also makes its s·s parts one
by one). Relative error: 1e-6 of the largest result, as of any sum in float32.
"""

from math import gcd, prod

import numpy as np

from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.jit import jit, plain, prange, threads, usable
from kernels.ladder import rung
from kernels.microkernel import COLUMNS, ONE, ZERO, aligned, clear, copy, multiply, spare

PIXELS = 256  # of a block
SMALL = 2**17  # multiplications


@rung(conv2d, device="cpu", why="patches are multiplied where they lie, in vector registers")
def direct(x, w, stride, padding, dilation, groups):
    _, oh, ow, _ = output_shape(x.shape, w.shape, stride, padding, dilation)
    origin = (-padding[0][0], -padding[1][0])
    return _correlate(plain(x), w, (oh, ow), stride, origin, dilation)


@rung(conv2d_input_grad, device="cpu", why="gathers from g in vector registers, without patches")
def direct(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    g = plain(g)
    w = w.transpose(0, 1, 3, 2)  # (KH, KW, O, C)
    if stride == (1, 1):
        origin = [p - (k - 1) * d for (p, _), k, d in zip(padding, w.shape, dilation)]
        return _correlate(g, w[::-1, ::-1], x_shape[1:3], stride, origin, dilation)
    dx = np.zeros(x_shape, np.float32)
    places = [
        [_place(*axis, start) for start in range(axis[2])]
        for axis in zip(x_shape[1:3], w.shape, stride, (p for p, _ in padding), dilation)
    ]
    for rows, taps_h, top, down in places[0]:
        for columns, taps_w, left, right in places[1]:
            part = dx[:, rows, columns]
            if part.size and taps_h and taps_w:
                size, origin, step = part.shape[1:3], (top, left), (down, right)
                part[...] = _correlate(g, w[taps_h][:, taps_w], size, (1, 1), origin, step)
    return dx


@rung(conv2d_weight_grad, device="cpu", why="patches are multiplied where they lie, transposed")
def direct(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    kh, kw, c, o = w_shape
    g, x = plain(g), plain(x)
    if 0 in g.shape or 0 in x.shape:
        return np.zeros(w_shape, np.float32)
    origin = (-padding[0][0], -padding[1][0])
    view = _View(x.shape, (kh, kw), g.shape[1:3], stride, origin, dilation)
    _, height, width, _ = view.shape
    taps = (np.arange(kh)[:, None] * dilation[0] * width + np.arange(kw) * dilation[1]) * c
    rows = (taps[..., None] + np.arange(c)).ravel()  # (KH*KW*C,) where each weight meets x
    images, lines = view.block[0], view.block[1]
    runs = np.arange(images)[:, None] * height + np.arange(lines) * stride[0]
    runs = runs.ravel() * width * c  # (images*lines,) where each output row begins
    parts = min(threads(), view.blocks)
    sums = np.zeros((parts, kh * kw * c * o), np.float32)
    panels = -(-o // COLUMNS)
    packed = np.zeros((parts, panels * images * lines * g.shape[2] * COLUMNS), np.float32)
    _weight_grad(
        x.reshape(-1), g.reshape(-1), sums, rows, runs, stride[1] * c, view.tuple,
        view.buffer(parts), packed, o,
    )
    return sums.sum(0).reshape(w_shape) if parts > 1 else sums.reshape(w_shape)


def _correlate(x, w, size, stride, origin, dilation):
    """y[n,i,j,o] = Σ x[n, i·s + k·d + origin, ...] w[k,l,c,o] with zeros around x, y of `size`."""
    kh, kw, c, o = w.shape
    if 0 in (len(x), *size, c, o):
        return np.zeros((len(x), *size, o), np.float32)
    y = aligned((len(x), *size, o))
    view = _View(x.shape, (kh, kw), size, stride, origin, dilation)
    _, height, width, _ = view.shape
    images, lines = view.block[0], view.block[1]
    starts = np.arange(images)[:, None] * height + np.arange(lines) * stride[0]
    starts = (starts[..., None] * width + np.arange(size[1]) * stride[1]).ravel() * c
    taps = np.arange(kh)[:, None] * dilation[0] * width
    if dilation[1] != 1 and kw > 1:  # a run is one pixel's channels, not a row of pixels
        taps = taps + np.arange(kw) * dilation[1]
    taps = taps.ravel() * c
    length = kh * kw * c // taps.size
    parts = min(threads(), view.blocks)
    _output(
        x.reshape(-1), pack(w.reshape(-1, o)), y.reshape(-1), starts, taps, length, view.tuple,
        view.buffer(parts), parts, o,
    )
    return y


def pack(matrix):
    """(K, O) -> (panels, K, 16): columns in panels of 16, the last one filled up with zeros."""
    k, o = matrix.shape
    panels = -(-o // COLUMNS)
    packed = np.zeros((panels, k, COLUMNS), np.float32)
    full = o // COLUMNS
    at = full * COLUMNS
    packed[:full] = matrix[:, :at].reshape(k, full, COLUMNS).transpose(1, 0, 2)
    if full < panels:
        packed[full, :, : o - at] = matrix[:, at:]
    return packed


def _place(size, kernel, stride, before, dilation, start):
    """Pixels start, start + stride, ... of an axis of x, as a convolution of g with stride 1.

    Returns (the pixels as a slice, the taps that meet them, the origin in g, the taps' distance).
    """
    taps = [k for k in reversed(range(kernel)) if (start + before - k * dilation) % stride == 0]
    origin = (start + before - taps[0] * dilation) // stride if taps else 0
    return slice(start, size, stride), taps, origin, dilation // gcd(stride, dilation)


class _View:
    """How a convolution walks over an image: in blocks of output rows, copied where padded."""

    def __init__(self, x_shape, kernel, size, stride, origin, dilation):
        n, h, w, c = x_shape
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        lines = min(max(PIXELS // size[1], 1), size[0])
        images = min(max(PIXELS // (size[0] * size[1]), 1), n)
        seen = [(o - 1) * s + e for o, s, e in zip((lines, size[1]), stride, extent)]
        last = (size[0] - 1) * stride[0] + extent[0]
        inside = min(origin) >= 0 and origin[0] + last <= h and origin[1] + seen[1] <= w
        bands = -(-size[0] // lines)
        self.block = images, lines
        self.blocks = -(-n // images) * bands
        self.shape = x_shape if inside else (images, *seen, c)  # of what the offsets refer to
        self.tuple = (
            *x_shape, *size, images, lines, bands, self.blocks, stride[0], *origin, *seen, inside,
        )
        self.tuple = tuple(map(int, self.tuple))
        self.inside = inside

    def buffer(self, parts):
        """For each thread, memory for one block of the image with its border."""
        return np.empty((parts, 0 if self.inside else prod(self.shape)), np.float32)


@jit(parallel=True)
def _output(x, w, y, starts, taps, length, view, buffers, parts, o):
    for part in prange(parts):
        _output_part(np.int64(part), parts, x, w, y, starts, taps, length, view, buffers[part], o)


@jit(error_model="numpy")
def _output_part(part, parts, x, w, y, starts, taps, length, view, buffer, o):
    blocks, edge = view[9], spare()
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        a, first, _, pixels = _block(x, view, block, buffer)
        multiply(
            a, starts, pixels, taps, taps.size, length, ONE,
            w.ctypes.data, y, first * o, o, o, ZERO, edge,
        )  # fmt: skip


@jit(parallel=True)
def _weight_grad(x, g, sums, rows, runs, step, view, buffers, packed, o):
    for part in prange(len(sums)):
        _weight_grad_part(
            np.int64(part), len(sums), x, g, sums[part], rows, runs, step, view, buffers[part],
            packed[part], o,
        )  # fmt: skip


@jit(error_model="numpy")
def _weight_grad_part(part, parts, x, g, dw, rows, runs, step, view, buffer, packed, o):
    blocks, ow, edge = view[9], view[5], spare()
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        a, first, lines, pixels = _block(x, view, block, buffer)
        for panel in range(0, o, COLUMNS):
            width = min(COLUMNS, o - panel)
            for pixel in range(pixels):
                to = packed.ctypes.data + 4 * (panel * pixels + pixel * COLUMNS)
                copy(to, g.ctypes.data + 4 * ((first + pixel) * o + panel), width)
        multiply(
            a, rows, rows.size, runs, lines, ow, step, packed.ctypes.data, dw, ZERO, o, o, ONE,
            edge,
        )  # fmt: skip


@jit(error_model="numpy")
def _block(x, view, block, buffer):
    """Address of what the block sees, its first output pixel, its output rows, its pixels."""
    n, h, w, c, oh, ow, images, lines, bands, _, stride, top, left, bh, bw, inside = view
    image, line = block // bands * images, block % bands * lines
    images, lines = min(images, n - image), min(lines, oh - line)
    first = (image * oh + line) * ow
    top += line * stride
    if inside:
        a = x.ctypes.data + 4 * ((image * h + top) * w + left) * c
        return a, first, images * lines, images * lines * ow
    begin, end = min(max(-left, 0), bw), max(min(bw, w - left), 0)  # columns inside of x
    end = max(begin, end)
    for b in range(images):
        for i in range(bh):
            to = buffer.ctypes.data + 4 * (b * bh + i) * bw * c
            if not 0 <= top + i < h:
                clear(to, bw * c)
                continue
            source = (((image + b) * h + top + i) * w + left + begin) * c
            clear(to, begin * c)
            copy(to + 4 * begin * c, x.ctypes.data + 4 * source, (end - begin) * c)
            clear(to + 4 * end * c, (bw - end) * c)
    return buffer.ctypes.data, first, images * lines, images * lines * ow


@direct.needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    return refusal(g, x, g.shape, w_shape, w_shape[3], groups)


@conv2d_input_grad.rungs["direct"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    return refusal(g, w, g.shape, w.shape, w.shape[2], groups)


@conv2d.rungs["direct"].needs
def _(x, w, stride, padding, dilation, groups):
    y_shape = output_shape(x.shape, w.shape, stride, padding, dilation, groups)
    return refusal(x, w, y_shape, w.shape, w.shape[3], groups)


def refusal(one, two, y_shape, w_shape, columns, groups):
    """True, or why the product of two arrays, `columns` wide, is done better by another rung."""
    if groups != 1:
        return "one group only"
    if one.dtype != np.float32 or two.dtype != np.float32:
        return "float32 only"
    if prod(y_shape) * prod(w_shape[:3]) < SMALL:
        return f"fewer than {SMALL:,} multiplications: NumPy's matrix product starts faster"
    if columns == 1 or (columns < COLUMNS and w_shape[:2] == (1, 1)):
        return f"{columns} columns fill a part of a {COLUMNS}-column tile: BLAS is faster"
    return usable(one, two)
