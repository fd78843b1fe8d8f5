"""Pooling in CUDA C: one pass over global memory, gradients that gather (pool2d.cu)."""

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
_cu = cuda.module(__file__, "pool2d.cu")


@rung(max_pool2d, device="cuda", why="one kernel: every pixel is read once from memory")
def cuda_raw(x, size, stride, padding):
    y = cuda.empty(output_shape(x.shape, size, stride, padding), like=x)
    _launch("max_pool2d", (x, y), x.shape, y.shape, size, stride, padding)
    return y


@rung(max_pool2d_grad, device="cuda", why="one kernel, which finds the winners again and gathers")
def cuda_raw(g, x, size, stride, padding):  # noqa: F811
    dx = cuda.empty(x.shape, like=x)
    _launch("max_pool2d_grad", (g, x, dx), x.shape, g.shape, size, stride, padding)
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


@rung(avg_pool2d_grad, device="cuda", why="one kernel, which gathers")
def cuda_raw(g, x_shape, size, stride, padding):  # noqa: F811
    dx = cuda.empty(x_shape, like=g)
    _launch("avg_pool2d_grad", (g, dx), x_shape, g.shape, size, stride, padding)
    return dx


@max_pool2d.rungs["cuda_raw"].needs
def _(x, size, stride, padding):
    return cuda.usable(x)


@max_pool2d_grad.rungs["cuda_raw"].needs
def _(g, x, size, stride, padding):
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


def _launch(name, arrays, x_shape, y_shape, size, stride, padding):
    """A thread for every number of the last array."""
    n, h, w, c = x_shape
    _, oh, ow, _ = y_shape
    images, height, width, _ = arrays[-1].shape
    rows, columns = images * height, width * c
    across = min(THREADS, 32 * cuda.blocks(max(columns, 1), 32))  # whole warps
    down = THREADS // across
    grid = cuda.blocks(columns, across), min(cuda.blocks(rows, down), 65535)
    (top, _), (left, _) = padding
    geometry = h, w, c, oh, ow, *size, *stride, top, left
    _cu[name](grid, (across, down), *arrays, rows, *geometry)
