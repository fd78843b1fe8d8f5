"""Compiled: a row stays in the cache from its maximum to its last quotient.

The array rung passes over memory once an operation; here memory is read once and written once, and
exp is computed once for each number, a cache line of numbers at a time (`kernels.simd`). The
losses' gradients compute the softmax again rather than keep it: the forward pass writes nothing
but the losses.

float32 only. Relative error of exp 2e-7, so absolute error of a probability about as much.
"""

import math

import numpy as np

from kernels.jit import float32_only, jit, plain, prange, simd, threads
from kernels.ladder import rung
from kernels.memory import empty
from kernels.softmax import (
    log_softmax,
    log_softmax_grad,
    sigmoid_crossentropy,
    sigmoid_crossentropy_grad,
    softmax,
    softmax_crossentropy,
    softmax_crossentropy_grad,
    softmax_grad,
)

@rung(softmax, device="cpu", why="one pass over memory, a line of numbers at a time")
def compiled(x):
    return _run(_softmax, x.shape, x)


@rung(softmax_grad, device="cpu", why="one pass over memory, a line of numbers at a time")
def compiled(g, y):  # noqa: F811
    return _run(_softmax_grad, y.shape, g, y)


@rung(log_softmax, device="cpu", why="one pass over memory, a line of numbers at a time")
def compiled(x):  # noqa: F811
    return _run(_log_softmax, x.shape, x)


@rung(log_softmax_grad, device="cpu", why="one pass over memory, a line of numbers at a time")
def compiled(g, y):  # noqa: F811
    return _run(_log_softmax_grad, y.shape, g, y)


@rung(softmax_crossentropy, device="cpu", why="reads the logits once and writes the losses only")
def compiled(logits, labels):  # noqa: F811
    return _run(_loss, labels.shape, logits, labels)


@rung(softmax_crossentropy_grad, device="cpu", why="reads and writes the logits' size once")
def compiled(g, logits, labels):  # noqa: F811
    return _run(_loss_grad, logits.shape, logits, g, labels)


@rung(sigmoid_crossentropy, device="cpu", why="one pass over memory, without temporaries")
def compiled(logits, targets):  # noqa: F811
    return _run(_binary, logits.shape, logits, targets)


@rung(sigmoid_crossentropy_grad, device="cpu", why="one pass over memory, without temporaries")
def compiled(g, logits, targets):  # noqa: F811
    return _run(_binary_grad, logits.shape, logits, targets, g)


for op in (softmax, softmax_grad, log_softmax, log_softmax_grad,
           sigmoid_crossentropy, sigmoid_crossentropy_grad):  # fmt: skip
    op.rungs["compiled"].needs(float32_only)


@softmax_crossentropy.rungs["compiled"].needs
def _(logits, labels):
    return float32_only(logits)


@softmax_crossentropy_grad.rungs["compiled"].needs
def _(g, logits, labels):
    return float32_only(g, logits)


def _run(kernel, shape, *arrays):
    """Run the kernel on flat arrays; the first is that of rows or numbers, and says how many."""
    out = empty(shape)
    size = arrays[0].shape[-1] if arrays[0].ndim else 1
    flat = [plain(a).reshape(-1) for a in arrays]
    kernel.shared(arrays[0].size)(*flat, out.reshape(-1), size, threads())
    return out


@jit()
def _top(x, start, size):
    """The largest of x[start : start + size]."""
    best = simd.repeat(x, start)
    for i in range(start, start + size - 15, 16):
        line = simd.load(x, i)
        best = simd.where(line > best, line, best)
    rest = size % 16
    if rest:
        line = simd.load_some(x, start + size - rest, rest)
        best = simd.first(simd.where(line > best, line, best), rest, best)
    return simd.largest(best)


@jit()
def _exps(x, y, start, size, top):
    """y = exp(x - top) from `start` on; returns the sum."""
    tops, zero = simd.splat(top), simd.zeros(x)
    sums = zero
    for i in range(start, start + size - 15, 16):
        line = simd.exp(simd.load(x, i) - tops)
        simd.store(y, i, line)
        sums = sums + line
    rest = size % 16
    if rest:
        i = start + size - rest
        line = simd.exp(simd.load_some(x, i, rest) - tops)
        simd.store_some(y, i, line, rest)
        sums = sums + simd.first(line, rest, zero)
    return simd.total(sums)


@jit()
def _sum_of_exps(x, start, size, top):
    tops, zero = simd.splat(top), simd.zeros(x)
    sums = zero
    for i in range(start, start + size - 15, 16):
        sums = sums + simd.exp(simd.load(x, i) - tops)
    rest = size % 16
    if rest:
        line = simd.exp(simd.load_some(x, start + size - rest, rest) - tops)
        sums = sums + simd.first(line, rest, zero)
    return simd.total(sums)


@jit(parallel=True)
def _softmax(x, y, size, parts):
    rows = x.size // size
    for part in prange(parts):
        for start in range(part * rows // parts * size, (part + 1) * rows // parts * size, size):
            top = _top(simd.pointer(x), start, size)
            total = _exps(simd.pointer(x), simd.pointer(y), start, size, top)
            share = simd.splat(np.float32(1) / total)
            for i in range(start, start + size, 16):
                count = min(16, start + size - i)
                simd.put(y, i, simd.get(y, i, count) * share, count)


@jit(parallel=True)
def _softmax_grad(g, y, dx, size, parts):
    rows = g.size // size
    for part in prange(parts):
        for start in range(part * rows // parts * size, (part + 1) * rows // parts * size, size):
            sums = simd.zeros(g)
            for i in range(start, start + size, 16):
                count = min(16, start + size - i)
                sums = simd.fma(simd.get(g, i, count), simd.get(y, i, count), sums)
            mean = simd.splat(simd.total(sums))
            for i in range(start, start + size, 16):
                count = min(16, start + size - i)
                line = simd.get(y, i, count) * (simd.get(g, i, count) - mean)
                simd.put(dx, i, line, count)


@jit(parallel=True)
def _log_softmax(x, y, size, parts):
    rows = x.size // size
    for part in prange(parts):
        for start in range(part * rows // parts * size, (part + 1) * rows // parts * size, size):
            top = _top(simd.pointer(x), start, size)
            total = simd.splat(np.float32(math.log(_sum_of_exps(simd.pointer(x), start, size, top))))
            tops = simd.splat(top)
            for i in range(start, start + size, 16):
                count = min(16, start + size - i)
                simd.put(y, i, simd.get(x, i, count) - tops - total, count)


@jit(parallel=True)
def _log_softmax_grad(g, y, dx, size, parts):
    rows = g.size // size
    for part in prange(parts):
        for start in range(part * rows // parts * size, (part + 1) * rows // parts * size, size):
            sums = simd.zeros(g)
            for i in range(start, start + size, 16):
                sums = sums + simd.get(g, i, min(16, start + size - i))
            total = simd.splat(simd.total(sums))
            for i in range(start, start + size, 16):
                count = min(16, start + size - i)
                line = simd.get(g, i, count) - simd.exp(simd.get(y, i, count)) * total
                simd.put(dx, i, line, count)


@jit(parallel=True)
def _loss(z, labels, loss, size, parts):
    rows = labels.size
    for part in prange(parts):
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            start = row * size
            top = _top(simd.pointer(z), start, size)
            total = np.float32(math.log(_sum_of_exps(simd.pointer(z), start, size, top)))
            loss[row] = total - (z[start + labels[row]] - top)


@jit(parallel=True)
def _loss_grad(z, g, labels, dz, size, parts):
    rows = labels.size
    for part in prange(parts):
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            start = row * size
            top = _top(simd.pointer(z), start, size)
            total = _exps(simd.pointer(z), simd.pointer(dz), start, size, top)
            share = simd.splat(g[row] / total)
            for i in range(start, start + size, 16):
                count = min(16, start + size - i)
                simd.put(dz, i, simd.get(dz, i, count) * share, count)
            dz[start + labels[row]] -= g[row]


@jit(parallel=True)
def _binary(z, y, loss, _, parts):
    lines, zero = (z.size + 15) // 16, simd.zeros(z)
    for part in prange(parts):
        for i in range(part * lines // parts * 16, (part + 1) * lines // parts * 16, 16):
            count = min(16, z.size - i)
            line = simd.get(z, i, count)
            above = simd.where(line > zero, line, zero)
            minus_size = line - above - above  # -|z|
            tail = simd.log1p(simd.exp(minus_size))
            simd.put(loss, i, above - line * simd.get(y, i, count) + tail, count)


@jit(parallel=True)
def _binary_grad(z, y, g, dz, _, parts):
    lines = (z.size + 15) // 16
    for part in prange(parts):
        for i in range(part * lines // parts * 16, (part + 1) * lines // parts * 16, 16):
            count = min(16, z.size - i)
            line = simd.sigmoid(simd.get(z, i, count)) - simd.get(y, i, count)
            simd.put(dz, i, line * simd.get(g, i, count), count)
