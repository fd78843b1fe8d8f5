"""Frequency by frequency: the memory is read once, not twice, and as plain real vectors.

At one frequency the filter and a sample are 2·C real numbers each, which stay in the innermost cache
between the product and its way back. With J(z) = i·z, two real inner products make a complex one,
conj(x)·f = <x, f> - i·<x, J f>, and Σ (r + i·s)·x = Σ r·x + J(Σ s·x): J is applied once to the filter
and once to the sum, and in between no real part meets an imaginary one.
"""

import numpy as np

from kernels.gram import gram
from kernels.jit import jit, plain, prange, usable
from kernels.ladder import rung


@rung(gram, device="cpu", why="one pass over the memory instead of two, in vectors")
def compiled(x, a, f):
    samples, frequencies, channels, _ = x.shape
    g = np.empty(f.shape, f.dtype)
    flat = samples, frequencies, 2 * channels
    _act(plain(x).reshape(flat), plain(a), plain(f).reshape(flat[1:]), g.reshape(flat[1:]))
    return g


@compiled.needs
def _(x, a, f):
    return usable(x, a, f)


@jit(parallel=True, fastmath=True)
def _act(x, a, f, g):
    samples, frequencies, doubled = x.shape
    for q in prange(frequencies):
        turned = np.empty(doubled, f.dtype)                 # J f
        for c in range(doubled // 2):
            turned[2 * c], turned[2 * c + 1] = -f[q, 2 * c + 1], f[q, 2 * c]
        real, imaginary = np.zeros(doubled, f.dtype), np.zeros(doubled, f.dtype)
        for k in range(samples):
            r = s = a.dtype.type(0)
            for c in range(doubled):
                r += x[k, q, c] * f[q, c]
                s += x[k, q, c] * turned[c]
            r, s = r * a[k], -s * a[k]
            for c in range(doubled):
                real[c] += r * x[k, q, c]
                imaginary[c] += s * x[k, q, c]
        for c in range(doubled // 2):
            g[q, 2 * c] = real[2 * c] - imaginary[2 * c + 1]
            g[q, 2 * c + 1] = real[2 * c + 1] + imaginary[2 * c]
