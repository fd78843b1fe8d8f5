"""Depthwise convolution, compiled: one cache line of channels at a time, sums kept in registers.

Six outputs of a row run at once through all taps that are inside of the image: six sums, one weight
and one pixel are all that AVX2's registers hold. All channels of these six come before the next six,
so x is gone through as it lies in memory. Three taps in a row see eight pixels together: AVX-512
has registers to load each of them once. Outputs that see columns outside of the image are taken singly.

The input gradient is the same with the kernel turned around, in one go for each of the s·s places
of a pixel in its stride (see `direct`).

For the weight gradient six taps at once run through all outputs. There a task takes the channels of
one line and a band of rows, and copies their pixels into a small frame of its own, with the padding
around them: the loops know neither padding nor strides in memory, and the frame stays in the cache.

Relative error as of any sum of KH·KW (weight gradient: N·OH·OW) terms in the arrays' dtype.
"""

import numpy as np

from kernels import memory
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.conv2d.direct import _place
from kernels.conv2d.shifts import _is_depthwise
from kernels.jit import jit, plain, prange, simd, usable
from kernels.ladder import rung
from kernels.microkernel import lanes as vector_lanes

FRAME_BYTES = 2**17  # half of a small second-level cache
PARTS = 16  # of the batch, in the weight gradient: each sums on its own


@rung(conv2d, device="cpu", why="depthwise, compiled: sums stay in registers through all taps")
def depthwise(x, w, stride, padding, dilation, groups):
    y = memory.empty(output_shape(x.shape, w.shape, stride, padding, dilation, groups), x.dtype)
    origin = [-before for before, _ in padding]
    _correlate(x, w[:, :, 0], y, (0, 0), (1, 1), stride, origin, dilation)
    return y


@rung(conv2d_input_grad, device="cpu", why="depthwise, compiled: the same, with the kernel turned")
def depthwise(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    n, h, width, c = x_shape
    outputs = w.shape[3]
    dx = memory.empty((n, h, width, outputs), g.dtype)
    places = [
        [(start, *_place(*axis, start)) for start in range(min(axis[1], size))]
        for size, axis in zip(x_shape[1:3], zip(w.shape, stride, [p for p, _ in padding], dilation))
    ]
    if not all(taps for axis in places for _, taps, _, _ in axis):
        dx[...] = 0  # pixels that no output has seen
    for top, rows, origin_h, step_h in places[0]:
        for left, columns, origin_w, step_w in places[1]:
            if rows and columns:
                some = w[list(rows)][:, list(columns), 0]
                origin, steps = (origin_h, origin_w), (step_h, step_w)
                _correlate(g, some, dx, (top, left), stride, (1, 1), origin, steps)
    return dx if outputs == c else dx.reshape(n, h, width, c, outputs // c).sum(axis=-1)


@rung(conv2d_weight_grad, device="cpu", why="depthwise, compiled: sums of six taps in registers")
def depthwise(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    kh, kw, _, outputs = w_shape
    n, oh, ow, _ = g.shape
    (top, _), (left, _) = padding
    parts = min(n, PARTS)
    dw = np.zeros((parts, kh * kw, outputs), x.dtype)
    rows = _rows(oh, ow, (kh, kw), stride, dilation)
    g, x = plain(g), plain(x)
    _weight_grad(
        g, g.reshape(-1), x, x.reshape(-1), dw, kw, *stride, *dilation, top, left, rows
    )
    return dw.sum(axis=0).reshape(w_shape)


def _correlate(x, w, y, start, step, stride, origin, dilation):
    """y[i·step + start, j·step + start] = Σ x[i·s + k·d + origin, j·s + l·d + origin] · w[k, l].

    Zeros are around x. w (KH, KW, O), O a multiple of x's channels.
    """
    if 0 in y.shape:
        return
    oh, ow = (-(-(size - first) // s) for size, first, s in zip(y.shape[1:3], start, step))
    x, w = plain(x), plain(w)
    kh, kw, o = w.shape
    each, parts = o // x.shape[3], [(x, y)]
    if each > 1:  # channels with several outputs are repeated, an image at a time
        parts = ((x[n : n + 1].repeat(each, axis=3), y[n : n + 1]) for n in range(len(x)))
    for some, out in parts:
        _forward(
            some.reshape(-1), some.shape, w.reshape(-1), kh, kw, out.reshape(-1), out.shape, oh, ow,
            *start, *step, *stride, *dilation, *origin,
        )  # fmt: skip


def _rows(oh, ow, kernel, stride, dilation):
    """How many rows of outputs a band has: as many as keep its frame within FRAME_BYTES."""
    width = (ow - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
    room = FRAME_BYTES // (64 * width) - (kernel[0] - 1) * dilation[0] - 1
    return min(oh, max(1, room // stride[0] + 1))


@conv2d.rungs["depthwise"].needs
def _(x, w, stride, padding, dilation, groups):
    is_depthwise = _is_depthwise(w.shape, groups)
    return usable(x, w) if is_depthwise is True else is_depthwise


@conv2d_input_grad.rungs["depthwise"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    is_depthwise = _is_depthwise(w.shape, groups)
    return usable(g, w) if is_depthwise is True else is_depthwise


@conv2d_weight_grad.rungs["depthwise"].needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    is_depthwise = _is_depthwise(w_shape, groups)
    return usable(g, x) if is_depthwise is True else is_depthwise


@jit(parallel=True)
def _forward(
    x, x_shape, w, kh, kw, y, y_shape, oh, ow, i0, j0, step0, step1, s0, s1, d0, d1, top, left
):
    images, h, width, channels = x_shape
    _, y_h, y_w, _ = y_shape
    lanes = 64 // x.itemsize
    # outputs from `first` to `end` - 1 of a row see no column outside of x
    first = min(max((s1 - 1 - left) // s1, 0), ow)
    end = min(max((width - 1 - left - (kw - 1) * d1) // s1 + 1, first), ow)
    down, across, pixel = d0 * width * channels, d1 * channels, s1 * channels
    for task in prange(images * oh):
        n, i = task // oh, task % oh
        row = i * s0 + top
        k0, k1 = max((d0 - 1 - row) // d0, 0), min((h - 1 - row) // d0 + 1, kh)  # taps inside of x
        begin = ((n * h + row + k0 * d0) * width + left) * channels
        to, apart = ((n * y_h + i * step0 + i0) * y_w + j0) * channels, step1 * channels
        j = 0
        while j < ow:
            if first <= j < end and end - first >= 6:
                j = min(j, end - 6)  # the last six are partly computed again
                start, at = begin + j * pixel, to + j * apart
                for o in range(0, channels - lanes + 1, lanes):
                    _six_outputs(
                        x, start + o, down, across, pixel, w, k0 * kw * channels + o, channels,
                        k1 - k0, kw, y, at + o, apart, None,
                    )  # fmt: skip
                o = channels // lanes * lanes
                if o < channels:
                    _six_outputs(
                        x, start + o, down, across, pixel, w, k0 * kw * channels + o, channels,
                        k1 - k0, kw, y, at + o, apart, channels - o,
                    )  # fmt: skip
                j += 6
                continue
            column = j * s1 + left
            l0, l1 = max((d1 - 1 - column) // d1, 0), min((width - 1 - column) // d1 + 1, kw)
            for o in range(0, channels, lanes):
                count = min(lanes, channels - o)
                _one_output(
                    x, begin + j * pixel + l0 * across + o, down, across,
                    w, (k0 * kw + l0) * channels + o, kw * channels, channels, k1 - k0, l1 - l0,
                    y, to + j * apart + o, count,
                )  # fmt: skip
            j += 1


@jit(inline="always")
def _six_outputs(x, start, down, across, pixel, w, w_start, tap, kh, kw, y, at, apart, count):
    """`count` channels (None: a whole line) of six outputs in a row: the sums over all taps.

    start, down, across, pixel: where in x the first tap of the first output is, and how far from it
    the next row of taps, the next tap and the next output are; w_start, tap: the same of w; at,
    apart: of y."""
    a0 = a1 = a2 = a3 = a4 = a5 = simd.zeros(x)
    eight = kw == 3 and across == pixel and vector_lanes() == 16
    for k in range(kh if eight else 0):
        here, line = start + k * down, w_start + 3 * k * tap
        b, c = simd.get(w, line, count), simd.get(w, line + tap, count)
        d = simd.get(w, line + 2 * tap, count)
        p, q = simd.get(x, here, count), simd.get(x, here + pixel, count)
        r = simd.get(x, here + 2 * pixel, count)
        a0 = simd.fma(r, d, simd.fma(q, c, simd.fma(p, b, a0)))
        p = simd.get(x, here + 3 * pixel, count)
        a1 = simd.fma(p, d, simd.fma(r, c, simd.fma(q, b, a1)))
        q = simd.get(x, here + 4 * pixel, count)
        a2 = simd.fma(q, d, simd.fma(p, c, simd.fma(r, b, a2)))
        r = simd.get(x, here + 5 * pixel, count)
        a3 = simd.fma(r, d, simd.fma(q, c, simd.fma(p, b, a3)))
        p = simd.get(x, here + 6 * pixel, count)
        a4 = simd.fma(p, d, simd.fma(r, c, simd.fma(q, b, a4)))
        q = simd.get(x, here + 7 * pixel, count)
        a5 = simd.fma(q, d, simd.fma(p, c, simd.fma(r, b, a5)))
    for k in range(0 if eight else kh):
        for l in range(kw):  # noqa: E741
            here = start + k * down + l * across
            b = simd.get(w, w_start + (k * kw + l) * tap, count)
            a0 = simd.fma(simd.get(x, here, count), b, a0)
            a1 = simd.fma(simd.get(x, here + pixel, count), b, a1)
            a2 = simd.fma(simd.get(x, here + 2 * pixel, count), b, a2)
            a3 = simd.fma(simd.get(x, here + 3 * pixel, count), b, a3)
            a4 = simd.fma(simd.get(x, here + 4 * pixel, count), b, a4)
            a5 = simd.fma(simd.get(x, here + 5 * pixel, count), b, a5)
    simd.put(y, at, a0, count)
    simd.put(y, at + apart, a1, count)
    simd.put(y, at + 2 * apart, a2, count)
    simd.put(y, at + 3 * apart, a3, count)
    simd.put(y, at + 4 * apart, a4, count)
    simd.put(y, at + 5 * apart, a5, count)


@jit(inline="always")
def _one_output(x, start, down, across, w, w_start, w_down, tap, kh, kw, y, at, count):
    """The same of one output, with those taps that are inside of x."""
    a = simd.zeros(x)
    for k in range(kh):
        for l in range(kw):  # noqa: E741
            b = simd.get(w, w_start + k * w_down + l * tap, count)
            a = simd.fma(simd.get(x, start + k * down + l * across, count), b, a)
    simd.put(y, at, a, count)


@jit(parallel=True)
def _weight_grad(g, g_flat, x, x_flat, dw, kw, s0, s1, d0, d1, top, left, band):
    images, oh, ow, outputs = g.shape
    parts, taps, _ = dw.shape
    kh = taps // kw
    lanes = 64 // x.itemsize
    lines = (outputs + lanes - 1) // lanes
    wide = (ow - 1) * s1 + (kw - 1) * d1 + 1
    high = (band - 1) * s0 + (kh - 1) * d0 + 1
    for task in prange(parts * lines):
        part, o = task // lines, task % lines * lanes
        count = min(lanes, outputs - o)
        frame = np.empty(high * wide * lanes, x.dtype)
        gradients = np.empty(band * ow * lanes, x.dtype)
        sums = np.zeros(taps * lanes, x.dtype)
        for n in range(part * images // parts, (part + 1) * images // parts):
            for first in range(0, oh, band):
                rows = min(band, oh - first)
                seen = (rows - 1) * s0 + (kh - 1) * d0 + 1
                _copy_in(
                    x, x_flat, n, o, count, outputs, frame, seen, wide, first * s0 - top, -left
                )
                _copy_in(g, g_flat, n, o, count, outputs, gradients, rows, ow, first, 0)
                for t in range(0, taps, 6):
                    _six_taps(sums, t, taps, kw, frame, gradients, rows, ow, wide, s0, s1, d0, d1)
        for t in range(taps):
            for c in range(count):
                dw[part, t, o + c] = sums[t * lanes + c]


@jit()
def _six_taps(sums, t, taps, kw, frame, gradients, rows, ow, wide, s0, s1, d0, d1):
    """Add Σ gradients[i, j] · frame[i·s + k·d, j·s + l·d] to the sums of taps t to t + 5."""
    lanes = 64 // frame.itemsize
    end = taps - 1  # the last tile repeats the last tap
    t1, t2, t3 = min(t + 1, end), min(t + 2, end), min(t + 3, end)
    t4, t5 = min(t + 4, end), min(t + 5, end)
    p0 = (t // kw * d0 * wide + t % kw * d1) * lanes
    p1 = (t1 // kw * d0 * wide + t1 % kw * d1) * lanes
    p2 = (t2 // kw * d0 * wide + t2 % kw * d1) * lanes
    p3 = (t3 // kw * d0 * wide + t3 % kw * d1) * lanes
    p4 = (t4 // kw * d0 * wide + t4 % kw * d1) * lanes
    p5 = (t5 // kw * d0 * wide + t5 % kw * d1) * lanes
    a0, a1 = simd.load(sums, t * lanes), simd.load(sums, t1 * lanes)
    a2, a3 = simd.load(sums, t2 * lanes), simd.load(sums, t3 * lanes)
    a4, a5 = simd.load(sums, t4 * lanes), simd.load(sums, t5 * lanes)
    for i in range(rows):
        for j in range(ow):
            b = simd.load(gradients, (i * ow + j) * lanes)
            at = (i * s0 * wide + j * s1) * lanes
            a0 = simd.fma(simd.load(frame, at + p0), b, a0)
            a1 = simd.fma(simd.load(frame, at + p1), b, a1)
            a2 = simd.fma(simd.load(frame, at + p2), b, a2)
            a3 = simd.fma(simd.load(frame, at + p3), b, a3)
            a4 = simd.fma(simd.load(frame, at + p4), b, a4)
            a5 = simd.fma(simd.load(frame, at + p5), b, a5)
    simd.store(sums, t * lanes, a0)
    simd.store(sums, t1 * lanes, a1)
    simd.store(sums, t2 * lanes, a2)
    simd.store(sums, t3 * lanes, a3)
    simd.store(sums, t4 * lanes, a4)
    simd.store(sums, t5 * lanes, a5)


@jit()
def _copy_in(x, x_flat, n, o, count, outputs, frame, high, wide, top, left):
    """Copy the channels that outputs o, o + 1, ... see, from row `top` and column `left` of image n
    on, into the frame; what lies outside of the image is zero, as are lanes beyond `count`."""
    _, h, w, channels = x.shape
    lanes = 64 // x.itemsize
    each = outputs // channels
    zeros = simd.zeros(frame)
    begin, end = min(max(-left, 0), wide), max(min(wide, w - left), 0)  # columns inside of x
    for i in range(high):
        row, inside = i * wide * lanes, 0 <= top + i < h
        for j in range(begin if inside else wide):
            simd.store(frame, row + j * lanes, zeros)
        for j in range(max(begin, end) if inside else wide, wide):
            simd.store(frame, row + j * lanes, zeros)
        if inside and count == lanes and each == 1:
            start = ((n * h + top + i) * w + left) * channels + o
            for j in range(begin, end):
                simd.store(frame, row + j * lanes, simd.load(x_flat, start + j * channels))
        elif inside:
            for j in range(begin, end):
                simd.store(frame, row + j * lanes, zeros)
                for c in range(count):
                    frame[row + j * lanes + c] = x[n, top + i, left + j, (o + c) // each]
