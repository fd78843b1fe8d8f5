"""How much larger the target is than its box, from one look at another size.

    scaling = Scaling()
    growth = scaling.of(heights, scales)    # the factor for the box; about 1
    scaling.follow(heights, scales)         # after each frame

The response is highest for a crop of the target's own size. To let the tracker jump to the higher of
two is too coarse: sizes change by less than a step in most frames, and where noise decides, they go
back and forth. But near its top the height falls as a parabola does: for a crop e^g times as large as
at scale 1 (the box's), with a target e^d times as large as its box,

    height(g) = top (1 - c (g - d)^2),  so  change = (height(g) - height(0)) / height(0) = c (2 g d - g^2)

to first order. Looking in turn larger and smaller, 2 g d cancels in the mean, which tells the curvature
c. One look then gives d = g/2 + change / (2 c g). It is noisy: only PART of it is believed at a time.
"""
from __future__ import annotations

import math

PART = .25                  # of a measured growth that the size follows
CURVATURE, RATE = 3.4, .05  # c before any look; at which it follows
LEAST = .7                  # of c: that of a response without a top


class Scaling:
    """curvature: a running mean of c."""

    def __init__(self):
        self.curvature = CURVATURE

    def of(self, heights, scales):
        """The factor for the box: PART of the way to the target's size, but no further than the
        other crop's. heights, scales: of two crops, the first at scale 1; of one: 1."""
        if len(scales) == 1:
            return 1.
        step = math.log(scales[1])
        measured = step / 2 + change(heights) / (2 * max(self.curvature, LEAST) * step)
        return math.exp(min(max(PART * measured, -abs(step)), abs(step)))

    def follow(self, heights, scales):
        """Let the curvature follow what was seen, unless it is no parabola's near its top."""
        if len(scales) == 2 and heights[0] / 2 < heights[1] < 2 * heights[0]:
            self.curvature -= RATE * (self.curvature + change(heights) / math.log(scales[1]) ** 2)


def change(heights):
    """From the first height to the second, relative to the first."""
    return float(heights[1] - heights[0]) / max(float(heights[0]), 1e-3)
