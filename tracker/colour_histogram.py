"""Where the target's colours are: a histogram of the target against one of what surrounds it.

    colours = ColourHistogram(crop, (40, 32))       # target of height, width in a crop (S, S, 3)
    scores = colours.respond(crop, cells)           # (cells, cells), 0 to 1, as a filter responds
    colours.learn(crop)

A correlation filter knows how the target's parts are arranged, and fails when that changes; its
colours stay the same then (Bertinetto et al.: Staple, CVPR 2016). The likelihood that a pixel is
the target's is Bayes' rule on two histograms; a place scores the mean of a box around it, which is
a mean of rows, then of columns: two matrix products for all places at once.
"""
from __future__ import annotations

import functools

import numpy as np

BINS = 16               # of each channel
RATE = .04              # at which the histograms follow
INSIDE = .8             # of the target's box, for pixels that are surely its own
OUTSIDE = 1.05          # of the box, beyond which pixels are surely not
SCORED = .9             # of the box, over which likelihoods are averaged
POOL = 2                # pixels of a crop, each way, that are looked at as one: their mean
SHARE = BINS / 256 / POOL ** 2  # of a pixel's 0 to 255 in its bin's number
FLOOR = 1e-5            # what a colour never seen counts, in both histograms


class ColourHistogram:
    """crop (S, S, 3), BGR 0 to 255, with the target in its middle; size: its height and width."""

    def __init__(self, crop, size):
        side = crop.shape[0]
        distance = np.abs(np.arange(0, side, POOL) + POOL / 2 - side / 2)
        near = [[distance < part * s / 2 for s in size] for part in (INSIDE, OUTSIDE)]
        inside, inner = (np.logical_and.outer(*axes) for axes in near)
        self.inside, self.outside = np.flatnonzero(inside), np.flatnonzero(~inner)
        self.size = size
        self.target = self.background = None
        self.learn(crop)

    def learn(self, crop):
        """Let the histograms follow a crop in which the target is centred."""
        bins = bin_numbers(crop).ravel()
        target, background = (
            np.bincount(bins[where], minlength=BINS ** 3) / max(where.size, 1)
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
        likelihood = self.likelihood.take(bin_numbers(crop))            # (s, s), s = S/POOL
        down, across = (means(len(likelihood), SCORED * s / POOL, cells) for s in self.size)
        return down @ likelihood @ across.T


@functools.lru_cache(maxsize=64)
def means(side, extent, cells):
    """(cells, side): times a line of `side` numbers, the mean of `extent` of them around its middle,
    at each circular shift by whole cells."""
    middle = side / 2 + np.fft.fftfreq(cells, 1 / cells)[:, None] * (side / cells)
    begin, end = (np.clip(np.rint(middle + r), 0, side) for r in (-extent / 2, extent / 2))
    number = np.arange(side)
    return ((begin <= number) & (number < end)).astype(np.float32) / np.maximum(
        end - begin, 1).astype(np.float32)


def bin_numbers(crop):
    """The bins of pixels: (S, S, 3) of 0 to 255, S a multiple of POOL -> (S/POOL, S/POOL) whole
    numbers."""
    crop = crop.astype(np.float32, copy=False)          # bytes would overflow
    rows = sum(crop[r::POOL] for r in range(POOL))
    numbers = 0
    for channel in range(3):
        level = sum(rows[:, c::POOL, channel] for c in range(POOL)) * np.float32(SHARE)
        numbers = numbers * BINS + level.astype(np.intp)
    return numbers
