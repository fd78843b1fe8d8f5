"""Pooling in CUDA C: one pass over global memory, four channels a thread (pool2d.cu)."""

from kernels import cuda
from kernels.ladder import rung
from kernels.pool2d import (
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_pick,
    output_shape,
)

THREADS = 128
ENOUGH_THREADS = 2**18  # to keep a large GPU busy
_cu = {width: cuda.module(__file__, "pool2d.cu", f"WIDTH {width}") for width in (1, 4)}


@rung(max_pool2d, device="cuda", why="one kernel: every pixel is read once from memory")
def cuda_raw(x, size, stride, padding):
    y = cuda.empty(output_shape(x.shape, size, stride, padding), like=x)
    _launch("max_pool2d", (x, y), x.shape, y.shape, size, stride, padding)
    return y


@rung(max_pool2d_grad, device="cuda", why="a thread a window, or gathers if those overlap")
def cuda_raw(g, x, size, stride, padding):  # noqa: F811
    dx, geometry = cuda.empty(x.shape, like=x), (x.shape, g.shape, size, stride, padding)
    if _apart(size, stride):
        _launch("max_pool2d_grad_apart", (g, x, dx), *geometry)
    else:
        places = cuda.empty(g.shape, like=x, dtype="uint16")
        _launch("max_pool2d_places", (x, places), *geometry)
        _launch("max_pool2d_grad", (g, places, dx), *geometry)
    return dx


@rung(max_pool2d_pick, device="cuda", why="one kernel, which finds the winners again")
def cuda_raw(u, x, size, stride, padding):  # noqa: F811
    y = cuda.empty(output_shape(x.shape, size, stride, padding), like=x)
    _launch("max_pool2d_pick", (u, x, y), x.shape, y.shape, size, stride, padding)
    return y


@rung(avg_pool2d, device="cuda", why="one kernel: every pixel is read once from memory")
def cuda_raw(x, size, stride, padding):  # noqa: F811
    y = cuda.empty(output_shape(x.shape, size, stride, padding), like=x)
    _launch("avg_pool2d", (x, y), x.shape, y.shape, size, stride, padding)
    return y


@rung(avg_pool2d_grad, device="cuda", why="a thread a window, or gathers if those overlap")
def cuda_raw(g, x_shape, size, stride, padding):  # noqa: F811
    dx = cuda.empty(x_shape, like=g)
    name = "avg_pool2d_grad_apart" if _apart(size, stride) else "avg_pool2d_grad"
    _launch(name, (g, dx), x_shape, g.shape, size, stride, padding)
    return dx


@max_pool2d.rungs["cuda_raw"].needs
def _(x, size, stride, padding):
    return cuda.usable(x)


@max_pool2d_grad.rungs["cuda_raw"].needs
def _(g, x, size, stride, padding):
    if not _apart(size, stride) and (size[0] - 1) * x.shape[2] + size[1] > 2**16:
        return "places in windows that overlap are 16 bits"
    return cuda.usable(g, x)


@max_pool2d_pick.rungs["cuda_raw"].needs
def _(u, x, size, stride, padding):
    return cuda.usable(u, x)


@avg_pool2d.rungs["cuda_raw"].needs
def _(x, size, stride, padding):
    return cuda.usable(x)


@avg_pool2d_grad.rungs["cuda_raw"].needs
def _(g, x_shape, size, stride, padding):
    return cuda.usable(g)


def _apart(size, stride):
    return size[0] <= stride[0] and size[1] <= stride[1]


def _launch(name, arrays, x_shape, y_shape, size, stride, padding):
    """A thread for one or four numbers of the last array, or where windows lie apart, for a window.
    """
    n, h, w, c = x_shape
    _, oh, ow, _ = y_shape
    (top, _), (left, _) = padding
    width = cuda.width(c, *arrays)
    c //= width
    geometry = h, w, c, oh, ow, *size, *stride, top, left
    if name.endswith("_apart"):
        down, across = cuda.blocks(h + top, stride[0]), cuda.blocks(w + left, stride[1])
        geometry += down, across
    else:
        down, across = arrays[-1].shape[1:3]
    rows, columns = n * down, across * c
    wide = min(THREADS, 32 * cuda.blocks(max(columns, 1), 32))  # whole warps
    high = THREADS // wide
    each = max(1, min(8, rows * columns // ENOUGH_THREADS))  # rows of a thread, in one column
    grid = cuda.blocks(columns, wide), min(cuda.blocks(rows, high * each), 65535)
    _cu[width][name](grid, (wide, high), *arrays, rows, *geometry)
