"""A filter that answers with a peak where the target is: ridge regression over past samples.

    filter = CorrelationFilter(samples, weights, (10, 8))   # features (K, n, n, C) of the target
    responses = filter.respond(features)                    # (N, n, n, C) -> (N, n, n)
    filter.remember(features[0])                            # what the target looks like now
    filter.solve(5)

The filter f solves  min Σ_k a_k·|x_k ⋆ (m·f) - y|² + λ·|f|²,  where (x ⋆ f)[s] = Σ_u,c x[u+s,c]·f[u,c]
is a circular correlation, y a peak at shift 0, and the mask m leaves f only the cells that the
target covers: what stands around it may be looked at, but not relied on (Galoogahi et al., BACF,
2017; Lukezic et al., CSR-DCF, 2017). A few steps of conjugate gradients, begun from the filter
before, follow the memory as it changes (Danelljan et al., ECO, 2017). All on the CPU, with NumPy
arrays: a step is a few hundred small Fourier transforms.
"""
from __future__ import annotations

import numpy as np
from scipy import fft

from kernels.gram import gram

MEMORY = 12             # samples kept
RATE = .03              # the weight of a new one
PEAK = .12              # deviation of the Gaussian y, in sizes of the target
RIDGE = 5e-6            # λ, in squared lengths of the first sample
SLOPE = 4.              # of the mask's edge, per cell
AT_FIRST = 40           # steps on the first frame
BARELY = 1e-3           # what the mask has to be for a cell to matter


class CorrelationFilter:
    """The filter, and the memory of samples that it is fitted to.

    samples (K, n, n, C): features in which the target is centred, of its first frame, the first
    of them as it is (the others are variations). weights (K,), which add up to 1. size: height and
    width of the target in cells. dtype float64 is for tests.

    Where the mask is 0 the filter is nothing: only its h x w cells around the target are kept, and
    so few that a matrix product is the quickest Fourier transform."""

    def __init__(self, samples, weights, size, dtype=np.float32):
        count, n, _, channels = samples.shape
        self.n, self.dtype = n, np.dtype(dtype)
        mask = soft_box(n, size)
        rows, columns = (np.flatnonzero(mask.max(axis) > BARELY) for axis in (1, 0))
        self.mask = mask[np.ix_(rows, columns)].astype(dtype)[..., None]        # (h, w, 1)
        half = np.arange(n // 2 + 1)
        kind = np.result_type(dtype, np.complex64)
        self.down = np.exp(-2j * np.pi / n * np.outer(np.arange(n), rows)).astype(kind)  # (n, h)
        self.across = np.exp(-2j * np.pi / n * np.outer(half, columns)).astype(kind)     # (v, w)
        twice = np.where((half == 0) | (2 * half == n), 1, 2)   # the half that is not kept
        self.from_across = np.ascontiguousarray((self.across.conj().T * twice / n ** 2).astype(kind))
        self.from_down = np.ascontiguousarray(self.down.conj().T)
        self.target = self.spectrum(peak(n, PEAK * (size[0] * size[1]) ** .5)[..., None])
        self.ridge = RIDGE * float((np.asarray(samples[0], np.float64) ** 2).sum())
        capacity = max(MEMORY, count)
        self.memory = np.zeros((capacity, n, len(half), channels), kind)
        self.weights = np.zeros(capacity, dtype)
        self.memory[:count], self.weights[:count] = self.spectrum(samples), weights
        self.filter = np.zeros((len(rows), len(columns), channels), dtype)
        self.solve(AT_FIRST)

    def spectrum(self, x):
        """(..., n, n, C) -> (..., n, n//2 + 1, C) complex; the other half is its mirror image."""
        return fft.rfft2(np.asarray(x, self.dtype), axes=(-3, -2))

    def respond(self, features):
        """How well the target's filter fits at each shift: (N, n, n, C) -> (N, n, n).

        Shift [0, 0] is no motion, [-1, 0] one cell up; shifts are circular."""
        fits = np.vecdot(self.filter_spectrum, self.spectrum(features))         # (N, n, v)
        return fft.irfft2(fits, (self.n, self.n), axes=(1, 2))

    def remember(self, features):
        """Put a sample (n, n, C) in the place of the one that weighs least.

        The first sample, which surely shows the target, stays. What is replaced takes its weight
        along, so the first one's does not fade: in the end it has about half of all."""
        self.weights *= 1 - RATE
        lightest = 1 + int(self.weights[1:].argmin())           # while there are free places: one
        self.memory[lightest] = self.spectrum(features)
        self.weights[lightest] = RATE
        self.weights /= self.weights.sum()

    def solve(self, steps):
        """So many steps of conjugate gradients towards the filter that fits the memory."""
        used = np.count_nonzero(self.weights)                   # the places fill in order
        weights = self.weights[:used]
        memory = parts(self.memory[:used])                                  # (K, n, v, C, 2)
        flat = memory.reshape(used, -1, *memory.shape[3:])                  # (K, Q, C, 2)

        def normal(f):
            """(Σ a·Xᵀ X + λ) f, the left side of the normal equations."""
            acted = gram(flat, weights, parts(self._there(f)).reshape(flat.shape[1:]))
            return self._back(acted) + self.ridge * f

        mean = (weights @ memory.reshape(used, -1)).reshape(memory.shape[1:])
        right = self._back(mean.view(self.target.dtype)[..., 0] * self.target)
        f = self.filter
        residual = right - normal(f)
        direction, length = residual, float((residual ** 2).sum())
        enough = np.finfo(self.dtype).eps ** 2 * float((right ** 2).sum())
        for _ in range(steps):
            if length <= enough:
                break
            image = normal(direction)
            step = length / float((direction * image).sum())
            f = f + step * direction
            residual = residual - step * image
            before, length = length, float((residual ** 2).sum())
            direction = residual + length / before * direction
        self.filter = f
        self.filter_spectrum = self._there(f)

    def _there(self, f):
        """The masked filter's spectrum: (h, w, C) -> (n, v, C) complex."""
        t = self.across @ (f * self.mask)                                   # (h, v, C)
        return (self.down @ t.reshape(len(t), -1)).reshape(-1, *t.shape[1:])

    def _back(self, spectrum):
        """A spectrum back on the filter's cells: (n, v, C), any shape, -> (h, w, C).

        The adjoint of _there, up to the spectrum's other half."""
        t = self.from_down @ spectrum.view(self.down.dtype).reshape(self.n, -1)
        t = self.from_across @ t.reshape(len(t), len(self.across), -1)      # (h, w, C)
        return t.real * self.mask


def parts(z):
    """A complex array as a real one with a last axis of 2: real and imaginary part."""
    return z.view(z.real.dtype).reshape(*z.shape, 2)


def peak(n, deviation):
    """y: a Gaussian (n, n) on circular distances in cells, 1 at [0, 0]."""
    distance = fft.fftfreq(n, 1 / n)
    line = np.exp(-distance ** 2 / (2 * deviation ** 2))
    return line[:, None] * line


def soft_box(n, size):
    """m: 1 within a box of `size` = height, width in the middle of (n, n) cells, 0 outside."""
    distance = np.abs(np.arange(n) - (n - 1) / 2)
    down, across = (1 / (1 + np.exp(np.clip((distance - s / 2) * SLOPE, -50, 50))) for s in size)
    return down[:, None] * across
