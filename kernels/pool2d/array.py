"""Pooling by slices, for NumPy and CuPy alike.

Loop over the few positions ("taps") in the window, not over the many windows: all windows' pixels
at one tap are one strided slice of the image. Maximum and mean of a rectangle separate into
columns of rows, so KH + KW slices do instead of KH·KW. Where a tap of the outermost windows falls
into the padding, both slices are cut; nothing is padded, and no -inf of the image's own is
mistaken for padding.
"""

from kernels.backend import array_module
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


@rung(max_pool2d, device="any", why="KH + KW strided slices instead of Python loops over windows")
def array(x, size, stride, padding, keep):
    xp = array_module(x)
    n, oh, ow, c = output_shape(x.shape, size, stride, padding)
    rows, columns = (axis.values() for axis in _taps(x.shape, size, stride, padding))
    tall = xp.full((n, oh, x.shape[2], c), -xp.inf, x.dtype)
    for at_y, at_x in rows:
        xp.maximum(tall[:, at_y], x[:, at_x], out=tall[:, at_y])
    y = xp.full((n, oh, ow, c), -xp.inf, x.dtype)
    for at_y, at_x in columns:
        xp.maximum(y[:, :, at_y], tall[:, :, at_x], out=y[:, :, at_y])
    return (y, _winners(xp, x, y, size, stride, padding)) if keep else y


def _winners(xp, x, y, size, stride, padding):
    """Every window has one winner: the first that equals the maximum, or the first NaN."""
    winners, free = xp.zeros(y.shape, winner_type(size)), xp.ones(y.shape, bool)
    has_nan = bool(xp.isnan(y).any())
    for number, at_y, at_x in _pixels(x.shape, size, stride, padding):
        hit = x[at_x] == y[at_y]
        if has_nan:
            hit |= xp.isnan(x[at_x])
        hit &= free[at_y]
        free[at_y] ^= hit
        winners[at_y] = xp.where(hit, number, winners[at_y])
    return winners


@rung(max_pool2d_grad, device="any", why="KH·KW strided slices instead of loops over windows")
def array(g, winners, x_shape, size, stride, padding):  # noqa: F811
    xp = array_module(g, winners)
    dx = xp.zeros(x_shape, g.dtype)
    for number, at_y, at_x in _pixels(x_shape, size, stride, padding):
        dx[at_x] += xp.where(winners[at_y] == number, g[at_y], g.dtype.type(0))
    return dx


@rung(max_pool2d_pick, device="any", why="KH·KW strided slices instead of loops over windows")
def array(u, winners, size, stride, padding):  # noqa: F811
    xp = array_module(u, winners)
    y = xp.zeros(winners.shape, u.dtype)
    for number, at_y, at_x in _pixels(u.shape, size, stride, padding):
        y[at_y] = xp.where(winners[at_y] == number, u[at_x], y[at_y])
    return y


@rung(avg_pool2d, device="any", why="KH + KW strided slices instead of loops over windows")
def array(x, size, stride, padding):  # noqa: F811
    xp = array_module(x)
    n, oh, ow, c = output_shape(x.shape, size, stride, padding)
    rows, columns = (axis.values() for axis in _taps(x.shape, size, stride, padding))
    tall = xp.zeros((n, oh, x.shape[2], c), x.dtype)
    for at_y, at_x in rows:
        tall[:, at_y] += x[:, at_x]
    y = xp.zeros((n, oh, ow, c), x.dtype)
    for at_y, at_x in columns:
        y[:, :, at_y] += tall[:, :, at_x]
    y *= _one_over_count(xp, oh, ow, rows, columns, x.dtype)
    return y


@rung(avg_pool2d_grad, device="any", why="KH + KW strided slices instead of loops over windows")
def array(g, x_shape, size, stride, padding):  # noqa: F811
    xp = array_module(g)
    n, oh, ow, c = g.shape
    rows, columns = (axis.values() for axis in _taps(x_shape, size, stride, padding))
    g = g * _one_over_count(xp, oh, ow, rows, columns, g.dtype)
    tall = xp.zeros((n, oh, x_shape[2], c), g.dtype)
    for at_y, at_x in columns:
        tall[:, :, at_x] += g[:, :, at_y]
    dx = xp.zeros(x_shape, g.dtype)
    for at_y, at_x in rows:
        dx[:, at_x] += tall[:, at_y]
    return dx


def _pixels(x_shape, size, stride, padding):
    """The pixels of all windows, by their number in it: (number, which outputs, which pixels)."""
    rows, columns = _taps(x_shape, size, stride, padding)
    for k, (row_y, row_x) in rows.items():
        for l, (column_y, column_x) in columns.items():  # noqa: E741
            everything = slice(None)
            yield k * size[1] + l, (everything, row_y, column_y), (everything, row_x, column_x)


def _taps(x_shape, size, stride, padding):
    """For rows and for columns: {tap: (which outputs see a pixel there, which pixels)}."""
    _, oh, ow, _ = output_shape(x_shape, size, stride, padding)
    axes = []
    for length, outputs, taps, s, (before, _) in zip(
        x_shape[1:3], (oh, ow), size, stride, padding
    ):
        spans = {}
        for tap in range(taps):
            first = max(0, -((tap - before) // s))  # the first i with i·s + tap - before >= 0
            last = min(outputs - 1, (length - 1 + before - tap) // s)
            if first <= last:
                start = first * s + tap - before
                span = slice(start, start + (last - first) * s + 1, s)
                spans[tap] = slice(first, last + 1), span
        axes.append(spans)
    return axes


def _one_over_count(xp, oh, ow, rows, columns, dtype):
    """(OH, OW, 1): one over the number of pixels, not padding, under each window."""
    high, wide = [0] * oh, [0] * ow
    for counts, taps in ((high, rows), (wide, columns)):
        for span, _ in taps:
            for i in range(span.start, span.stop):
                counts[i] += 1
    return 1 / (xp.asarray(high, dtype)[:, None, None] * xp.asarray(wide, dtype)[None, :, None])
