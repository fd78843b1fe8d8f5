"""How sure a search is that what it found is the target.

    confidence = Confidence()
    p = confidence.of(found)        # 0 to 1, of a tracker.correlation.Found
    confidence.follow(found)        # after a frame in which it surely was the target

A search always has a highest response, also where the target is hidden. What tells the two apart is
how high and how lonely it is, compared with what is usual for this target (Bolme et al., MOSSE, 2010;
Wang et al., LMCF, 2017). Four such numbers are weighed by a logistic regression, which was fitted to
the tracker's own searches on training sequences with blockers pasted in (tracker.occlusions).
"""
from __future__ import annotations

import math

import numpy as np

RATE = .03              # at which what is usual follows; at first it is a mean
FADED = .05             # the least part of the window that a response is divided by
WEIGHTS = np.array([1.3, -4.5, 7.1, 3.6])   # of the signals, and
BIAS = 3.15                                 # of 1


class Confidence:
    """usual (3,): running means of the filter's peak, the sharpness, and the colours' score."""

    def __init__(self):
        self.usual, self.count = None, 0

    def signals(self, found):
        """(4,): the logarithm of the peak against the usual one, had it been in the middle of the
        window; the second peak against the first; the logarithm of the sharpness against the usual
        one; the colours' score against the usual one."""
        values = measured(found)
        usual = values if self.usual is None else self.usual
        peak, sharp = np.log(values[:2] / usual[:2])
        second = found.second / max(found.peak, 1e-3)
        return np.clip([peak, second, sharp, values[2] / usual[2]], -4, 4)

    def of(self, found):
        """How sure it is, 0 to 1. The first one that it is asked about is taken to be usual."""
        if self.usual is None:
            self.usual = measured(found)
        return 1 / (1 + math.exp(-float(WEIGHTS @ self.signals(found) + BIAS)))

    def follow(self, found):
        """Let what is usual follow what is now seen."""
        self.count += 1
        values = measured(found)
        usual = values if self.usual is None else self.usual
        self.usual = usual + max(RATE, 1 / (self.count + 1)) * (values - usual)


def measured(found):
    """(3,) of a Found: peak (as in the window's middle), sharpness, colours' score; all > 0."""
    return np.maximum([found.peak / fade(found), found.sharpness, found.colour], [1e-3, .1, .05])


def fade(found):
    """What the window left of the response at the place that was found, FADED to 1."""
    part = found.shift / (found.side * found.scale)         # from the middle, -.5 to .5 of the crop
    return max(float((np.cos(np.pi * part) ** 2).prod()), FADED)
