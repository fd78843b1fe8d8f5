"""Compiled, for samples of one pixel: each row is normalised by itself, while it is in the cache.

Layer normalisation has one mean and one variance for each row of numbers. A row is read for its sum,
for the squares around its mean, and for the result, but from memory once only. The sums over all rows
that gamma's and beta's gradients are, are taken by chunks of rows, in float64 from chunk to chunk.
"""

import numpy as np

from kernels.jit import jit, plain, prange, simd, threads, usable
from kernels.ladder import rung
from kernels.memory import empty
from kernels.normalization import moments, normalize, normalize_grad

CHUNK = 64  # rows


@rung(moments, device="cpu", why="a row stays in the cache from its sum to its squares")
def rows(x, groups):
    n, _, c = x.shape
    found = np.empty((2, n, 1), x.dtype)
    _moments.shared(x.size)(plain(x).reshape(-1), c, *found.reshape(2, n))
    return found


@rung(normalize, device="cpu", why="one pass over memory, without temporaries")
def rows(x, moments, gamma, beta, epsilon):  # noqa: F811
    n, _, c = x.shape
    y = empty(x.shape, x.dtype)
    scale = _inverse(moments, epsilon)
    flat = (plain(a).reshape(-1) for a in (x, moments[0], scale, gamma, beta))
    _normalize.shared(x.size)(*flat, c, y.reshape(-1))
    return y


@rung(normalize_grad, device="cpu", why="a row stays in the cache from its sums to its gradient")
def rows(g, x, moments, gamma, epsilon):  # noqa: F811
    n, _, c = x.shape
    dx = empty(x.shape, x.dtype)
    parts = max(1, min(threads(), -(-n // CHUNK)))
    sums = np.zeros((parts, 2, c))
    scale = _inverse(moments, epsilon)
    flat = (plain(a).reshape(-1) for a in (g, x, moments[0], scale, gamma))
    _gradient.shared(x.size)(*flat, c, dx.reshape(-1), sums)
    dgamma, dbeta = sums.sum(axis=0).astype(gamma.dtype)
    return dx, dgamma, dbeta


def _inverse(moments, epsilon):
    return 1 / np.sqrt(moments[1] + moments.dtype.type(epsilon))


@moments.rungs["rows"].needs
def _(x, groups):
    return _one_pixel(x, groups) or usable(x)


@normalize.rungs["rows"].needs
def _(x, moments, gamma, beta, epsilon):
    return _one_pixel(x, moments.shape[2]) or usable(x, moments, gamma, beta)


@normalize_grad.rungs["rows"].needs
def _(g, x, moments, gamma, epsilon):
    return _one_pixel(x, moments.shape[2]) or usable(g, x, moments, gamma)


def _one_pixel(x, groups):
    return None if x.shape[1] == 1 and groups == 1 else "one pixel and one group only"


@jit(parallel=True)
def _moments(x, c, mean, variance):
    lanes = 64 // x.itemsize
    for task in prange(mean.size):
        row = np.int64(task)    # prange counts in uint64, of which products with int64 are float64
        begin, end = row * c, row * c + c
        total = squares = zero = simd.zeros(x)
        for at in range(begin, end, lanes):
            total = total + simd.get(x, at, min(lanes, end - at))
        mean[row] = simd.total(total) / x.dtype.type(c)
        middle = simd.repeat(mean, row)
        for at in range(begin, end, lanes):
            count = min(lanes, end - at)
            d = simd.first(simd.get(x, at, count) - middle, count, zero)
            squares = simd.fma(d, d, squares)
        variance[row] = simd.total(squares) / x.dtype.type(c)


@jit(parallel=True)
def _normalize(x, mean, scale, gamma, beta, c, y):
    lanes = 64 // x.itemsize
    for task in prange(mean.size):
        row = np.int64(task)
        begin, middle, factor = row * c, simd.repeat(mean, row), simd.repeat(scale, row)
        for k in range(0, c, lanes):
            count = min(lanes, c - k)
            line = (simd.get(x, begin + k, count) - middle) * factor
            line = simd.fma(line, simd.get(gamma, k, count), simd.get(beta, k, count))
            simd.put(y, begin + k, line, count)


@jit(parallel=True)
def _gradient(g, x, mean, scale, gamma, c, dx, sums):
    """dx = scale·(g·gamma - Σ g·gamma / C - z·Σ g·gamma·z / C) with z = (x - mean)·scale; and into
    sums (parts, 2, C): Σ g·z and Σ g over the rows of each part."""
    parts, n = len(sums), mean.size
    for task in prange(parts):
        part = np.int64(task)
        _gradient_part(part * n // parts, (part + 1) * n // parts, g, x, mean, scale, gamma, c, dx,
                       sums[part])  # fmt: skip


@jit()
def _gradient_part(first, last, g, x, mean, scale, gamma, c, dx, sums):
    lanes = 64 // x.itemsize
    share = 1 / np.float64(c)
    for chunk in range(first, last, CHUNK):
        some = np.zeros((2, c), x.dtype)
        products, totals = some[0], some[1]
        for row in range(chunk, min(chunk + CHUNK, last)):
            begin, middle, factor = row * c, simd.repeat(mean, row), simd.repeat(scale, row)
            by_mean = by_scale = simd.zeros(x)
            for k in range(0, c, lanes):
                count = min(lanes, c - k)
                line = simd.get(g, begin + k, count)
                z = (simd.get(x, begin + k, count) - middle) * factor
                simd.put(totals, k, simd.get(totals, k, count) + line, count)
                simd.put(products, k, simd.fma(line, z, simd.get(products, k, count)), count)
                line = line * simd.get(gamma, k, count)     # 0 beyond the row, as g is
                by_mean, by_scale = by_mean + line, simd.fma(line, z, by_scale)
            a = simd.splat(x.dtype.type(simd.total(by_mean) * share))
            b = simd.splat(x.dtype.type(simd.total(by_scale) * share))
            for k in range(0, c, lanes):
                count = min(lanes, c - k)
                z = (simd.get(x, begin + k, count) - middle) * factor
                line = simd.get(g, begin + k, count) * simd.get(gamma, k, count) - a - z * b
                simd.put(dx, begin + k, line * factor, count)
        sums += some
