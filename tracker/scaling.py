"""How large the target has become, from one look at another size.

    scaling = Scaling()
    growth = scaling.of(heights, scales)    # the target's, since the last frame; about 1
    scaling.follow(heights)                 # after each frame

The response is highest for a crop of the target's own size. To let the tracker jump to the higher of
two is too coarse: sizes change by less than a step in most frames, and where noise decides, they go
back and forth. But near its top the height falls as a parabola does: for a crop e^g times as large as
at scale 1, with a target that has grown by e^d,

    height(g) = top (1 - c (g - d)^2),  so  change = (height(g) - height(0)) / height(0) = c (2 g d - g^2)

to first order. Looking in turn larger and smaller, 2 g d cancels in the mean, and the mean fall of the
height, c g^2, tells the curvature c. One look then gives d = g/2 (1 + change / fall). It is noisy: only
PART of it is believed at a time.
"""
from __future__ import annotations

import numpy as np

PART = .25              # of a measured growth that the size follows
FALL, RATE = .02, .05   # the fall of the height: before any look; at which it follows
LEAST = .004            # of the fall: that of a response without a top


class Scaling:
    """fall: the running mean of how far the height falls at the other size, a part of the height."""

    def __init__(self):
        self.fall = FALL

    def of(self, heights, scales):
        """The target's growth. heights, scales: of two crops, the first at scale 1; of one: 1."""
        if len(scales) == 1:
            return 1.
        step = np.log(scales[1])
        measured = step / 2 * (1 + change(heights) / max(self.fall, LEAST))
        return float(np.exp(np.clip(PART * measured, -abs(step), abs(step))))

    def follow(self, heights):
        """Let the usual fall follow what was seen."""
        if len(heights) == 2:
            self.fall -= RATE * (self.fall + change(heights))


def change(heights):
    """From the first height to the second, relative to the first."""
    return float(heights[1] - heights[0]) / max(float(heights[0]), 1e-3)
