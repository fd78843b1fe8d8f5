"""Winograd's short convolution F(4x4, 3x3): 36 multiplications where the sum has 144.

Four outputs of a 3-tap filter are the coefficients of a product of polynomials, and a product can
be taken point by point: evaluate both factors at 0, 1, -1, 2, -2 and ∞ (cheap: additions), multiply
6 numbers, interpolate. In both directions of the image, a tile of 4x4 outputs sees 6x6 inputs:

    y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A        (Lavin and Gray 2015, arXiv:1509.09308)

Summed over channels, ⊙ becomes a matrix product (tiles x C by C x O) for each of the 36 points,
done by `kernels.microkernel`. Tiles are taken some dozens at a time, so that what is between the
transforms never leaves the level 2 cache. The input gradient is the same with the kernel turned
around; the weight gradient is the transposed algorithm, dw = Gᵀ [ (A g Aᵀ) ⊙ (Bᵀ x B) ] G.

Error, relative to the largest result: 3e-6 with 16 channels, 5e-6 with 32 to 64, 1e-5 with 256 to
512 (root mean square: 1e-6 to 4e-6). That is 5 to 10 times that of `direct`, since the points 2 and
-2 make large numbers that cancel. A NaN, an infinity or a very large number reaches all 16 outputs of
its tile, also those that do not see it. float64 never comes here: gradients are checked on another
rung. `kernels.use(conv2d="direct", ...)` asks for the more exact way.
"""

import functools
from math import prod
from typing import NamedTuple

import numpy as np

from kernels import memory
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.conv2d.direct import NO_BIAS, ZERO_F, finish, padded_bias, refusal
from kernels.jit import jit, lanes, plain, prange, simd, threads
from kernels.ladder import rung
from kernels.microkernel import (
    COLUMNS, NONE, ONE, ZERO, clear, copy, multiply, pack, spare, workspace,
)  # fmt: skip

CACHE_NUMBERS = 2**17  # of all transformed tiles of a block: they fill half of a level 2 cache
# (which, numbers before, numbers after) of the transforms; Numba compiles `_both` for each of them
IMAGE, KERNEL, GRADIENT, WEIGHTS = (0, 6, 6), (1, 3, 6), (2, 4, 6), (3, 6, 3)
SQUARE = COLUMNS * COLUMNS
PAD = COLUMNS  # between two points, so that not all 36 fall into the same lines of the cache
FEWEST, MOST = 24, 48  # tiles in a block: multiples of the 6 rows of a register tile


@rung(conv2d, device="cpu", why="a quarter of the multiplications (error up to 1e-5)")
def winograd(x, w, stride, padding, dilation, groups, b=None, relu=False):
    _, oh, ow, _ = output_shape(x.shape, w.shape, 1, padding)
    return _convolve(x, w, False, (oh, ow), (padding[0][0], padding[1][0]), b, relu)


@rung(conv2d_input_grad, device="cpu", why="a quarter of the multiplications (error up to 1e-5)")
def winograd(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    return _convolve(g, w, True, x_shape[1:3], (2 - padding[0][0], 2 - padding[1][0]))


@rung(conv2d_weight_grad, device="cpu", why="a quarter of the multiplications (error up to 1e-5)")
def winograd(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    c, o = w_shape[2:]
    if 0 in g.shape or 0 in x.shape:
        return np.zeros(w_shape, np.float32)
    g, x = plain(g), plain(x)
    plan = _plan(g.shape[:3], c, o, threads())
    padded = plan.padded
    sums = workspace("sums", (plan.parts, 36 * c * padded))
    dw = memory.empty((3, 3, c, padded))
    before = padding[0][0], padding[1][0]
    _weight_grad(
        x.reshape(-1), x.shape, g.reshape(-1), g.shape, before, plan.tiles,
        workspace("tiles", plan.inputs), workspace("points", plan.outputs), sums,
        np.arange(c), dw.reshape(-1),
    )  # fmt: skip
    return dw if o == padded else dw[..., :o].copy()


def _convolve(x, w, turned, size, before, b=None, relu=False):
    """x (N, H, W, C) with `before` rows and columns of zeros, and enough behind: y of `size`.

    w is (3, 3, C, O); turned, it is (3, 3, O, C) and runs backwards."""
    c, o = w.shape[:1:-1] if turned else w.shape[2:]
    y = memory.empty((len(x), *size, o))
    if 0 in (*y.shape, c):
        y[...] = finish(0, b, relu)
        return y
    x = plain(x)
    plan = _plan(y.shape[:3], c, o, threads())
    points = workspace("kernel", 36 * c * plan.padded)  # (36, O/16, C, 16)
    _output(
        x.reshape(-1), x.shape, plain(w).reshape(-1), turned, points, y.reshape(-1), y.shape, before,
        plan.tiles, workspace("tiles", plan.inputs), workspace("points", plan.outputs), plan.rows,
        NO_BIAS if b is None else plain(b), ZERO_F if relu else NONE,
    )  # fmt: skip
    return y


class _Plan(NamedTuple):
    """How the tiles of a convolution are shared out."""

    tiles: int  # in a block
    parts: int
    inputs: tuple  # (parts, numbers of each for the transforms of C channels)
    outputs: tuple  # the same of O channels
    padded: int  # O, rounded up to whole lines
    rows: np.ndarray  # where each tile of a block begins


@functools.lru_cache(maxsize=256)
def _plan(size, c, o, most):
    """size: (N, OH, OW); most: parts, threads as a rule."""
    n, oh, ow = size
    c, o = (-(-channels // COLUMNS) * COLUMNS for channels in (c, o))
    every = n * -(-oh // 4) * -(-ow // 4)
    tiles = min(max(CACHE_NUMBERS // (36 * (c + o)), FEWEST), MOST, every + 5) // 6 * 6
    parts = min(most, -(-every // tiles))
    spaces = [(parts, 36 * (tiles * channels + PAD)) for channels in (c, o)]
    return _Plan(tiles, parts, *spaces, o, np.arange(tiles) * c)


@jit(parallel=True)
def _output(
    x, x_shape, w, turned, points, y, y_shape, before, tiles, xs, ys, rows, b, floor
):
    parts = len(xs)
    bias = padded_bias(b, 1, y_shape[3])
    for part in prange(parts):
        _kernel_points(w, turned, x_shape[3], y_shape[3], points, np.int64(part), parts)
    for part in prange(parts):
        _output_part(
            np.int64(part), parts, simd.pointer(x), x_shape, simd.pointer(points), simd.pointer(y),
            y_shape, before, tiles, simd.pointer(xs[part]), simd.pointer(ys[part]), rows, bias,
            floor,
        )  # fmt: skip


@jit(error_model="numpy")
def _kernel_points(w, turned, c, o, points, part, parts):
    """G w Gᵀ: w (3, 3, C, O), or turned (3, 3, O, C), to points (36, O/16, C, 16), O rounded up.

    In squares of 16 inputs and 16 outputs: so both w and the points are gone through in runs."""
    row, column = (1, c) if turned else (o, 1)
    panel = (o + COLUMNS - 1) // COLUMNS * COLUMNS * c  # numbers of a point
    squares, line_points = np.empty(9 * SQUARE, np.float32), np.empty(36 * COLUMNS, np.float32)
    source, scratch, to = simd.pointer(squares), simd.pointer(line_points), simd.pointer(points)
    groups = (c + COLUMNS - 1) // COLUMNS
    for group in range(part * groups // parts, (part + 1) * groups // parts):
        begin, end = group * COLUMNS, min(group * COLUMNS + COLUMNS, c)
        for first in range(0, o, COLUMNS):
            for tap in range(9):
                at = (8 - tap if turned else tap) * c * o + first * column
                count = min(COLUMNS, o - first)
                pack(
                    w, at, row, column, begin, end, count, squares,
                    tap * SQUARE - begin * COLUMNS,
                )  # fmt: skip
            for line in range(begin, end):
                _both(
                    KERNEL, source, (line - begin) * COLUMNS, 3 * SQUARE, SQUARE, scratch,
                    to, first * c + line * COLUMNS, 6 * panel, panel,
                )  # fmt: skip
    return squares.size + line_points.size  # used last here: so they are not freed before


@jit(error_model="numpy")
def _output_part(
    part, parts, x, x_shape, points, y, y_shape, before, tiles, xs, ys, rows, bias, floor
):
    n, oh, ow, o = y_shape
    c = x_shape[3]
    c_wide, x_step = _widths(c, tiles)
    o_wide, y_step = _widths(o, tiles)
    down, across = (oh + 3) // 4, (ow + 3) // 4
    every = n * down * across
    blocks = (every + tiles - 1) // tiles
    columns, lines, edge = np.arange(c), np.arange(tiles) * o_wide, spare()
    edges = np.zeros(36 * max(c_wide, o_wide), np.float32)
    tile_points = np.empty(36 * COLUMNS, np.float32)
    patch, scratch = simd.pointer(edges), simd.pointer(tile_points)
    lowest = simd.splat(floor)
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        start = block * tiles
        count = min(tiles, every - start)
        for t in range(count):
            _image_points(
                start + t, down, across, x, x_shape, before, patch, scratch, xs, t * c_wide,
                x_step,
            )  # fmt: skip
            image, i, j = _place(start + t, down, across)
            _fetch(y, y_shape, image, i, j, True)
        for point in range(36):
            multiply(
                simd.address(xs, point * x_step), rows, count, columns, c,
                simd.address(points, point * c * o_wide), simd.address(ys, point * y_step), lines,
                o_wide, ZERO, NONE, False, edge,
            )  # fmt: skip
        for t in range(count):
            image, i, j = _place(start + t, down, across)
            height, width = min(4, oh - i), min(4, ow - j)
            at = ((image * oh + i) * ow + j) * o
            whole = height == 4 and width == 4 and o == o_wide
            for first in range(0, o, COLUMNS):
                _result(
                    ys, t * o_wide + first, y_step, scratch, simd.load(bias, first), lowest,
                    y if whole else patch, (at if whole else 0) + first,
                    ow * o if whole else 4 * o_wide, o if whole else o_wide,
                )  # fmt: skip
            for row in range(0 if whole else height):
                for column in range(width):
                    to = simd.address(y, at + (row * ow + column) * o)
                    copy(to, simd.address(patch, (row * 4 + column) * o_wide), o)
    return edges.size + tile_points.size + columns.size + lines.size  # freed now, not before


@jit(parallel=True)
def _weight_grad(x, x_shape, g, g_shape, before, tiles, xs, gs, sums, rows, dw):
    parts = len(xs)
    for part in prange(parts):
        _weight_grad_part(
            np.int64(part), parts, simd.pointer(x), x_shape, simd.pointer(g), g_shape, before, tiles,
            simd.pointer(xs[part]), simd.pointer(gs[part]), simd.pointer(sums[part]), rows,
        )  # fmt: skip
    for part in prange(parts):
        _kernel_from_points(sums, x_shape[3], dw, np.int64(part), parts)


@jit(error_model="numpy")
def _weight_grad_part(part, parts, x, x_shape, g, g_shape, before, tiles, xs, gs, sums, rows):
    n, oh, ow, o = g_shape
    c = x_shape[3]
    c_wide, x_step = _widths(c, tiles)
    o_wide, g_step = _widths(o, tiles)
    down, across = (oh + 3) // 4, (ow + 3) // 4
    every = n * down * across
    blocks = (every + tiles - 1) // tiles
    columns, lines, edge = np.arange(tiles) * c_wide, np.arange(c) * o_wide, spare()
    edges = np.zeros(36 * max(c_wide, o_wide), np.float32)
    tile_points = np.empty(36 * COLUMNS, np.float32)
    patch, scratch = simd.pointer(edges), simd.pointer(tile_points)
    begin = part * blocks // parts
    for block in range(begin, (part + 1) * blocks // parts):
        start = block * tiles
        count = min(tiles, every - start)
        for t in range(count):
            _image_points(
                start + t, down, across, x, x_shape, before, patch, scratch, xs, t * c_wide,
                x_step,
            )  # fmt: skip
            image, i, j = _place(start + t, down, across)
            source, at, row, column = _window(g, g_shape, image, i, j, 4 * ONE, patch)
            _fetch(g, g_shape, image, i + 4, j, False)  # the tile below
            for first in range(0, o, COLUMNS):  # to panels (O/16, count, 16) for each point
                _both(
                    GRADIENT, source, at + first, row, column, scratch,
                    gs, first * count + t * COLUMNS, 6 * g_step, g_step,
                )  # fmt: skip
        for point in range(36):
            multiply(
                simd.address(xs, point * x_step), rows, c, columns, count,
                simd.address(gs, point * g_step), simd.address(sums, point * c * o_wide), lines,
                o_wide, ZERO, NONE, block > begin, edge,
            )  # fmt: skip
    return edges.size + tile_points.size + columns.size + lines.size  # freed now, not before


@jit(error_model="numpy")
def _kernel_from_points(sums, c, dw, part, parts):
    """Gᵀ Σ G of the parts' sums (parts, 36, C, O) to dw (3, 3, C, O), O a multiple of 16."""
    size = c * (dw.size // (9 * c))
    line_points, line_sums = np.empty(36 * COLUMNS, np.float32), np.empty(36 * COLUMNS, np.float32)
    scratch, total, to = simd.pointer(line_points), simd.pointer(line_sums), simd.pointer(dw)
    lines = size // COLUMNS
    for line in range(part * lines // parts, (part + 1) * lines // parts):
        for point in range(36):
            at = point * size + line * COLUMNS
            one = simd.load(sums[0], at)
            for other in range(1, len(sums)):
                one = one + simd.load(sums[other], at)
            simd.store(total, point * COLUMNS, one)
        _both(
            WEIGHTS, total, ZERO, 6 * ONE * COLUMNS, ONE * COLUMNS, scratch,
            to, line * COLUMNS, 3 * size, size,
        )  # fmt: skip
    return line_points.size + line_sums.size  # freed now, not before


@jit(error_model="numpy")
def _image_points(tile, down, across, x, x_shape, before, patch, scratch, xs, to, step):
    """Bᵀ x B of the inputs that a tile sees: the 36 points go to xs[to], xs[to + step], ..."""
    image, i, j = _place(tile, down, across)
    top, left = i - before[0], j - before[1]
    source, at, row, column = _window(x, x_shape, image, top, left, 6 * ONE, patch)
    _fetch(x, x_shape, image, top + 6, left + 2, False)  # what the tile below sees besides
    for first in range(0, x_shape[3], COLUMNS):
        _both(
            IMAGE, source, at + first, row, column, scratch, xs, to + first,
            6 * step, step,
        )  # fmt: skip


@jit(error_model="numpy")
def _fetch(x, shape, image, top, left, writes):
    """Ask for 4x4 pixels that are needed soon: they come while something else is computed."""
    _, h, w, c = shape
    for row in range(4):
        start = ((image * h + top + row) * w + left) * c
        for at in range(start, start + 4 * c, COLUMNS):
            if writes:
                simd.prefetch_to_write(x, at)
            else:
                simd.prefetch(x, at)


@jit(error_model="numpy")
def _widths(channels, tiles):
    """Numbers from tile to tile, whole lines, and from point to point, of a block's transforms."""
    wide = (channels + COLUMNS - 1) // COLUMNS * COLUMNS
    return wide, tiles * wide + PAD


@jit(error_model="numpy")
def _place(tile, down, across):
    """The image, and the first row and column of output, of a tile."""
    image, inside = tile // (down * across), tile % (down * across)
    return image, inside // across * 4, inside % across * 4


@jit(error_model="numpy")
def _window(x, shape, image, top, left, size, patch):
    """Where size x size pixels are, and the steps of rows and columns: in x, if all of them exist
    and a pixel is whole lines; else in `patch`, with zeros around."""
    _, h, w, c = shape
    inside = top >= 0 and left >= 0 and top + size <= h and left + size <= w
    if inside and c % COLUMNS == 0:
        return x, ((image * h + top) * w + left) * c, w * c, c
    wide = (c + COLUMNS - 1) // COLUMNS * COLUMNS
    for i in range(size):
        for j in range(size):
            to = simd.address(patch, (i * size + j) * wide)
            if 0 <= top + i < h and 0 <= left + j < w:
                copy(to, simd.address(x, ((image * h + top + i) * w + left + j) * c), c)
            else:
                clear(to, c)
    return patch, 0, size * wide, wide


@jit(error_model="numpy")
def _both(transform, x, at, row, column, scratch, y, to, to_row, to_column):
    """A transform of columns, then of rows, of 16 channels: (size, size) to (result, result)."""
    which, size, result = transform
    for j in range(size):
        _transform(which, x, at + j * column, row, scratch, j * COLUMNS, size * COLUMNS)
    for i in range(result):
        _transform(
            which, scratch, i * size * COLUMNS, ONE * COLUMNS, y, to + i * to_row, to_column
        )  # fmt: skip


@jit(error_model="numpy")
def _transform(which, x, at, step, y, to, to_step):
    if which == IMAGE[0]:
        _evaluate_image(x, at, step, y, to, to_step)
    elif which == KERNEL[0]:
        _evaluate_kernel(x, at, step, y, to, to_step)
    elif which == GRADIENT[0]:
        _evaluate_result(x, at, step, y, to, to_step)
    else:
        _interpolate_kernel(x, at, step, y, to, to_step)


@jit(error_model="numpy")
def _evaluate_image(x, at, step, y, to, to_step):
    """Bᵀ: 6 inputs to 6 points, such that with _evaluate_kernel and _interpolate the sum results"""
    a, b, c = simd.load(x, at), simd.load(x, at + step), simd.load(x, at + 2 * step)
    d, e, f = (
        simd.load(x, at + 3 * step), simd.load(x, at + 4 * step), simd.load(x, at + 5 * step)
    )  # fmt: skip
    four, minus_five = simd.splat(np.float32(4)), simd.splat(np.float32(-5))
    even, odd = e - four * c, d - four * b
    even_2, odd_2 = e - c, d - b
    odd_2 = odd_2 + odd_2
    simd.store(y, to, simd.fma(four, a, simd.fma(minus_five, c, e)))
    simd.store(y, to + to_step, even + odd)
    simd.store(y, to + 2 * to_step, even - odd)
    simd.store(y, to + 3 * to_step, even_2 + odd_2)
    simd.store(y, to + 4 * to_step, even_2 - odd_2)
    simd.store(y, to + 5 * to_step, simd.fma(four, b, simd.fma(minus_five, d, f)))


@jit(error_model="numpy")
def _evaluate_kernel(x, at, step, y, to, to_step):
    """G: 3 weights to 6 points."""
    a, b, c = simd.load(x, at), simd.load(x, at + step), simd.load(x, at + 2 * step)
    sixth, minus_sixth = simd.splat(np.float32(1 / 6)), simd.splat(np.float32(-1 / 6))
    even, odd = minus_sixth * (a + c), minus_sixth * b
    even_2 = simd.fma(simd.splat(np.float32(1 / 24)), a, sixth * c)
    odd_2 = simd.splat(np.float32(1 / 12)) * b
    simd.store(y, to, simd.splat(np.float32(1 / 4)) * a)
    simd.store(y, to + to_step, even + odd)
    simd.store(y, to + 2 * to_step, even - odd)
    simd.store(y, to + 3 * to_step, even_2 + odd_2)
    simd.store(y, to + 4 * to_step, even_2 - odd_2)
    simd.store(y, to + 5 * to_step, c)


@jit(error_model="numpy")
def _result(ys, at, step, scratch, bias, lowest, y, to, to_row, to_column):
    """max(Aᵀ · A + bias, lowest) of 16 channels: their 36 points, `step` apart, to 4x4 outputs."""
    for j in range(6):
        lines = _interpolate(ys, at + j * step, 6 * step)
        for i, line in enumerate(lines):
            simd.store(scratch, (6 * i + j) * COLUMNS, line)
    for i in range(4):
        lines = _interpolate(scratch, 6 * i * COLUMNS, COLUMNS)
        for j, line in enumerate(lines):
            line = line + bias
            line = simd.where(lowest > line, lowest, line)
            simd.store(y, to + i * to_row + j * to_column, line)


@jit(error_model="numpy")
def _interpolate(x, at, step):
    """Aᵀ: 6 points to 4 outputs."""
    b, c = simd.load(x, at + step), simd.load(x, at + 2 * step)
    d, e = simd.load(x, at + 3 * step), simd.load(x, at + 4 * step)
    even, odd, even_2, odd_2 = b + c, b - c, d + e, d - e
    last = simd.load(x, at + 5 * step) + odd
    return (
        simd.load(x, at) + (even + even_2),
        simd.fma(simd.splat(np.float32(2)), odd_2, odd),
        simd.fma(simd.splat(np.float32(4)), even_2, even),
        simd.fma(simd.splat(np.float32(8)), odd_2, last),
    )


@jit(error_model="numpy")
def _evaluate_result(x, at, step, y, to, to_step):
    """A, the transpose of _interpolate: 4 gradients to 6 points."""
    a, b = simd.load(x, at), simd.load(x, at + step)
    c, d = simd.load(x, at + 2 * step), simd.load(x, at + 3 * step)
    four = simd.splat(np.float32(4))
    even, odd, even_2, odd_2 = a + c, b + d, simd.fma(four, c, a), simd.fma(four, d, b)
    odd_2 = odd_2 + odd_2
    simd.store(y, to, a)
    simd.store(y, to + to_step, even + odd)
    simd.store(y, to + 2 * to_step, even - odd)
    simd.store(y, to + 3 * to_step, even_2 + odd_2)
    simd.store(y, to + 4 * to_step, even_2 - odd_2)
    simd.store(y, to + 5 * to_step, d)


@jit(error_model="numpy")
def _interpolate_kernel(x, at, step, y, to, to_step):
    """Gᵀ, the transpose of _evaluate_kernel: 6 points to 3 weights."""
    b, c = simd.load(x, at + step), simd.load(x, at + 2 * step)
    d, e = simd.load(x, at + 3 * step), simd.load(x, at + 4 * step)
    even, odd, even_2, odd_2 = b + c, b - c, d + e, d - e
    sixth, minus_sixth = simd.splat(np.float32(1 / 6)), simd.splat(np.float32(-1 / 6))
    first = simd.fma(simd.splat(np.float32(1 / 4)), simd.load(x, at), minus_sixth * even)
    simd.store(y, to, simd.fma(simd.splat(np.float32(1 / 24)), even_2, first))
    simd.store(
        y, to + to_step, simd.fma(simd.splat(np.float32(1 / 12)), odd_2, minus_sixth * odd)
    )
    last = simd.load(x, at + 5 * step) + sixth * (even_2 - even)
    simd.store(y, to + 2 * to_step, last)


@winograd.needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    if stride != (1, 1) or dilation != (1, 1):
        return "stride 1 and dilation 1 only"
    return _refusal(g, x, g.shape, w_shape, w_shape[2:], groups, 1)


@conv2d_input_grad.rungs["winograd"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    if stride != (1, 1) or dilation != (1, 1):
        return "stride 1 and dilation 1 only"
    return _refusal(g, w, x_shape, w.shape, w.shape[:1:-1], groups)


@conv2d.rungs["winograd"].needs
def _(x, w, stride, padding, dilation, groups):
    if stride != (1, 1) or dilation != (1, 1):
        return "stride 1 and dilation 1 only"
    y_shape = output_shape(x.shape, w.shape, stride, padding, dilation, groups)
    return _refusal(x, w, y_shape, w.shape, w.shape[2:], groups)


def _refusal(one, two, y_shape, w_shape, channels, groups, more=None):
    """True, or why another rung does better. channels: of what is transformed, and of the result;
    more: so many times the tiles are needed for the transforms to pay.

    The limits are where `direct` was measured to be as fast: with AVX-512, which does less for the
    kernel's transform, at half as many tiles again.
    """
    more = more or (1.5 if lanes() == 16 else 1)
    if groups != 1:
        return "one group only"
    if w_shape[:2] != (3, 3):
        return "3x3 kernels only"
    if channels[0] < 12 or channels[1] < 8:
        return f"{channels[0]} to {channels[1]} channels: the transforms cost more than they save"
    n, oh, ow, _ = y_shape
    tiles, enough = n * -(-oh // 4) * -(-ow // 4), int(more * max(16, prod(channels) // 4096))
    if tiles < enough:
        return f"{tiles} tiles of 4x4 pixels, fewer than {enough}: the kernel's own costs more"
    return refusal(one, two, y_shape, w_shape, channels[1], groups)
