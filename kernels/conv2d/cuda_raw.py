"""Convolution in CUDA C: implicit GEMM through shared memory, no atomics (conv2d.cu).

Every contraction is a matrix product whose unfolded matrix exists only tile by tile, in shared
memory. Where groups have few channels, a thread makes each number by itself instead. With a stride,
the input gradient multiplies with the zeros between the pixels of g as well: the time is that of
stride 1.
"""

from kernels import cuda
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.ladder import rung
from kernels.window import window

TILE_M, TILE_N, TILE_K, THREADS = 128, 64, 16, 256  # as in conv2d.cu
WORKSPACE_BYTES = 32 * 2**20
ENOUGH_BLOCKS = 1024  # to keep a large GPU busy
_cu = cuda.module(__file__, "conv2d.cu")


@rung(conv2d, device="cuda", why="patches are unfolded in shared memory only, 8 x 4 sums a thread")
def cuda_raw(x, w, stride, padding, dilation, groups):
    return output(_cu, x, w, stride, padding, dilation, groups)


@rung(conv2d_input_grad, device="cuda", why="gathers: nothing is added up in memory")
def cuda_raw(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    return input_grad(_cu, g, w, x_shape, stride, padding, dilation, groups)


@rung(conv2d_weight_grad, device="cuda", why="many blocks share the long sum over the pixels")
def cuda_raw(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    return weight_grad(_cu, g, x, w_shape, stride, padding, dilation, groups)


def output(cu, x, w, stride, padding, dilation, groups):
    """conv2d by the kernels of the module `cu`, conv2d.cu with or without its macro."""
    y = cuda.empty(output_shape(x.shape, w.shape, stride, padding, dilation, groups), like=x)
    geometry = _geometry(x.shape, w.shape, y.shape, stride, dilation, padding)
    if is_narrow(w.shape, groups):
        grid = cuda.blocks(y.size, THREADS)
        cu["conv2d_narrow"](grid, THREADS, x, w, y, y.size, *geometry, groups)
    else:
        pixels = _pixels(y.shape)
        grid = _tiles(pixels, w.shape[3], groups)
        name = "conv2d" + suffix(w.shape, groups)
        cu[name](grid, THREADS, x, w, y, pixels, *geometry, groups)
    return y


def input_grad(cu, g, w, x_shape, stride, padding, dilation, groups):
    dx = cuda.empty(x_shape, like=g)
    geometry = _geometry(x_shape, w.shape, g.shape, stride, dilation, padding)
    if is_narrow(w.shape, groups):
        grid = cuda.blocks(dx.size, THREADS)
        cu["conv2d_narrow_input_grad"](grid, THREADS, g, w, dx, dx.size, *geometry, groups)
    else:
        pixels = _pixels(x_shape)
        grid = _tiles(pixels, x_shape[3], groups)
        name = "conv2d_input_grad" + suffix(w.shape, groups)
        cu[name](grid, THREADS, g, w, dx, pixels, *geometry, groups)
    return dx


def weight_grad(cu, g, x, w_shape, stride, padding, dilation, groups):
    dw = cuda.empty(w_shape, like=g)
    geometry = _geometry(x.shape, w_shape, g.shape, stride, dilation, padding)
    kh, kw, channels, outputs = w_shape
    pixels, narrow = _pixels(g.shape), is_narrow(w_shape, groups)
    grid = cuda.blocks(dw.size, THREADS), 1, 1
    if not narrow:
        grid = _tiles(kh * kw * channels, outputs, groups)
    parts, chunk = _split(pixels, dw.nbytes, grid)
    partial = dw if parts == 1 else cuda.empty((parts, *w_shape), like=g)
    if narrow:
        cu["conv2d_narrow_weight_grad"](
            (grid[0], parts), THREADS, g, x, partial, pixels, chunk, dw.size, *geometry, groups
        )
    else:
        name = "conv2d_weight_grad" + suffix(w_shape, groups)
        grid = (*grid[:2], groups * parts)
        cu[name](grid, THREADS, g, x, partial, pixels, chunk, *geometry, groups)
    if parts > 1:
        cu["add_up"](cuda.blocks(dw.size, THREADS), THREADS, partial, dw, parts, dw.size)
    return dw


@conv2d.rungs["cuda_raw"].needs
def _(x, w, stride, padding, dilation, groups):
    return usable(w.shape, groups, x, w)


@conv2d_input_grad.rungs["cuda_raw"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    return usable(w.shape, groups, g, w)


@conv2d_weight_grad.rungs["cuda_raw"].needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    return usable(w_shape, groups, g, x)


def unfold(x, kernel, stride=1, padding=0, dilation=1):
    """The patches under a window: x (N, H, W, C) -> (N, OH, OW, KH, KW, C), as `im2col.unfold`."""
    stride, padding, dilation, (oh, ow) = window(x.shape[1:3], kernel, stride, padding, dilation)
    columns = cuda.empty((x.shape[0], oh, ow, *kernel, x.shape[3]), like=x)
    numbers = _unfolding(x.shape, columns.shape, stride, dilation, padding)
    _cu["im2col"](cuda.blocks(columns.size, THREADS), THREADS, x, columns, columns.size, *numbers)
    return columns


def fold(columns, x_shape, stride=1, padding=0, dilation=1):
    """Add patches (N, OH, OW, KH, KW, C) up where they came from: the adjoint of `unfold`."""
    kernel = columns.shape[3:5]
    stride, padding, dilation, _ = window(x_shape[1:3], kernel, stride, padding, dilation)
    x = cuda.empty(x_shape, like=columns)
    numbers = _unfolding(x_shape, columns.shape, stride, dilation, padding)
    _cu["col2im"](cuda.blocks(x.size, THREADS), THREADS, columns, x, x.size, *numbers)
    return x


def usable(w_shape, groups, *arrays):
    if 0 in w_shape:
        return "one channel at least: there is no sum of nothing here"
    if groups > 65535:
        return "65535 groups at most: a grid's third axis"
    return cuda.usable(*arrays)


def _pixels(shape):
    return shape[0] * shape[1] * shape[2]


def is_narrow(w_shape, groups):
    """Whether a group's channels are too few to fill a tile: depthwise, above all."""
    return groups > 1 and min(w_shape[2], w_shape[3] // groups) < 8


def _tiles(rows, columns, groups):
    """The grid of tiles of C = A·B; columns: of all groups together."""
    return cuda.blocks(rows, TILE_M), cuda.blocks(columns // groups, TILE_N), groups


def _split(pixels, result_bytes, grid):
    """Into how many parts the weight gradient's sum is cut, and of how many pixels each.

    As many as give ENOUGH_BLOCKS, of 64 steps at least, within WORKSPACE_BYTES. The shapes alone
    decide, not the GPU, so that results are the same everywhere.
    """
    wanted = cuda.blocks(ENOUGH_BLOCKS, max(1, grid[0] * grid[1] * grid[2]))
    most = min(WORKSPACE_BYTES // max(1, result_bytes), 65535 // grid[2], pixels // (64 * TILE_K))
    parts = max(1, min(wanted, most))
    chunk = TILE_K * max(1, cuda.blocks(pixels, parts * TILE_K))
    return max(1, cuda.blocks(pixels, chunk)), chunk


def suffix(w_shape, groups):
    """Of the kernel's name: "_aligned", where a group's channels come four at a time."""
    return "" if w_shape[2] % 4 or w_shape[3] // groups % 4 else "_aligned"


def _geometry(x_shape, w_shape, y_shape, stride, dilation, padding):
    (top, _), (left, _) = padding
    kh, kw, _, o = w_shape
    return *x_shape[1:], kh, kw, o, *y_shape[1:3], *stride, *dilation, top, left


def _unfolding(x_shape, columns_shape, stride, dilation, padding):
    (top, _), (left, _) = padding
    _, oh, ow, kh, kw, _ = columns_shape
    return *x_shape[1:], kh, kw, oh, ow, *stride, *dilation, top, left
