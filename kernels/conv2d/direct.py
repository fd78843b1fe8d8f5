"""Implicit GEMM: im2col's matrix product, without the matrix. For float32 on the CPU.

The rows of im2col's matrix, the patches, lie in the image already: number (k, l, c) of the patch at
pixel (i, j) is where i, j, k, l and c say, and its place is a sum of two offsets, one of (i, j),
one of (k, l, c). So the register tiles of `kernels.microkernel` read the patches there, through two
tables. The weight gradient is the same product with the tables exchanged: its rows are the kernel's
numbers, and what is summed over are pixels. The input gradient is a convolution of g with the
kernel turned around (see `flipped`); for stride s it falls apart into one convolution for each of
the s·s places of a pixel in its stride. A bias is where the sums start, ReLU where they end.

Work is cut into blocks of output rows of some `PIXELS` pixels. A block that needs padding first
copies the part of the image that it sees, with its border of zeros, into a small buffer; that,
the repacked kernel and, for the weight gradient, one sum for each thread are all the memory used
beside the arguments and the result. Groups too narrow for a tile of 16 columns are taken together,
with zeros between them. Relative error: 1e-6 of the largest result, as of any sum in float32.

Measured on one thread of a Zen 3, in percent of its peak (91 GFLOP/s, AVX2): the output 87 to 94 with
32 channels and more, 82 to 92 with 3, where a tile's sum may have 27 terms only; the weight gradient
79 to 89, and 68 to 78 with 3 channels and a 3x3 kernel. Of a Zen 5 (257 GFLOP/s, AVX-512): the output
88 to 95, with 3 channels 80 to 90; the weight gradient 75 to 87; 50 to 57 with 16 outputs, which are one
vector only.
"""

import functools
from math import gcd, prod
from typing import NamedTuple

import numpy as np

from kernels import memory
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.jit import jit, plain, prange, simd, threads, usable
from kernels.ladder import rung
from kernels.microkernel import (
    COLUMNS, MOST, NONE, ZERO, clear, copy, lanes, multiply, pack, spare, workspace,
)  # fmt: skip

LINES = 32  # of the kernel, of all outputs, are packed at a time: they stay in the cache meanwhile
PIXELS, NARROW = 256, 8  # of a block: as many, twice as many where it has so few channels
SMALL = 2**17  # multiplications


@rung(conv2d, device="cpu", why="patches are multiplied where they lie, in vector registers")
def direct(x, w, stride, padding, dilation, groups, b=None, relu=False):
    y = memory.empty(output_shape(x.shape, w.shape, stride, padding, dilation, groups))
    _correlate(x, w, _taps(w.shape), False, y, (0, 0), (1, 1), stride, _origin(padding), dilation,
               groups, b, relu)  # fmt: skip
    return y


@rung(conv2d_input_grad, device="cpu", why="gathers from g in vector registers, without patches")
def direct(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    dx = memory.empty(x_shape)
    befores = [before for before, _ in padding]
    places = [
        [(start, *_place(*axis, start)) for start in range(min(axis[1], size))]
        for size, axis in zip(x_shape[1:3], zip(w.shape, stride, befores, dilation))
    ]
    if not all(taps for axis in places for _, taps, _, _ in axis):
        dx[...] = 0  # pixels that no output has seen
    for top, rows, origin_h, step_h in places[0]:
        for left, columns, origin_w, step_w in places[1]:
            if rows and columns:
                _correlate(
                    g, w, (rows, columns), True, dx, (top, left), stride, (1, 1),
                    (origin_h, origin_w), (step_h, step_w), groups,
                )  # fmt: skip
    return dx


@rung(conv2d_weight_grad, device="cpu", why="patches are multiplied where they lie, transposed")
def direct(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    if 0 in g.shape or 0 in x.shape:
        return np.zeros(w_shape, np.float32)
    plan = _plan(x.shape, _taps(w_shape), g.shape, (0, 0), (1, 1), stride, _origin(padding),
                 dilation, groups)  # fmt: skip
    parts = min(threads(), plan.blocks)
    sums = memory.empty((parts, *plan.sums))  # not a workspace: it is read below
    packed = workspace("gradient", (parts, plan.starts.size * MOST))
    _weight_grad(
        plain(x), plain(g), sums, plan.rows, plan.taps, plan.starts, plan.view,
        _buffers(plan, parts), packed, plan.outputs,
    )  # fmt: skip
    sums = sums[0] if parts == 1 else sums.sum(axis=0)  # no view, which would keep all parts
    kh, kw, c, o = w_shape
    if plan.groups == plan.merged == 1:
        return sums[0, :, :o].reshape(w_shape)  # a copy where o is no multiple of 16
    # of the groups taken together, only those that are one: (KH*KW, C/G, G, O/G)
    merged = plan.merged
    dw = np.empty((kh * kw, c, plan.groups, merged, plan.outputs // merged), np.float32)
    sums = sums[..., : plan.outputs].reshape(plan.groups, kh * kw, merged, c, merged, -1)
    for one in range(merged):
        dw[:, :, :, one] = sums[:, :, one, :, one].transpose(1, 2, 0, 3)
    return dw.reshape(w_shape)


def _correlate(
    x, w, taps, turned, y, start, step, stride, origin, dilation, groups, b=None, relu=False
):
    """y[n, i·step + start, j·step + start] = Σ x[n, i·s + k·d + origin, ...] w[taps[k], taps[l]].

    Zeros are around x. w is (KH, KW, C/groups, O); turned, its inputs and outputs are exchanged.
    """
    if 0 in y.shape or 0 in x.shape:
        y[:, start[0] :: step[0], start[1] :: step[1]] = finish(0, b, relu)
        return
    plan = _plan(x.shape, taps, y.shape, start, step, stride, origin, dilation, groups)
    parts = min(threads(), plan.blocks)
    _output(
        plain(x), plain(w), *plan.kernel, turned, plan.merged, workspace("kernel", plan.panels),
        NO_BIAS if b is None else plain(b), ZERO_F if relu else NONE, y, plan.starts, plan.taps,
        plan.to, plan.view, _buffers(plan, parts), plan.outputs,
    )  # fmt: skip


def finish(y, b, relu):
    """What bias and ReLU make of y, in place where it is an array."""
    if b is not None:
        y = np.add(y, b, out=y if isinstance(y, np.ndarray) else None)
    return np.maximum(y, 0, out=y if isinstance(y, np.ndarray) else None) if relu else y


ZERO_F = np.float32(0)
NO_BIAS = np.empty(0, np.float32)


def _taps(w_shape):
    return range(w_shape[0]), range(w_shape[1])


def _origin(padding):
    (top, _), (left, _) = padding
    return -top, -left


def _merged(groups, outputs):
    """How many groups are taken together: as many as fill a tile."""
    most = max(COLUMNS // max(outputs, 1), 1)
    return max(m for m in range(1, most + 1) if groups % m == 0)


def _place(kernel, stride, before, dilation, start):
    """Pixels start, start + stride, ... of an axis of x, as a convolution of g with stride 1.

    Returns (the taps that meet them, the origin in g, the taps' distance).
    """
    taps = tuple(k for k in reversed(range(kernel)) if (start + before - k * dilation) % stride == 0)
    origin = (start + before - taps[0] * dilation) // stride if taps else 0
    return taps, origin, dilation // gcd(stride, dilation)


class _Plan(NamedTuple):
    """How a convolution walks over an image: in blocks of output rows, copied where padded."""

    merged: int  # groups taken together; below, such a bundle is one group
    groups: int
    outputs: int  # of a group
    kernel: tuple  # the taps of w that count: of its rows, of its columns
    panels: int  # numbers of the kernel as `multiply` wants it: (groups, panels, taps, 16)
    sums: tuple  # shape of its gradient: (groups, taps, outputs rounded up to whole panels)
    rows: np.ndarray  # where each row of that begins
    starts: np.ndarray  # where the patch of each pixel of a block begins
    taps: np.ndarray  # where each of its numbers is, from there
    to: np.ndarray  # where each pixel of a block goes in y, from the first on
    view: tuple  # for _block
    blocks: int
    buffer: int  # numbers that a thread's copy of a block takes


@functools.lru_cache(maxsize=256)
def _plan(x_shape, kernel, y_shape, start, step, stride, origin, dilation, groups):
    n, h, w, c = x_shape
    _, y_h, y_w, o = y_shape
    merged = _merged(groups, o // groups)
    groups = groups // merged
    oh, ow = (-(-(size - first) // s) for size, first, s in zip(y_shape[1:3], start, step))
    extent = [(len(taps) - 1) * d + 1 for taps, d in zip(kernel, dilation)]
    pixels = PIXELS if c > NARROW else 2 * PIXELS
    lines = min(max(pixels // ow, 1), oh)
    images = min(max(pixels // (oh * ow), 1), n)
    seen = [(size - 1) * s + e for size, s, e in zip((lines, ow), stride, extent)]
    last = (oh - 1) * stride[0] + extent[0]
    inside = min(origin) >= 0 and origin[0] + last <= h and origin[1] + seen[1] <= w
    bands = -(-oh // lines)
    height, width = (h, w) if inside else seen  # of what the offsets refer to

    def offsets(rows, columns, numbers, row, number):
        """(len(rows), len(columns), len(numbers)) -> all offsets, in that order"""
        rows, columns, numbers = map(np.asarray, (rows, columns, numbers))
        table = (rows[:, None, None] * row + columns[:, None]) * number + numbers
        return table.astype(np.int64).ravel()

    pixels = [np.arange(size) for size in (images, lines, ow)]
    rows = (pixels[0][:, None] * height + pixels[1] * stride[0]).ravel()
    y_rows = (pixels[0][:, None] * y_h + pixels[1] * step[0]).ravel()
    places = [np.arange(len(taps)) * d for taps, d in zip(kernel, dilation)]
    taps = offsets(*places, np.arange(c // groups), width, c)
    panels = -(-(o // groups) // COLUMNS)
    view = (
        *x_shape, oh, ow, images, lines, bands, bands * -(-n // images), stride[0], *origin, *seen,
        inside, y_h * y_w * o, step[0] * y_w * o, (start[0] * y_w + start[1]) * o,
    )  # fmt: skip
    return _Plan(
        merged,
        groups,
        o // groups,
        tuple(np.array(taps, np.int64) for taps in kernel),
        groups * panels * taps.size * COLUMNS,
        (groups, taps.size, panels * COLUMNS),
        np.arange(taps.size) * (panels * COLUMNS),
        offsets(rows, pixels[2] * stride[1], [0], width, c),
        taps,
        offsets(y_rows, pixels[2] * step[1], [0], y_w, o),
        tuple(map(int, view)),
        bands * -(-n // images),
        0 if inside else images * seen[0] * seen[1] * c,
    )


def _buffers(plan, parts):
    return workspace("block", (parts, plan.buffer))


@jit(parallel=True)
def _output(
    x, w, rows, columns, turned, merged, packed, b, floor, y, starts, taps, to, view, buffers, o
):
    groups = packed.size // taps.size // ((o + COLUMNS - 1) // COLUMNS * COLUMNS)
    _pack(w, rows, columns, turned, merged, groups, o, packed)
    bias = padded_bias(b, groups, o)
    parts = len(buffers)
    for part in prange(parts):
        _output_part(
            np.int64(part), parts, x, packed, bias, floor, y, starts, taps, to, view,
            buffers[part], o,
        )  # fmt: skip


@jit(error_model="numpy")
def _pack(w, rows, columns, turned, merged, groups, outputs, packed):
    """w (KH, KW, C/groups, O) to panels (groups, panels, KH·KW·C/groups, 16), one after the other.

    Of groups taken together each sees its own inputs, and zeros in place of the others'."""
    if merged > 1:
        _pack_merged(w, rows, columns, turned, merged, groups, packed)
        return
    flat, _, width, c, o = w.reshape(-1), *w.shape
    size, b_row, b_column = c, o, 1  # inputs of a group; from one to the next, from output to output
    if turned:
        size, b_row, b_column = o // groups, 1, o
    line = 0
    for group in range(groups):
        begin = group * (size if turned else outputs)
        for k in rows:
            for l in columns:  # noqa: E741
                for some in range(0, size, LINES):
                    end, at = min(some + LINES, size), line
                    for first in range(0, outputs, COLUMNS):
                        source = (k * width + l) * c * o + begin + first * b_column
                        count = min(COLUMNS, outputs - first)
                        pack(flat, source, b_row, b_column, some, end, count, packed, at)
                        at += len(rows) * len(columns) * size * COLUMNS
                line += size * COLUMNS
        line += (outputs - 1) // COLUMNS * len(rows) * len(columns) * size * COLUMNS


@jit(error_model="numpy")
def _pack_merged(w, rows, columns, turned, merged, groups, packed):
    """The same of several groups that share a panel."""
    one_in, one_out = w.shape[2], w.shape[3] // (groups * merged)
    if turned:
        one_in, one_out = one_out, one_in
    clear(packed.ctypes.data, packed.size)
    line = 0
    for group in range(groups):
        for k in rows:
            for l in columns:  # noqa: E741
                for one in range(merged):
                    begin = (group * merged + one) * (one_in if turned else one_out)
                    for number in range(one_in):
                        for j in range(one_out):
                            c, o = (j, begin + number) if turned else (number, begin + j)
                            packed[line + one * one_out + j] = w[k, l, c, o]
                        line += COLUMNS


@jit()
def padded_bias(b, groups, outputs):
    """b with the last panel of each group filled up, one after the other; zeros where b is empty."""
    padded = (outputs + COLUMNS - 1) // COLUMNS * COLUMNS
    bias = np.zeros(groups * padded, np.float32)
    for group in range(groups if b.size else 0):
        for j in range(outputs):
            bias[group * padded + j] = b[group * outputs + j]
    return bias


@jit(error_model="numpy")
def _output_part(part, parts, x, w, bias, floor, y, starts, taps, to, view, buffer, o):
    blocks, edge = view[9], spare()
    clear(buffer.ctypes.data, buffer.size)
    padded = (o + COLUMNS - 1) // COLUMNS * COLUMNS
    groups = bias.size // padded
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        a, pixels, _, first = _block(x, view, block, buffer)
        for group in range(groups):
            multiply(
                a + 4 * group * (view[3] // groups), starts, pixels, taps, taps.size,
                w.ctypes.data + 4 * group * taps.size * padded,
                y.ctypes.data + 4 * (first + group * o), to, o,
                bias.ctypes.data + 4 * group * padded, floor, False, edge,
            )  # fmt: skip


@jit(parallel=True)
def _weight_grad(x, g, sums, to, taps, starts, view, buffers, packed, o):
    parts = len(sums)
    for part in prange(parts):
        _weight_grad_part(
            np.int64(part), parts, x, g, sums[part], to, taps, starts, view, buffers[part],
            packed[part], o,
        )  # fmt: skip


@jit()
def _as_it_lies(every, o):
    """Whether a block of g, pixels of `every` channels and groups of o, is multiplied where it lies.

    One line of each pixel is read again and again: where these are far apart, they fall into few
    sets of the level 1 cache and do not stay in it. A copy in panels does."""
    return o % COLUMNS == 0 and every <= 2 * COLUMNS


@jit(error_model="numpy")
def _weight_grad_part(part, parts, x, g, dw, to, taps, starts, view, buffer, packed, o):
    blocks, edge = view[9], spare()
    clear(buffer.ctypes.data, buffer.size)
    groups, size, padded = dw.shape
    every, lies, wide = groups * o, _as_it_lies(groups * o, o), 2 * lanes()
    begin = part * blocks // parts
    for block in range(begin, (part + 1) * blocks // parts):
        a, pixels, at, _ = _block(x, view, block, buffer)
        for group in range(groups):
            for first in range(0, o, wide):
                source = at * every + group * o + first
                width = min(wide, padded - first)
                if not lies:
                    for panel in range(0, width, COLUMNS):
                        _pack_panel(
                            g, source + panel, every, pixels, min(COLUMNS, o - first - panel),
                            packed, panel * pixels,
                        )  # fmt: skip
                multiply(
                    a + 4 * group * (view[3] // groups), taps, size, starts, pixels,
                    g.ctypes.data + 4 * source if lies else packed.ctypes.data,
                    dw.ctypes.data + 4 * (group * size * padded + first), to, width, ZERO, NONE,
                    block > begin, edge, every if lies else 0,
                )  # fmt: skip


@jit(error_model="numpy")
def _pack_panel(g, source, every, pixels, width, packed, to):
    """`width` columns of g, whose rows are `every` numbers apart, as a panel (pixels, 16)."""
    for pixel in range(pixels):
        line, to_line = source + pixel * every, to + pixel * COLUMNS
        simd.prefetch(g, line + pixels * every)  # of the next block
        if width == COLUMNS:
            simd.store(packed, to_line, simd.load(g, line))
        else:
            at = packed.ctypes.data + 4 * to_line
            copy(at, g.ctypes.data + 4 * line, width)
            clear(at + 4 * width, COLUMNS - width)


@jit(error_model="numpy")
def _block(x, view, block, buffer):
    """Address of what the block sees, its pixels, the first one's number, and its place in y.

    `buffer` is the same for all blocks of a part: its columns outside of x stay zero."""
    n, h, w, c, oh, ow, images, lines, bands, _, stride, top, left, bh, bw, inside = view[:16]
    image, line = block // bands * images, block % bands * lines
    images, lines = min(images, n - image), min(lines, oh - line)
    pixels, first = images * lines * ow, (image * oh + line) * ow
    to = view[18] + image * view[16] + line * view[17]
    top += line * stride
    if inside:
        a = x.ctypes.data + 4 * ((image * h + top) * w + left) * c
        return a, pixels, first, to
    begin, end = min(max(-left, 0), bw), max(min(bw, w - left), 0)  # columns inside of x
    end = max(begin, end)
    for b in range(images):
        for i in range(bh):
            at = buffer.ctypes.data + 4 * ((b * bh + i) * bw + begin) * c
            if 0 <= top + i < h:
                source = (((image + b) * h + top + i) * w + left + begin) * c
                copy(at, x.ctypes.data + 4 * source, (end - begin) * c)
            else:
                clear(at, (end - begin) * c)
    return buffer.ctypes.data, pixels, first, to


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
    if one.dtype != np.float32 or two.dtype != np.float32:
        return "float32 only"
    if prod(y_shape) * prod(w_shape[:3]) < SMALL:
        return f"fewer than {SMALL:,} multiplications: NumPy's matrix product starts faster"
    if columns == 1 or (columns < COLUMNS and w_shape[:2] == (1, 1)):
        return f"{columns} columns fill a part of a {COLUMNS}-column tile: BLAS is faster"
    return usable(one, two)
