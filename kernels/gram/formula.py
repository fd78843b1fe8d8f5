"""The sums themselves, in complex numbers: the oracle of the other rungs."""

import numpy as np

from kernels.gram import gram
from kernels.ladder import rung


@rung(gram, device="cpu", why="the definition in Python loops")
def formula(x, a, f):
    samples, frequencies, channels, _ = x.shape
    g = np.zeros(f.shape, f.dtype)
    for k in range(samples):
        for q in range(frequencies):
            xs, fs = ([complex(*z) for z in v] for v in (x[k, q], f[q]))
            response = sum(xc.conjugate() * fc for xc, fc in zip(xs, fs))
            for c in range(channels):
                share = a[k] * xs[c] * response
                g[q, c] += [share.real, share.imag]
    return g
