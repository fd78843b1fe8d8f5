"""The input gradient towards few channels: multiply first, add up after. For float32 on the CPU.

With 3 input channels a gathering rung fills 3 of a tile's 16 columns. Multiplied the other way,
each pixel of g by the whole kernel, all KH·KW·C products of a pixel are one row of a matrix
product (col2im):

    P[i,j, (k,l,c)] = Σ_o g[i,j,o] · w[k,l,c,o],    dx[i·s + k·d - p, j·s + l - p, c] += P[i,j, k,l,c]

A run (l, c) of P lies in dx as it lies in P, so it is added line by line; it is filled up with
zeros to whole lines. For a 3x3 kernel and 3 channels that makes 3 lines a pixel in place of the 9
tiles' columns that gathering takes: 2.4 to 2.8 times faster as measured. P holds one row of g's
pixels and stays in the cache, as does a frame for a band of dx's rows with room for what falls
outside. A row of P that two bands need is computed twice. Relative error: 1e-6 of the largest result.
"""

import numpy as np

from kernels import memory
from kernels.conv2d import conv2d_input_grad
from kernels.conv2d.direct import refusal
from kernels.jit import jit, plain, prange, simd, threads
from kernels.ladder import rung
from kernels.microkernel import COLUMNS, NONE, ZERO, clear, copy, multiply, spare, workspace

FEW = 8  # channels: half a tile
FRAME = 2**16  # numbers


@rung(conv2d_input_grad, device="cpu", why="few channels: multiplies first, so that tiles are full")
def scatter(g, w, x_shape, stride, padding, dilation, groups):
    kh, kw, c, o = w.shape
    (top, _), (left, _) = padding
    dx = memory.empty(x_shape)
    if 0 in g.shape or 0 in x_shape:
        dx[...] = 0
        return dx
    n, h, width, _ = x_shape
    run = -(-kw * c // COLUMNS) * COLUMNS
    wide = np.zeros((kh, run, o), np.float32)
    wide[:, : kw * c] = w.reshape(kh, kw * c, o)
    packed = memory.empty((kh * run // COLUMNS, o, COLUMNS))  # (KH*run/16, O, 16)
    packed[...] = wide.reshape(-1, COLUMNS, o).transpose(0, 2, 1)
    # a row of the frame: all that g's pixels and dx's see
    row = max((g.shape[2] - 1) * stride[1] * c + run, (left + width) * c)
    bands = min(max(-(-threads() // n), -(-h * row // FRAME)), h)
    parts = min(threads(), n * bands)
    products = workspace("products", (parts, g.shape[2] * kh * run))
    frames = workspace("frame", (parts, -(-h // bands), row))
    _scatter(
        plain(g), packed, dx.reshape(-1), x_shape, kh, *stride, dilation[0], top, left, bands,
        products, frames,
    )  # fmt: skip
    return dx


@scatter.needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    kh, kw, c, o = w.shape
    if groups != 1:
        return "one group only"
    if dilation[1] != 1 and kw > 1:
        return "no dilation along rows: a run of products must lie in one piece"
    run = -(-kw * c // COLUMNS) * COLUMNS
    if c == 1 and kh * kw < 16:
        return "one channel: BLAS multiplies a matrix and a vector as fast"
    if c > FEW or 10 * run > 7 * kw * COLUMNS:
        return f"{c} channels: gathering fills the tiles as well"
    return refusal(g, w, g.shape, w.shape, COLUMNS, groups)


@jit(parallel=True)
def _scatter(g, w, dx, x_shape, kh, s0, s1, d0, top, left, bands, products, frames):
    parts = len(products)
    for part in prange(parts):
        _scatter_part(
            np.int64(part), parts, g, w, dx, x_shape, kh, s0, s1, d0, top, left, bands,
            products[part], frames[part],
        )  # fmt: skip


@jit(error_model="numpy")
def _scatter_part(
    part, parts, g, w, dx, x_shape, kh, s0, s1, d0, top, left, bands, products, frame
):
    images, h, width, c = x_shape
    _, oh, ow, o = g.shape
    wide = len(w) * COLUMNS  # numbers of P for a pixel
    run, line = wide // kh, s1 * c
    # Runs that overlap are not added one after the other: a load that meets a part of what was
    # just stored waits until the store has left the core
    apart = (run + line - 1) // line
    rows, columns, to, edge = np.arange(ow) * o, np.arange(o), np.arange(ow) * wide, spare()
    flat = frame.reshape(-1)
    tasks = images * bands
    for task in range(part * tasks // parts, (part + 1) * tasks // parts):
        image, band = task // bands, task % bands
        first, last = band * h // bands, (band + 1) * h // bands
        clear(flat.ctypes.data, (last - first) * frame.shape[1])
        for i in range(oh):
            a = i * s0 - top - first  # the row of the frame that tap 0 meets
            if a >= last - first or a + (kh - 1) * d0 < 0:
                continue
            multiply(
                g.ctypes.data + 4 * (image * oh + i) * ow * o, rows, ow, columns, o,
                w.ctypes.data, products.ctypes.data, to, wide, ZERO, NONE, False, edge,
            )  # fmt: skip
            for k in range(kh):
                if not 0 <= a + k * d0 < last - first:
                    continue
                at = (a + k * d0) * frame.shape[1]
                for first_j in range(min(apart, ow)):
                    for j in range(first_j, ow, apart):
                        for q in range(0, run, COLUMNS):
                            target = at + j * line + q
                            more = simd.load(products, j * wide + k * run + q)
                            simd.store(flat, target, simd.load(flat, target) + more)
        for row in range(first, last):
            copy(
                dx.ctypes.data + 4 * (image * h + row) * width * c,
                flat.ctypes.data + 4 * ((row - first) * frame.shape[1] + left * c), width * c,
            )  # fmt: skip
    return rows.size + columns.size + to.size  # used last here: so they are not freed before
