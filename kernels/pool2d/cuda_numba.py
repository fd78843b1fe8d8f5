"""One thread per number, in Python for the GPU.

Neighbouring threads take neighbouring channels, so that each warp reads whole lines of memory.
Gradients gather: a thread owns a pixel of the image and asks every window over it, in a fixed order
and without atomics.
"""

from kernels.backend import array_module
from kernels.cuda.numba_cuda import cuda, device, kernel, usable
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

THREADS = 256


@device
def _place(item, shape):
    """Item number -> (n, i, j, c)."""
    c, item = item % shape[3], item // shape[3]
    return item // shape[2] // shape[1], item // shape[2] % shape[1], item % shape[2], c


@device
def _winner(x, place, window):
    """(row, column) of the largest pixel under the window at place (n, i, j, c)."""
    n, i, j, c = place
    (kh, kw), (sh, sw), (top, left) = window
    first_row, first_column = max(i * sh - top, 0), max(j * sw - left, 0)
    best_row, best_column = first_row, first_column
    best = x[n, first_row, first_column, c]
    for row in range(first_row, min(i * sh - top + kh, x.shape[1])):
        for column in range(first_column, min(j * sw - left + kw, x.shape[2])):
            value = x[n, row, column, c]
            if best == best and not value <= best:  # a NaN beats all, and nothing beats it
                best, best_row, best_column = value, row, column
    return best_row, best_column


@device
def _pixels(i, j, x_shape, window):
    """How many pixels, not padding, lie under the window at (i, j)."""
    (kh, kw), (sh, sw), (top, left) = window
    rows = min(i * sh - top + kh, x_shape[1]) - max(i * sh - top, 0)
    return rows * (min(j * sw - left + kw, x_shape[2]) - max(j * sw - left, 0))


@device
def _first_window(row, before, length, stride):
    """The first window whose `length` pixels reach the row."""
    return max(0, (row + before - length + stride) // stride)


@device
def _number(row, column, i, j, window):
    """Which pixel of window (i, j) that is, counted row by row."""
    (_, kw), (sh, sw), (top, left) = window
    return (row - i * sh + top) * kw + column - j * sw + left


@kernel
def _max(x, y, window):
    item = cuda.grid(1)
    if item < y.size:
        place = _place(item, y.shape)
        row, column = _winner(x, place, window)
        y[place] = x[place[0], row, column, place[3]]


@kernel
def _max_and_winners(x, y, winners, window):
    item = cuda.grid(1)
    if item < y.size:
        n, i, j, c = _place(item, y.shape)
        row, column = _winner(x, (n, i, j, c), window)
        y[n, i, j, c] = x[n, row, column, c]
        winners[n, i, j, c] = _number(row, column, i, j, window)


@kernel
def _pick(u, winners, y, window):
    item = cuda.grid(1)
    if item < y.size:
        n, i, j, c = _place(item, y.shape)
        (_, kw), (sh, sw), (top, left) = window
        winner = int(winners[n, i, j, c])
        row, column = i * sh - top + winner // kw, j * sw - left + winner % kw
        if 0 <= row < u.shape[1] and 0 <= column < u.shape[2]:  # no winner of ours lies outside
            y[n, i, j, c] = u[n, row, column, c]
        else:
            y[n, i, j, c] = 0


@kernel
def _max_grad(g, winners, dx, window):
    item = cuda.grid(1)
    if item < dx.size:
        n, row, column, c = _place(item, dx.shape)
        (kh, kw), (sh, sw), (top, left) = window
        total = dx.dtype.type(0)
        for i in range(_first_window(row, top, kh, sh), min((row + top) // sh + 1, g.shape[1])):
            for j in range(
                _first_window(column, left, kw, sw), min((column + left) // sw + 1, g.shape[2])
            ):
                if winners[n, i, j, c] == _number(row, column, i, j, window):
                    total += g[n, i, j, c]
        dx[n, row, column, c] = total


@kernel
def _mean(x, y, window):
    item = cuda.grid(1)
    if item < y.size:
        n, i, j, c = _place(item, y.shape)
        (kh, kw), (sh, sw), (top, left) = window
        total = y.dtype.type(0)
        for row in range(max(i * sh - top, 0), min(i * sh - top + kh, x.shape[1])):
            for column in range(max(j * sw - left, 0), min(j * sw - left + kw, x.shape[2])):
                total += x[n, row, column, c]
        y[n, i, j, c] = total / y.dtype.type(_pixels(i, j, x.shape, window))


@kernel
def _mean_grad(g, dx, window):
    item = cuda.grid(1)
    if item < dx.size:
        n, row, column, c = _place(item, dx.shape)
        (kh, kw), (sh, sw), (top, left) = window
        total = dx.dtype.type(0)
        for i in range(_first_window(row, top, kh, sh), min((row + top) // sh + 1, g.shape[1])):
            for j in range(
                _first_window(column, left, kw, sw), min((column + left) // sw + 1, g.shape[2])
            ):
                total += g[n, i, j, c] / dx.dtype.type(_pixels(i, j, dx.shape, window))
        dx[n, row, column, c] = total


@rung(max_pool2d, device="cuda", why="reads the image once, not once per slice of the window")
def cuda_numba(x, size, stride, padding, keep):
    xp = array_module(x)
    x, window = xp.ascontiguousarray(x), _window(size, stride, padding)
    y = xp.empty(output_shape(x.shape, size, stride, padding), x.dtype)
    if not keep:
        _launch(_max, y, x, y, window)
        return y
    winners = xp.empty(y.shape, winner_type(size))
    _launch(_max_and_winners, y, x, y, winners, window)
    return y, winners


@rung(max_pool2d_pick, device="cuda", why="reads a number for each window, not each pixel")
def cuda_numba(u, winners, size, stride, padding):  # noqa: F811
    xp = array_module(u, winners)
    u, winners = xp.ascontiguousarray(u), xp.ascontiguousarray(winners)
    y = xp.empty(winners.shape, u.dtype)
    _launch(_pick, y, u, winners, y, _window(size, stride, padding))
    return y


@rung(max_pool2d_grad, device="cuda", why="every pixel gathers from the windows it won")
def cuda_numba(g, winners, x_shape, size, stride, padding):  # noqa: F811
    xp = array_module(g, winners)
    g, winners = xp.ascontiguousarray(g), xp.ascontiguousarray(winners)
    dx = xp.empty(x_shape, g.dtype)
    _launch(_max_grad, dx, g, winners, dx, _window(size, stride, padding))
    return dx


@rung(avg_pool2d, device="cuda", why="reads the image once, not once per slice of the window")
def cuda_numba(x, size, stride, padding):  # noqa: F811
    xp = array_module(x)
    x = xp.ascontiguousarray(x)
    y = xp.empty(output_shape(x.shape, size, stride, padding), x.dtype)
    _launch(_mean, y, x, y, _window(size, stride, padding))
    return y


@rung(avg_pool2d_grad, device="cuda", why="every pixel gathers from the windows over it")
def cuda_numba(g, x_shape, size, stride, padding):  # noqa: F811
    xp = array_module(g)
    g = xp.ascontiguousarray(g)
    dx = xp.empty(x_shape, g.dtype)
    _launch(_mean_grad, dx, g, dx, _window(size, stride, padding))
    return dx


for op in (max_pool2d, max_pool2d_pick, max_pool2d_grad, avg_pool2d, avg_pool2d_grad):
    op.rungs["cuda_numba"].needs(lambda x, *_: usable(x))


def _window(size, stride, padding):
    return size, stride, (padding[0][0], padding[1][0])


def _launch(function, numbers, *args):
    """One thread for each of `numbers`."""
    function(-(-numbers.size // THREADS), THREADS, *args)
