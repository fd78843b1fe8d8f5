"""Pooling, compiled: one pass over the windows, a cache line of channels at a time.

The running maximum (or sum) of a window, and the number of the pixel that won, stay in registers
(`kernels.simd`). Results are those of the formula to the bit (the mean: to rounding).

All is bound by the memory. The processor foresees what comes next in a line of an image, but not in the
two lines of a window at once: so a window asks for the one below it, long before. Of 8x222x222x32, 2x2
windows, the maximum reads 50 MB and writes 13 in 1.6 ms on one thread (40 GB/s; 2.2 without asking). Its
gradient reads g and the winners and writes all pixels, 66 MB in 1.4 to 1.9 ms; when it looked for the
winners in x again it moved 113 MB in 4.4 ms.
"""

from kernels import memory
from kernels.jit import jit, plain, prange, simd, usable
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

PAST = 2**21  # numbers that no cache keeps until they are read: a result is written past the caches
BELOW = 2**15  # numbers: not further off than that, a window asks the memory for the one below it,
AHEAD = 1024  # else for what is so many further on in its own rows
ADD, STORE, STREAM = 0, 1, 2  # how gradients get to the pixels: to what is there; alone; past caches


@rung(max_pool2d, device="cpu", why="one pass, the maximum stays in a register")
def compiled(x, size, stride, padding, keep):
    shape = output_shape(x.shape, size, stride, padding)
    y = memory.empty(shape, x.dtype)
    winners = memory.empty(shape, winner_type(size)) if keep else None  # two functions for Numba
    flat = plain(x).reshape(-1), shape, y.reshape(-1), winners.reshape(-1) if keep else None
    _max(x.shape, *flat, *_numbers(size, stride, padding))
    return (y, winners) if keep else y


@rung(max_pool2d_grad, device="cpu", why="one pass over the windows, each pixel is written once")
def compiled(g, winners, x_shape, size, stride, padding):  # noqa: F811
    dx = memory.empty(x_shape, g.dtype)
    flat = plain(g).reshape(-1), plain(winners).reshape(-1), x_shape, dx.reshape(-1)
    _max_grad(g.shape, *flat, *_numbers(size, stride, padding))
    return dx


@rung(max_pool2d_pick, device="cpu", why="one pass over the windows")
def compiled(u, winners, size, stride, padding):  # noqa: F811
    y = memory.empty(winners.shape, u.dtype)
    flat = plain(u).reshape(-1), u.shape, plain(winners).reshape(-1), y.shape, y.reshape(-1)
    _max_pick(*flat, *_numbers(size, stride, padding))
    return y


@rung(avg_pool2d, device="cpu", why="one pass, the sum stays in a register")
def compiled(x, size, stride, padding):  # noqa: F811
    y = memory.empty(output_shape(x.shape, size, stride, padding), x.dtype)
    x = plain(x)
    _mean(x.shape, x.reshape(-1), y.shape, y.reshape(-1), *_numbers(size, stride, padding))
    return y


@rung(avg_pool2d_grad, device="cpu", why="one pass over the windows")
def compiled(g, x_shape, size, stride, padding):  # noqa: F811
    dx = memory.empty(x_shape, g.dtype)
    g = plain(g)
    _mean_grad(g.shape, g.reshape(-1), x_shape, dx.reshape(-1), *_numbers(size, stride, padding))
    return dx


@max_pool2d.rungs["compiled"].needs
def _(x, size, stride, padding, keep):
    return _countable(size, x) if keep else usable(x)


@max_pool2d_grad.rungs["compiled"].needs
def _(g, winners, x_shape, size, stride, padding):
    return _countable(size, g)


@max_pool2d_pick.rungs["compiled"].needs
def _(u, winners, size, stride, padding):
    return _countable(size, u)


def _countable(size, array):
    if array.dtype == "float32" and size[0] * size[1] > 2**24:
        return "a window of more than 2^24 pixels, whose numbers float32 cannot hold"
    return usable(array)


@avg_pool2d.rungs["compiled"].needs
def _(x, size, stride, padding):
    return usable(x)


@avg_pool2d_grad.rungs["compiled"].needs
def _(g, x_shape, size, stride, padding):
    return usable(g)


def _numbers(size, stride, padding):
    (top, _), (left, _) = padding
    return *size, *stride, top, left


@jit(parallel=True)
def _max(x_shape, x, y_shape, y, winners, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = y_shape
    _, h, w, _ = x_shape
    lanes = 64 // x.itemsize
    whole = channels // lanes * lanes
    past = whole == channels and y.size > PAST
    ahead = _ahead(x.size, kh, kw, s0, s1, w * channels)
    for task in prange(n * oh):
        image, i = task // oh * h, task % oh
        a = i * s0 - top
        for j in range(ow):
            b = j * s1 - left
            at = (task * ow + j) * channels
            for c in range(0, whole, lanes):
                best, winner = _largest(x, image, a, b, kh, kw, h, w, channels, c, None)
                later = ((image + a) * w + b) * channels + c + ahead
                for row in range(kh if ahead else 0):
                    for column in range(s1):
                        simd.prefetch(x, later + (row * w + column) * channels)
                if past:
                    simd.stream(y, at + c, best)
                else:
                    simd.store(y, at + c, best)
                if winners is not None:
                    simd.put_whole(winners, at + c, winner, None)
            if whole < channels:
                rest = channels - whole
                best, winner = _largest(x, image, a, b, kh, kw, h, w, channels, whole, rest)
                simd.store_some(y, at + whole, best, rest)
                if winners is not None:
                    simd.put_whole(winners, at + whole, winner, rest)
        if past:
            simd.fence()


@jit()
def _ahead(size, kh, kw, s0, s1, line):
    """How many numbers further on in an image of `size`, in lines of so many, a window asks the memory
    for; 0: it does not, for a cache has them, or most of a window was read just before."""
    if size <= PAST or s0 < kh or s1 < kw:
        return 0
    return s0 * line if s0 * line < BELOW else AHEAD


@jit(forceinline=True)
def _largest(x, image, a, b, kh, kw, h, w, channels, c, count):
    """Of the window whose first pixel is (a, b), a line of channels: the largest, and which they are.
    count of them, or all (None)."""
    a0, a1, b0, b1 = max(a, 0), min(a + kh, h), max(b, 0), min(b + kw, w)
    at = ((image + a0) * w + b0) * channels + c
    best = simd.get(x, at, count)
    zero, one, two, three = _numbers_of_four(x)
    if kh == 2 and kw == 2 and a1 - a0 == 2 and b1 - b0 == 2:  # the commonest window needs no loops
        low_at = at + w * channels
        right, low = simd.get(x, at + channels, count), simd.get(x, low_at, count)
        low_right = simd.get(x, low_at + channels, count)
        wins, low_wins = _wins(right, best), _wins(low_right, low)  # each row's, then both's
        best, low = simd.where(wins, right, best), simd.where(low_wins, low_right, low)
        winner, low_winner = simd.where(wins, one, zero), simd.where(low_wins, three, two)
        wins = _wins(low, best)
        return simd.where(wins, low, best), simd.where(wins, low_winner, winner)
    number = _number(x, (a0 - a) * kw + b0 - b)
    winner, back = number, _number(x, kw - (b1 - b0))
    for row in range(a0, a1):
        for column in range(b0, b1):
            pixel = simd.get(x, ((image + row) * w + column) * channels + c, count)
            wins = _wins(pixel, best)
            best, winner = simd.where(wins, pixel, best), simd.where(wins, number, winner)
            number = number + one
        number = number + back
    return best, winner


@jit(forceinline=True)
def _number(x, number):
    return simd.splat(x.dtype.type(number))


@jit(forceinline=True)
def _numbers_of_four(x):
    """Of the pixels of a 2x2 window."""
    return simd.zeros(x), _number(x, 1), _number(x, 2), _number(x, 3)


@jit(forceinline=True)
def _wins(pixel, best):
    """Whether a pixel takes the place of the best of those before it: NaN does, and stays."""
    return simd.above(pixel, best) & (best == best)


@jit(parallel=True)
def _max_grad(g_shape, g, winners, x_shape, dx, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = g_shape
    _, h, w, _ = x_shape
    lanes = 64 // g.itemsize
    whole = channels // lanes * lanes
    together = 1 if s0 >= kh else oh  # rows of windows that overlap belong to one thread
    how = ADD
    if s0 == kh and s1 == kw:  # each pixel is in one window at most
        how = STREAM if whole == channels and dx.size > PAST else STORE
    for task in prange(n * oh // together):
        begin, end = _rows(task * together % oh, together, oh, h, s0, top)
        image = task * together // oh * h
        if how == ADD:
            dx[(image + begin) * w * channels : (image + end) * w * channels] = 0
        for row in range(task * together, (task + 1) * together):
            a = row % oh * s0 - top
            for j in range(ow):
                b = j * s1 - left
                at = (row * ow + j) * channels
                for c in range(0, whole, lanes):
                    _to_winner(g, winners, at + c, dx, image, a, b, kh, kw, h, w, channels, c, None, how)
                if whole < channels:
                    _to_winner(g, winners, at + whole, dx, image, a, b, kh, kw, h, w, channels, whole,
                               channels - whole, how)  # fmt: skip
            if how != ADD:  # what is in no window
                right = min(ow * s1 - left, w)
                for line in range(begin, end):
                    b = right if a <= line < a + kh else 0
                    dx[((image + line) * w + b) * channels : (image + line + 1) * w * channels] = 0
        if how == STREAM:
            simd.fence()


@jit()
def _rows(i, together, oh, h, s0, top):
    """Which of an image's h rows belong to the windows of rows i ... i + together - 1: the first
    and the last have those that no window covers, too."""
    begin = 0 if i == 0 else min(i * s0 - top, h)
    end = h if i + together == oh else min((i + together) * s0 - top, h)
    return begin, end


@jit(forceinline=True)
def _to_winner(g, winners, at, dx, image, a, b, kh, kw, h, w, channels, c, count, how):
    """Give a line of g to those of the window's pixels that won, and zeros to the others."""
    gradient = simd.get(g, at, count)
    winner = simd.get_whole(winners, at, gradient, count)
    a0, a1, b0, b1 = max(a, 0), min(a + kh, h), max(b, 0), min(b + kw, w)
    zero, one, two, three = _numbers_of_four(g)
    if kh == 2 and kw == 2 and a1 - a0 == 2 and b1 - b0 == 2:
        to = ((image + a) * w + b) * channels + c
        low = to + w * channels
        _give(dx, to, simd.where(winner == zero, gradient, zero), count, how)
        _give(dx, to + channels, simd.where(winner == one, gradient, zero), count, how)
        _give(dx, low, simd.where(winner == two, gradient, zero), count, how)
        _give(dx, low + channels, simd.where(winner == three, gradient, zero), count, how)
        return
    number, back = _number(g, (a0 - a) * kw + b0 - b), _number(g, kw - (b1 - b0))
    for row in range(a0, a1):
        for column in range(b0, b1):
            to = ((image + row) * w + column) * channels + c
            _give(dx, to, simd.where(winner == number, gradient, zero), count, how)
            number = number + one
        number = number + back


@jit(forceinline=True)
def _give(dx, at, share, count, how):
    if how == STREAM:
        simd.stream(dx, at, share)
    elif how == STORE:
        simd.put(dx, at, share, count)
    else:
        _add(dx, at, share, count)


@jit(forceinline=True)
def _add(dx, at, share, count):
    simd.put(dx, at, simd.get(dx, at, count) + share, count)


@jit(parallel=True)
def _max_pick(u, x_shape, winners, y_shape, y, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = y_shape
    _, h, w, _ = x_shape
    lanes = 64 // u.itemsize
    for task in prange(n * oh):
        image, a = task // oh * h, task % oh * s0 - top
        for j in range(ow):
            b = j * s1 - left
            for c in range(0, channels, lanes):
                count, at = min(lanes, channels - c), (task * ow + j) * channels + c
                picked, one = simd.zeros(u), _number(u, 1)
                winner = simd.get_whole(winners, at, picked, count)
                a0, a1, b0, b1 = max(a, 0), min(a + kh, h), max(b, 0), min(b + kw, w)
                number, back = _number(u, (a0 - a) * kw + b0 - b), _number(u, kw - (b1 - b0))
                for row in range(a0, a1):
                    for column in range(b0, b1):
                        value = simd.get(u, ((image + row) * w + column) * channels + c, count)
                        picked = simd.where(winner == number, value, picked)
                        number = number + one
                    number = number + back
                simd.put(y, at, picked, count)


@jit(parallel=True)
def _mean(x_shape, x, y_shape, y, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = y_shape
    _, h, w, _ = x_shape
    lanes = 64 // x.itemsize
    ahead = _ahead(x.size, kh, kw, s0, s1, w * channels)
    for task in prange(n * oh):
        image, i = task // oh * h, task % oh
        a0, a1 = max(i * s0 - top, 0), min(i * s0 - top + kh, h)
        for j in range(ow):
            b0, b1 = max(j * s1 - left, 0), min(j * s1 - left + kw, w)
            share = simd.splat(x.dtype.type(1 / ((a1 - a0) * (b1 - b0))))
            for c in range(0, channels, lanes):
                count = min(lanes, channels - c)
                total = simd.zeros(x)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        at = ((image + a) * w + b) * channels + c
                        total = total + simd.get(x, at, count)
                        if ahead:
                            simd.prefetch(x, at + ahead)
                simd.put(y, (task * ow + j) * channels + c, total * share, count)


@jit(parallel=True)
def _mean_grad(g_shape, g, x_shape, dx, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = g_shape
    _, h, w, _ = x_shape
    lanes = 64 // g.itemsize
    together = 1 if s0 >= kh else oh  # rows of windows that overlap belong to one thread
    for task in prange(n * oh // together):
        begin, end = _rows(task * together % oh, together, oh, h, s0, top)
        image = task * together // oh * h
        dx[(image + begin) * w * channels : (image + end) * w * channels] = 0  # while in the cache
        for row in range(task * together, (task + 1) * together):
            i = row % oh
            a0, a1 = max(i * s0 - top, 0), min(i * s0 - top + kh, h)
            for j in range(ow):
                b0, b1 = max(j * s1 - left, 0), min(j * s1 - left + kw, w)
                share = simd.splat(g.dtype.type(1 / ((a1 - a0) * (b1 - b0))))
                for c in range(0, channels, lanes):
                    count = min(lanes, channels - c)
                    part = simd.get(g, (row * ow + j) * channels + c, count) * share
                    for a in range(a0, a1):
                        for b in range(b0, b1):
                            at = ((image + a) * w + b) * channels + c
                            _add(dx, at, part, count)
