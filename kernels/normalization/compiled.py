"""Compiled: memory is passed over as often as the formula demands, and not once more.

Forward x is read for the moments, and read again for y. Backward g and x are read for two sums per
channel, from which all groups' means follow, and read again for dx, which is then

    dx = a·g + b·(x - mean) + c,    with a, b, c the same for all pixels of a channel.

Sums are taken by chunks of rows: four rows at a time within a chunk, in float64 from chunk to chunk.
Within a chunk numbers are counted from its first row, so that a large mean costs no digits.
"""

import numpy as np

from kernels.jit import jit, plain, prange, simd, threads, usable
from kernels.ladder import rung
from kernels.memory import empty
from kernels.normalization import moments, normalize, normalize_grad

CHUNK = 256  # rows


@rung(moments, device="cpu", why="one pass over memory, without temporaries")
def compiled(x, groups):
    n, p, c = x.shape
    x = plain(x)
    parts = _parts(n, p)
    sums = np.zeros((2, n * parts, c))
    _sums.shared(x.size)(x.reshape(-1), p, c, parts, sums)
    mean, square = sums.reshape(2, n, parts, c).sum(axis=2) / p  # (N, C), counted from origin
    origin = x[:, 0].astype(np.float64)
    # The moments of groups from those of their channels (Chan et al. 1979).
    variance = np.maximum(square - mean * mean, 0).reshape(n, groups, c // groups)
    means = (origin + mean).reshape(variance.shape)
    mean = means.mean(axis=2)  # (N, G)
    variance = variance.mean(axis=2) + ((means - mean[:, :, None]) ** 2).mean(axis=2)
    return np.stack([mean, variance]).astype(x.dtype)


@rung(normalize, device="cpu", why="one pass over memory, without temporaries")
def compiled(x, moments, gamma, beta, epsilon):  # noqa: F811
    n, p, c = x.shape
    size = c // max(moments.shape[2], 1)
    mean, variance = np.repeat(moments, size, axis=2)  # (N, C) each
    scale = gamma / np.sqrt(variance + x.dtype.type(epsilon))
    y = empty(x.shape, x.dtype)
    x = plain(x)
    flat = (plain(a).reshape(-1) for a in (x, mean, scale, beta))
    _scale.shared(x.size)(*flat, p, c, y.reshape(-1))
    return y


@rung(normalize_grad, device="cpu", why="two passes over memory, without temporaries")
def compiled(g, x, moments, gamma, epsilon):  # noqa: F811
    n, p, c = x.shape
    groups = moments.shape[2]
    size = c // max(groups, 1)
    g, x = plain(g), plain(x)
    means = plain(np.repeat(moments[0], size, axis=1))  # (N, C)
    parts = _parts(n, p)
    sums = np.zeros((2, n * parts, c))
    _grad_sums.shared(x.size)(g.reshape(-1), x.reshape(-1), means.reshape(-1), p, c, parts, sums)
    d_mean, d_scale = sums.reshape(2, n, parts, c).sum(axis=2)  # Σ g and Σ g·(x - mean)

    inverse = 1 / np.sqrt(moments[1].astype(np.float64) + epsilon)  # (N, G)
    weighted = (np.stack([d_mean, d_scale]) * gamma).reshape(2, n, groups, size)
    by_mean, by_scale = weighted.sum(axis=3) / (p * size)  # (N, G) each
    a = np.repeat(inverse, size, axis=1)
    terms = a * gamma, np.repeat(-by_scale * inverse**3, size, axis=1), np.repeat(
        -by_mean * inverse, size, axis=1
    )  # fmt: skip
    dx = empty(x.shape, x.dtype)
    flat = (plain(term.astype(x.dtype)).reshape(-1) for term in terms)
    _combine.shared(x.size)(
        g.reshape(-1), x.reshape(-1), means.reshape(-1), *flat, p, c, dx.reshape(-1)
    )
    dgamma, dbeta = (d_scale * a).sum(axis=0), d_mean.sum(axis=0)
    return dx, dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


@moments.rungs["compiled"].needs
def _(x, groups):
    return _several_pixels(x) or usable(x)


@normalize.rungs["compiled"].needs
def _(x, moments, gamma, beta, epsilon):
    return _several_pixels(x) or usable(x, moments, gamma, beta)


@normalize_grad.rungs["compiled"].needs
def _(g, x, moments, gamma, epsilon):
    return _several_pixels(x) or usable(g, x, moments, gamma)


def _several_pixels(x):
    return None if x.shape[1] > 1 else "samples of more than one pixel only"


def _chunks(pixels):
    return -(-pixels // CHUNK)


def _parts(samples, pixels):
    """Into how many parts the rows of each sample are divided: enough for all threads."""
    return max(1, min(-(-threads() // max(samples, 1)), _chunks(pixels)))


@jit(parallel=True)
def _sums(x, p, c, parts, sums):
    """Of every part of a sample, per channel: Σ d and Σ d², d being the distance from the sample's
    first row, by way of each chunk's own mean and squares."""
    lanes = 64 // x.itemsize
    whole = c // lanes * lanes
    for task in prange(sums.shape[1]):
        origin, part = task // parts * p * c, task % parts
        first, last = part * p // parts, (part + 1) * p // parts
        base, total, square = np.zeros((3, whole + lanes), x.dtype)
        for begin in range(first, last, CHUNK):
            rows = min(CHUNK, last - begin)
            start, end = origin + begin * c, origin + (begin + rows) * c
            base[:c] = x[start : start + c]
            total[:], square[:] = 0, 0
            fours = start + rows // 4 * 4 * c
            to = simd.pointer(x), simd.pointer(base), simd.pointer(total), simd.pointer(square)
            for at in range(start, fours, 4 * c):
                for u in range(0, whole, lanes):
                    _add_four(to, at, c, u, None)
                if whole < c:
                    _add_four(to, at, c, whole, c - whole)
            for at in range(fours, end, c):
                for u in range(0, whole, lanes):
                    _add_row(to, at, u, None)
                if whole < c:
                    _add_row(to, at, whole, c - whole)
            share = 1 / rows
            for k in range(c):
                t = np.float64(total[k])
                away = np.float64(base[k]) - np.float64(x[origin + k]) + t * share
                around = max(np.float64(square[k]) - t * t * share, 0.0)
                sums[0, task, k] += rows * away
                sums[1, task, k] += around + rows * away * away
        base.size, total.size, square.size  # they live until here


@jit()
def _add_four(to, at, c, u, count):
    x, base, total, square = to
    origin, i = simd.load(base, u), at + u
    d0, d1 = simd.get(x, i, count) - origin, simd.get(x, i + c, count) - origin
    d2, d3 = simd.get(x, i + 2 * c, count) - origin, simd.get(x, i + 3 * c, count) - origin
    simd.store(total, u, simd.load(total, u) + ((d0 + d1) + (d2 + d3)))
    left, right = simd.fma(d0, d0, d1 * d1), simd.fma(d2, d2, d3 * d3)
    simd.store(square, u, simd.load(square, u) + (left + right))


@jit()
def _add_row(to, at, u, count):
    x, base, total, square = to
    d = simd.get(x, at + u, count) - simd.load(base, u)
    simd.store(total, u, simd.load(total, u) + d)
    simd.store(square, u, simd.fma(d, d, simd.load(square, u)))


@jit(parallel=True)
def _scale(x, means, scales, beta, p, c, y):
    chunks = (p + CHUNK - 1) // CHUNK
    lanes = 64 // x.itemsize
    whole = c // lanes * lanes
    for task in prange(x.size // max(p * c, 1) * chunks):
        of_sample, first = task // chunks * c, task % chunks * CHUNK
        begin = of_sample * p + first * c
        for at in range(begin, begin + min(CHUNK, p - first) * c, c):
            for u in range(0, whole, lanes):
                line = simd.load(x, at + u) - simd.load(means, of_sample + u)
                line = simd.fma(line, simd.load(scales, of_sample + u), simd.load(beta, u))
                simd.store(y, at + u, line)
            if whole < c:
                rest = c - whole
                line = simd.load_some(x, at + whole, rest)
                line = line - simd.load_some(means, of_sample + whole, rest)
                scale = simd.load_some(scales, of_sample + whole, rest)
                line = simd.fma(line, scale, simd.load_some(beta, whole, rest))
                simd.store_some(y, at + whole, line, rest)


@jit(parallel=True)
def _grad_sums(g, x, means, p, c, parts, sums):
    """Of every part of a sample, per channel: Σ g and Σ g·(x - mean)."""
    lanes = 64 // x.itemsize
    whole = c // lanes * lanes
    for task in prange(sums.shape[1]):
        sample, part = task // parts, task % parts
        first, last = part * p // parts, (part + 1) * p // parts
        mean, total, product = np.zeros((3, whole + lanes), x.dtype)
        mean[:c] = means[sample * c : (sample + 1) * c]
        inputs = simd.pointer(g), simd.pointer(x), simd.pointer(mean)
        to = (*inputs, simd.pointer(total), simd.pointer(product))
        for begin in range(first, last, CHUNK):
            rows = min(CHUNK, last - begin)
            start, end = (sample * p + begin) * c, (sample * p + begin + rows) * c
            total[:], product[:] = 0, 0
            fours = start + rows // 4 * 4 * c
            for at in range(start, fours, 4 * c):
                for u in range(0, whole, lanes):
                    _add_four_products(to, at, c, u, None)
                if whole < c:
                    _add_four_products(to, at, c, whole, c - whole)
            for at in range(fours, end, c):
                for u in range(0, whole, lanes):
                    _add_products(to, at, u, None)
                if whole < c:
                    _add_products(to, at, whole, c - whole)
            for k in range(c):
                sums[0, task, k] += total[k]
                sums[1, task, k] += product[k]
        mean.size, total.size, product.size  # they live until here


@jit()
def _add_four_products(to, at, c, u, count):
    g, x, mean, total, product = to
    m, i = simd.load(mean, u), at + u
    g0, g1 = simd.get(g, i, count), simd.get(g, i + c, count)
    g2, g3 = simd.get(g, i + 2 * c, count), simd.get(g, i + 3 * c, count)
    simd.store(total, u, simd.load(total, u) + ((g0 + g1) + (g2 + g3)))
    left = simd.fma(g0, simd.get(x, i, count) - m, g1 * (simd.get(x, i + c, count) - m))
    d2, d3 = simd.get(x, i + 2 * c, count) - m, simd.get(x, i + 3 * c, count) - m
    simd.store(product, u, simd.load(product, u) + (left + simd.fma(g2, d2, g3 * d3)))


@jit()
def _add_products(to, at, u, count):
    g, x, mean, total, product = to
    line = simd.get(g, at + u, count)
    simd.store(total, u, simd.load(total, u) + line)
    d = simd.get(x, at + u, count) - simd.load(mean, u)
    simd.store(product, u, simd.fma(line, d, simd.load(product, u)))


@jit(parallel=True)
def _combine(g, x, means, a, b, shifts, p, c, dx):
    chunks = (p + CHUNK - 1) // CHUNK
    lanes = 64 // x.itemsize
    whole = c // lanes * lanes
    for task in prange(x.size // max(p * c, 1) * chunks):
        of_sample, first = task // chunks * c, task % chunks * CHUNK
        begin = of_sample * p + first * c
        for at in range(begin, begin + min(CHUNK, p - first) * c, c):
            for u in range(0, whole, lanes):
                v = of_sample + u
                line = simd.load(x, at + u) - simd.load(means, v)
                line = simd.fma(line, simd.load(b, v), simd.load(shifts, v))
                simd.store(dx, at + u, simd.fma(simd.load(g, at + u), simd.load(a, v), line))
            if whole < c:
                rest, v = c - whole, of_sample + whole
                line = simd.load_some(x, at + whole, rest) - simd.load_some(means, v, rest)
                line = simd.fma(line, simd.load_some(b, v, rest), simd.load_some(shifts, v, rest))
                gradient = simd.load_some(g, at + whole, rest)
                line = simd.fma(gradient, simd.load_some(a, v, rest), line)
                simd.store_some(dx, at + whole, line, rest)
