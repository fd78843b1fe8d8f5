"""Pooling, compiled: one pass over the windows, a cache line of channels at a time.

The running maximum (or sum) of a window stays in a register (`kernels.simd`). The gradients of the
maximum look for the winner again, in the same pass, rather than keep an index from before. Results
are those of the formula to the bit (the mean: to rounding).
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
)

PAST = 2**21  # numbers of a result that no cache keeps until it is read: written past the caches
ADD, STORE, STREAM = 0, 1, 2  # how gradients get to the pixels: to what is there; alone; past caches


@rung(max_pool2d, device="cpu", why="one pass, the maximum stays in a register")
def compiled(x, size, stride, padding):
    y = memory.empty(output_shape(x.shape, size, stride, padding), x.dtype)
    x = plain(x)
    _max(x.shape, x.reshape(-1), y.shape, y.reshape(-1), *_numbers(size, stride, padding))
    return y


@rung(max_pool2d_grad, device="cpu", why="one pass, which finds the winner and writes at once")
def compiled(g, x, size, stride, padding):  # noqa: F811
    dx = memory.empty(x.shape, g.dtype)
    g, x = plain(g), plain(x)
    numbers = _numbers(size, stride, padding)
    _max_grad(g.shape, g.reshape(-1), x.shape, x.reshape(-1), dx.reshape(-1), *numbers)
    return dx


@rung(max_pool2d_pick, device="cpu", why="one pass, which finds the winner and reads at once")
def compiled(u, x, size, stride, padding):  # noqa: F811
    y = memory.empty(output_shape(x.shape, size, stride, padding), u.dtype)
    u, x = plain(u), plain(x)
    numbers = _numbers(size, stride, padding)
    _max_pick(u.reshape(-1), x.shape, x.reshape(-1), y.shape, y.reshape(-1), *numbers)
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
def _(x, size, stride, padding):
    return usable(x)


@max_pool2d_grad.rungs["compiled"].needs
def _(g, x, size, stride, padding):
    return usable(g, x)


@max_pool2d_pick.rungs["compiled"].needs
def _(u, x, size, stride, padding):
    return usable(u, x)


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
def _max(x_shape, x, y_shape, y, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = y_shape
    _, h, w, _ = x_shape
    lanes = 64 // x.itemsize
    whole = channels // lanes * lanes
    past = whole == channels and y.size > PAST
    for task in prange(n * oh):
        image, i = task // oh * h, task % oh
        a0, a1 = max(i * s0 - top, 0), min(i * s0 - top + kh, h)
        for j in range(ow):
            b0, b1 = max(j * s1 - left, 0), min(j * s1 - left + kw, w)
            at = (task * ow + j) * channels
            for c in range(0, whole, lanes):
                best = _largest(x, image, a0, a1, b0, b1, w, channels, c, None)
                if past:
                    simd.stream(y, at + c, best)
                else:
                    simd.store(y, at + c, best)
            if whole < channels:
                rest = channels - whole
                best = _largest(x, image, a0, a1, b0, b1, w, channels, whole, rest)
                simd.store_some(y, at + whole, best, rest)
        if past:
            simd.fence()


@jit(forceinline=True)
def _largest(x, image, a0, a1, b0, b1, w, channels, c, count):
    """The largest of the window's pixels, a line of channels; count of them, or all (None)."""
    at = ((image + a0) * w + b0) * channels + c
    best = simd.get(x, at, count)
    if a1 - a0 == 2 and b1 - b0 == 2:  # the commonest window needs no loops: each row's, then both's
        right, low = simd.get(x, at + channels, count), at + w * channels
        low, low_right = simd.get(x, low, count), simd.get(x, low + channels, count)
        best = simd.where(_wins(right, best), right, best)
        low = simd.where(_wins(low_right, low), low_right, low)
        return simd.where(_wins(low, best), low, best)
    for a in range(a0, a1):
        for b in range(b0, b1):
            pixel = simd.get(x, ((image + a) * w + b) * channels + c, count)
            best = simd.where(_wins(pixel, best), pixel, best)
    return best


@jit(forceinline=True)
def _wins(pixel, best):
    """Whether a pixel takes the place of the best of those before it: NaN does, and stays."""
    return simd.above(pixel, best) & (best == best)


@jit()
def _winner(x, image, a0, a1, b0, b1, w, channels, c, count):
    """Which of the window's pixels, counted row by row, is the largest: a line of numbers."""
    best = simd.get(x, ((image + a0) * w + b0) * channels + c, count)
    winner = simd.zeros(x)
    number, one = winner, simd.splat(x.dtype.type(1))
    for a in range(a0, a1):
        for b in range(b0, b1):
            pixel = simd.get(x, ((image + a) * w + b) * channels + c, count)
            wins = _wins(pixel, best)
            best, winner = simd.where(wins, pixel, best), simd.where(wins, number, winner)
            number = number + one
    return winner


@jit(parallel=True)
def _max_grad(g_shape, g, x_shape, x, dx, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = g_shape
    _, h, w, _ = x_shape
    lanes = 64 // x.itemsize
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
            i = row % oh
            a0, a1 = max(i * s0 - top, 0), min(i * s0 - top + kh, h)
            for j in range(ow):
                b0, b1 = max(j * s1 - left, 0), min(j * s1 - left + kw, w)
                at = (row * ow + j) * channels
                for c in range(0, whole, lanes):
                    _to_winner(g, at + c, x, dx, image, a0, a1, b0, b1, w, channels, c, None, how)
                if whole < channels:
                    rest = channels - whole
                    _to_winner(
                        g, at + whole, x, dx, image, a0, a1, b0, b1, w, channels, whole, rest, how
                    )
            if how != ADD:  # what is in no window
                right = min(ow * s1 - left, w)
                for a in range(begin, end):
                    b = right if a0 <= a < a1 else 0
                    dx[((image + a) * w + b) * channels : (image + a + 1) * w * channels] = 0
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
def _to_winner(g, at_g, x, dx, image, a0, a1, b0, b1, w, channels, c, count, how):
    """Give a line of g to those of the window's pixels in dx that are the largest in x, and zeros to
    the others."""
    gradient = simd.get(g, at_g, count)
    zero, one = simd.zeros(x), simd.splat(x.dtype.type(1))
    if a1 - a0 == 2 and b1 - b0 == 2:  # as in _largest: of equals, and of NaNs, the first wins
        at = ((image + a0) * w + b0) * channels + c
        low_at = at + w * channels
        left, right = simd.get(x, at, count), simd.get(x, at + channels, count)
        low, low_right = simd.get(x, low_at, count), simd.get(x, low_at + channels, count)
        is_right, is_low_right = _wins(right, left), _wins(low_right, low)
        is_low = _wins(
            simd.where(is_low_right, low_right, low), simd.where(is_right, right, left)
        )
        above, below = simd.where(is_low, zero, gradient), simd.where(is_low, gradient, zero)
        _give(dx, at, simd.where(is_right, zero, above), count, how)
        _give(dx, at + channels, simd.where(is_right, above, zero), count, how)
        _give(dx, low_at, simd.where(is_low_right, zero, below), count, how)
        _give(dx, low_at + channels, simd.where(is_low_right, below, zero), count, how)
        return
    winner = _winner(x, image, a0, a1, b0, b1, w, channels, c, count)
    number = zero
    for a in range(a0, a1):
        for b in range(b0, b1):
            at = ((image + a) * w + b) * channels + c
            _give(dx, at, simd.where(winner == number, gradient, zero), count, how)
            number = number + one


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
def _max_pick(u, x_shape, x, y_shape, y, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = y_shape
    _, h, w, _ = x_shape
    lanes = 64 // x.itemsize
    for task in prange(n * oh):
        image, i = task // oh * h, task % oh
        a0, a1 = max(i * s0 - top, 0), min(i * s0 - top + kh, h)
        for j in range(ow):
            b0, b1 = max(j * s1 - left, 0), min(j * s1 - left + kw, w)
            for c in range(0, channels, lanes):
                count = min(lanes, channels - c)
                winner = _winner(x, image, a0, a1, b0, b1, w, channels, c, count)
                number, one = simd.zeros(x), simd.splat(x.dtype.type(1))
                picked = number
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        value = simd.get(u, ((image + a) * w + b) * channels + c, count)
                        picked = simd.where(winner == number, value, picked)
                        number = number + one
                simd.put(y, (task * ow + j) * channels + c, picked, count)


@jit(parallel=True)
def _mean(x_shape, x, y_shape, y, kh, kw, s0, s1, top, left):
    n, oh, ow, channels = y_shape
    _, h, w, _ = x_shape
    lanes = 64 // x.itemsize
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
