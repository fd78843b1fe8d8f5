"""Compiled: memory is passed over as often as the formula demands, and not once more.

Forward x is read for the moments, and read again for y. Backward g and x are read for two sums per
channel, from which all groups' means follow, and read again for dx, which is then

    dx = a·g + b·(x - mean) + c,    with a, b, c the same for all pixels of a channel.

Sums are taken by chunks of rows: in registers within a chunk, in float64 from chunk to chunk.
Within a chunk numbers are counted from its first row, so that a large mean costs no digits.
"""

import numpy as np

from kernels.jit import jit, plain, prange, simd, usable
from kernels.ladder import rung
from kernels.memory import empty
from kernels.normalization import moments, normalize, normalize_grad

CHUNK = 64  # rows


@rung(moments, device="cpu", why="one pass over memory, without temporaries")
def compiled(x, groups):
    n, p, c = x.shape
    x = plain(x)
    sums = np.empty((2, n * _chunks(p), c))
    _sums.shared(x.size)(x.reshape(-1), p, c, sums)
    # The moments of groups from those of their chunks and channels (Chan et al. 1979).
    means, squares = sums.reshape(2, n, _chunks(p), groups, c // groups)
    rows = np.full((_chunks(p), 1, 1), CHUNK)
    rows[-1] = p - CHUNK * (len(rows) - 1)
    count = p * c // groups
    mean = (means * rows).sum(axis=(1, 3)) / count  # (N, G)
    squares += (means - mean[:, None, :, None]) ** 2 * rows
    return np.stack([mean, squares.sum(axis=(1, 3)) / count]).astype(x.dtype)


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
    sums = np.empty((2, n * _chunks(p), c))
    _grad_sums.shared(x.size)(g.reshape(-1), x.reshape(-1), means.reshape(-1), p, c, sums)
    d_mean, d_scale = sums.reshape(2, n, _chunks(p), c).sum(axis=2)  # Σ g and Σ g·(x - mean)

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


@jit(parallel=True)
def _sums(x, p, c, sums):
    """Of every chunk, per channel: its mean, and the sum of squares of the distances from it."""
    chunks = (p + CHUNK - 1) // CHUNK
    lanes = 64 // x.itemsize
    for task in prange(sums.shape[1]):
        first, last = task % chunks * CHUNK, min(task % chunks * CHUNK + CHUNK, p)
        start, end = (task // chunks * p + first) * c, (task // chunks * p + last) * c
        two = np.empty((2, 2 * lanes), x.dtype)
        out, rows = two.reshape(-1), last - first
        for u in range(0, c, 2 * lanes):
            here, more = min(lanes, c - u), min(lanes, c - u - lanes)
            total = squares = other_total = other_squares = simd.zeros(x)
            origin, other_origin = simd.get(x, start + u, here), total
            if more == lanes:  # a pair of lines side by side: the cache fetches pairs
                other_origin = simd.load(x, start + u + lanes)
                for i in range(start + u, end, c):
                    line, other = simd.load(x, i) - origin, simd.load(x, i + lanes) - other_origin
                    total, squares = total + line, simd.fma(line, line, squares)
                    other_total = other_total + other
                    other_squares = simd.fma(other, other, other_squares)
            else:
                more = max(more, 0)
                other_origin = simd.load_some(x, start + u + here, more)
                for i in range(start + u, end, c):
                    line = simd.get(x, i, here) - origin
                    other = simd.load_some(x, i + here, more) - other_origin
                    total, squares = total + line, simd.fma(line, line, squares)
                    other_total = other_total + other
                    other_squares = simd.fma(other, other, other_squares)
            simd.store(out, 0, total)
            simd.store(out, lanes, other_total)
            simd.store(out, 2 * lanes, squares)
            simd.store(out, 3 * lanes, other_squares)
            for k in range(here + more):
                mean = np.float64(two[0, k]) / rows
                sums[0, task, u + k] = x[start + u + k] + mean
                sums[1, task, u + k] = max(np.float64(two[1, k]) - rows * mean * mean, 0.0)


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
def _grad_sums(g, x, means, p, c, sums):
    """Of every chunk, per channel: Σ g and Σ g·(x - mean)."""
    chunks = (p + CHUNK - 1) // CHUNK
    lanes = 64 // x.itemsize
    for task in prange(sums.shape[1]):
        sample, first = task // chunks, task % chunks * CHUNK
        start, end = (sample * p + first) * c, (sample * p + min(first + CHUNK, p)) * c
        two = np.empty((2, 2 * lanes), x.dtype)
        out = two.reshape(-1)
        for u in range(0, c, 2 * lanes):
            here, more = min(lanes, c - u), min(lanes, c - u - lanes)
            mean = simd.get(means, sample * c + u, here)
            total = products = other_total = other_products = simd.zeros(x)
            if more == lanes:
                other_mean = simd.load(means, sample * c + u + lanes)
                for i in range(start + u, end, c):
                    line, other = simd.load(g, i), simd.load(g, i + lanes)
                    total, other_total = total + line, other_total + other
                    products = simd.fma(line, simd.load(x, i) - mean, products)
                    distance = simd.load(x, i + lanes) - other_mean
                    other_products = simd.fma(other, distance, other_products)
            else:
                more = max(more, 0)
                other_mean = simd.load_some(means, sample * c + u + here, more)
                for i in range(start + u, end, c):
                    line, other = simd.get(g, i, here), simd.load_some(g, i + here, more)
                    total, other_total = total + line, other_total + other
                    products = simd.fma(line, simd.get(x, i, here) - mean, products)
                    distance = simd.load_some(x, i + here, more) - other_mean
                    other_products = simd.fma(other, distance, other_products)
            simd.store(out, 0, total)
            simd.store(out, lanes, other_total)
            simd.store(out, 2 * lanes, products)
            simd.store(out, 3 * lanes, other_products)
            for k in range(here + more):
                sums[0, task, u + k], sums[1, task, u + k] = two[0, k], two[1, k]


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
