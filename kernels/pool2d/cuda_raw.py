"""Pooling in CUDA C: one pass over global memory, four channels a thread (pool2d.cu)."""

from kernels import cuda
from kernels.backend import is_array
from kernels.ladder import rung
from kernels.pool2d import (
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_pick,
    output_shape,
    winner_type,
)

THREADS = 128
WIDE = "more than 256 pixels in a window: their numbers do not fit into 8 bits"
ENOUGH_THREADS = 2**18  # to keep a large GPU busy
_cu = {width: cuda.module(__file__, "pool2d.cu", f"WIDTH {width}") for width in (1, 4)}


@rung(max_pool2d, device="cuda", why="one kernel: every pixel is read once from memory")
def cuda_raw(x, size, stride, padding, keep):
    shape = output_shape(x.shape, size, stride, padding)
    y = cuda.empty(shape, like=x)
    winners = cuda.empty(shape if keep else (0,), like=x, dtype="uint8")
    arrays = (x, y, winners, keep)
    _launch("max_pool2d", arrays, x.shape, shape, size, stride, padding, shape)
    return (y, winners) if keep else y


@rung(max_pool2d_grad, device="cuda", why="a thread a window, or gathers if those overlap")
def cuda_raw(g, winners, x_shape, size, stride, padding):  # noqa: F811
    dx = cuda.empty(x_shape, like=g)
    name = "max_pool2d_grad_apart" if _apart(size, stride) else "max_pool2d_grad"
    _launch(name, (g, winners, dx), x_shape, g.shape, size, stride, padding, x_shape)
    return dx


@rung(max_pool2d_pick, device="cuda", why="reads a number for each window, not each pixel")
def cuda_raw(u, winners, size, stride, padding):  # noqa: F811
    y = cuda.empty(winners.shape, like=u)
    _launch("max_pool2d_pick", (u, winners, y), u.shape, y.shape, size, stride, padding, y.shape)
    return y


@rung(avg_pool2d, device="cuda", why="one kernel: every pixel is read once from memory")
def cuda_raw(x, size, stride, padding):  # noqa: F811
    y = cuda.empty(output_shape(x.shape, size, stride, padding), like=x)
    _launch("avg_pool2d", (x, y), x.shape, y.shape, size, stride, padding, y.shape)
    return y


@rung(avg_pool2d_grad, device="cuda", why="a thread a window, or gathers if those overlap")
def cuda_raw(g, x_shape, size, stride, padding):  # noqa: F811
    dx = cuda.empty(x_shape, like=g)
    name = "avg_pool2d_grad_apart" if _apart(size, stride) else "avg_pool2d_grad"
    _launch(name, (g, dx), x_shape, g.shape, size, stride, padding, x_shape)
    return dx


@max_pool2d.rungs["cuda_raw"].needs
def _(x, size, stride, padding, keep):
    return cuda.usable(x) if winner_type(size) == "uint8" or not keep else WIDE


@max_pool2d_grad.rungs["cuda_raw"].needs
def _(g, winners, x_shape, size, stride, padding):
    return cuda.usable(g) if winners.dtype == "uint8" else WIDE


@max_pool2d_pick.rungs["cuda_raw"].needs
def _(u, winners, size, stride, padding):
    return cuda.usable(u) if winners.dtype == "uint8" else WIDE


@avg_pool2d.rungs["cuda_raw"].needs
def _(x, size, stride, padding):
    return cuda.usable(x)


@avg_pool2d_grad.rungs["cuda_raw"].needs
def _(g, x_shape, size, stride, padding):
    return cuda.usable(g)


def _apart(size, stride):
    return size[0] <= stride[0] and size[1] <= stride[1]


def _launch(name, arguments, x_shape, y_shape, size, stride, padding, over):
    """A thread for one or four numbers of an array of shape `over`, or where windows lie apart, for
    a window."""
    n, h, w, c = x_shape
    _, oh, ow, _ = y_shape
    (top, _), (left, _) = padding
    width = cuda.width(c, *(a for a in arguments if is_array(a)))
    c //= width
    geometry = h, w, c, oh, ow, *size, *stride, top, left
    down, across = over[1:3]
    if name.endswith("_apart"):
        down, across = cuda.blocks(h + top, stride[0]), cuda.blocks(w + left, stride[1])
        geometry += down, across
    rows, columns = n * down, across * c
    wide = min(THREADS, 32 * cuda.blocks(max(columns, 1), 32))  # whole warps
    high = THREADS // wide
    each = max(1, min(8, rows * columns // ENOUGH_THREADS))  # rows of a thread, in one column
    grid = cuda.blocks(columns, wide), min(cuda.blocks(rows, high * each), 65535)
    _cu[width][name](grid, (wide, high), *arguments, rows, *geometry)
