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
FIRST = .1              # the least weight of the first one, which surely shows the target
PEAK = .12              # deviation of the Gaussian y, in sizes of the target
RIDGE = 5e-6            # λ, in squared lengths of the first sample
SLOPE = 4.              # of the mask's edge, per cell
AT_FIRST = 40           # steps on the first frame


class CorrelationFilter:
    """The filter, and the memory of samples that it is fitted to.

    samples (K, n, n, C): features in which the target is centred, of its first frame, the first
    of them as it is (the others are variations). weights (K,), which add up to 1. size: height and
    width of the target in cells. dtype float64 is for tests."""

    def __init__(self, samples, weights, size, dtype=np.float32):
        count, self.n, _, channels = samples.shape
        self.dtype = np.dtype(dtype)
        self.mask = soft_box(self.n, size).astype(dtype)[..., None]             # (n, n, 1)
        self.target = self.spectrum(peak(self.n, PEAK * (size[0] * size[1]) ** .5)[..., None])
        self.ridge = RIDGE * float((np.asarray(samples[0], np.float64) ** 2).sum())
        capacity = max(MEMORY, count)
        shape = capacity, self.n, self.n // 2 + 1, channels
        self.memory = np.zeros(shape, np.result_type(dtype, np.complex64))
        self.weights = np.zeros(capacity, dtype)
        self.memory[:count], self.weights[:count] = self.spectrum(samples), weights
        self.filter = np.zeros((self.n, self.n, channels), dtype)
        self.solve(AT_FIRST)

    def spectrum(self, x):
        """(..., n, n, C) -> (..., n, n//2 + 1, C) complex; the other half is its mirror image."""
        return fft.rfft2(np.asarray(x, self.dtype), axes=(-3, -2))

    def respond(self, features):
        """How well the target's filter fits at each shift: (N, n, n, C) -> (N, n, n).

        Shift [0, 0] is no motion, [-1, 0] one cell up; shifts are circular."""
        spectra = self.spectrum(features)
        return fft.irfft2((spectra * self.filter_spectrum.conj()).sum(-1), (self.n, self.n),
                          axes=(1, 2))

    def remember(self, features):
        """Put a sample (n, n, C) in the place of the one that weighs least."""
        self.weights *= 1 - RATE
        lightest = 1 + int(self.weights[1:].argmin())
        self.memory[lightest] = self.spectrum(features)
        self.weights[lightest] = RATE
        self.weights /= self.weights.sum()
        if self.weights[0] < FIRST:
            self.weights[1:] *= (1 - FIRST) / self.weights[1:].sum()
            self.weights[0] = FIRST

    def solve(self, steps):
        """So many steps of conjugate gradients towards the filter that fits the memory."""
        used = self.weights > 0
        memory, weights = self.memory[used], self.weights[used]
        flat = parts(memory).reshape(len(memory), -1, memory.shape[-1], 2)      # (K, Q, C, 2)

        def normal(f):
            """(Σ a·Xᵀ X + λ) f, the left side of the normal equations."""
            spectrum = self.spectrum(f * self.mask)
            acted = gram(flat, weights, parts(spectrum).reshape(flat.shape[1:]))
            return self._back(acted.view(spectrum.dtype).reshape(spectrum.shape)) + self.ridge * f

        right = self._back(np.tensordot(weights, memory, 1) * self.target)
        f = self.filter
        residual = right - normal(f)
        direction, length = residual, float((residual ** 2).sum())
        enough = 1e-12 * float((right ** 2).sum())
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
        self.filter_spectrum = self.spectrum(f * self.mask)

    def _back(self, spectrum):
        """A spectrum back on the cells, through the mask: (n, n//2 + 1, C) -> (n, n, C)."""
        return fft.irfft2(spectrum, (self.n, self.n), axes=(0, 1)) * self.mask


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
