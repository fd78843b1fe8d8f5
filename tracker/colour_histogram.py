"""Where the target's colours are: a histogram of the target against one of what surrounds it.

    colours = ColourHistogram(crop, (40, 32))       # target of height, width in a crop (S, S, 3)
    scores = colours.respond(crop, cells)           # (cells, cells), 0 to 1, as a filter responds
    colours.learn(crop)

A correlation filter knows how the target's parts are arranged, and fails when that changes; its
colours stay the same then (Bertinetto et al.: Staple, CVPR 2016). The likelihood that a pixel is
the target's is Bayes' rule on two histograms; a place scores the mean of a box around it, which an
integral image gives for all places at once.
"""
from __future__ import annotations

import numpy as np

from kernels.pool2d import avg_pool2d

BINS = 16               # of each channel
RATE = .04              # at which the histograms follow
INSIDE = .8             # of the target's box, for pixels that are surely its own
OUTSIDE = 1.05          # of the box, beyond which pixels are surely not
SCORED = .9             # of the box, over which likelihoods are averaged
POOL = 2                # pixels of a crop, each way, that are looked at as one: their mean
FLOOR = 1e-5            # what a colour never seen counts, in both histograms


class ColourHistogram:
    """crop (S, S, 3), BGR 0 to 255, with the target in its middle; size: its height and width."""

    def __init__(self, crop, size):
        side = crop.shape[0]
        distance = np.abs(np.arange(0, side, POOL) + POOL / 2 - side / 2)
        near = [[distance < part * s / 2 for s in size] for part in (INSIDE, OUTSIDE)]
        self.inside, inner = (np.logical_and.outer(*axes).ravel() for axes in near)
        self.outside = ~inner
        self.size = size
        self.target = self.background = None
        self.learn(crop)

    def learn(self, crop):
        """Let the histograms follow a crop in which the target is centred."""
        bins = bin_numbers(crop).ravel()
        target, background = (
            np.bincount(bins[where], minlength=BINS ** 3) / max(where.sum(), 1)
            for where in (self.inside, self.outside))
        if self.target is None:
            self.target, self.background = target, background
        self.target += RATE * (target - self.target)
        self.background += RATE * (background - self.background)
        self.likelihood = ((self.target + FLOOR) /
                           (self.target + self.background + 2 * FLOOR)).astype(np.float32)

    def respond(self, crop, cells):
        """Mean likelihood of the target's box at each shift by whole cells: (cells, cells).

        Shift [0, 0] is no motion, and shifts are circular, as a filter's responses."""
        likelihood = self.likelihood[bin_numbers(crop)]                 # (s, s), s = S/POOL
        side = len(likelihood)
        integral = np.zeros((side + 1, side + 1))
        integral[1:, 1:] = likelihood.cumsum(0, dtype=np.float64).cumsum(1)
        middle = side / 2 + np.fft.fftfreq(cells, 1 / cells) * (side / cells)
        reach = [SCORED * s / POOL / 2 for s in self.size]
        (top, bottom), (left, right) = (
            np.clip(np.rint([middle - r, middle + r]), 0, side).astype(int) for r in reach)
        total = (integral[np.ix_(bottom, right)] - integral[np.ix_(top, right)]
                 - integral[np.ix_(bottom, left)] + integral[np.ix_(top, left)])
        area = (bottom - top)[:, None] * (right - left)
        return (total / np.maximum(area, 1)).astype(np.float32)


def bin_numbers(crop):
    """The bins of pixels: (S, S, 3) of 0 to 255 -> (S/POOL, S/POOL) whole numbers."""
    levels = (avg_pool2d(crop[None], POOL)[0] * (BINS / 256)).astype(np.intp)
    return (levels[..., 0] * BINS + levels[..., 1]) * BINS + levels[..., 2]
