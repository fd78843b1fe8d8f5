"""Which detection is which target: assignment, and when a target is born.

    fits = similarity(expected, reach, boxes, appearance)       # (targets, detections), 0 to 1
    for target, detection in assign(fits, LEAST): ...

Three things speak for a pair: how much the boxes overlap, how near the detection is to where the
target should be by its motion, and how alike it looks, by the answer of the target's own filter. One
detection belongs to one target: of all one-to-one pairings the most similar one is taken (Kuhn 1955,
with SciPy). What belongs to nobody is a candidate, and a target when it was seen a few times running.
"""
from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.boxes import centre_distance, iou

OVERLAP, MOTION, APPEARANCE = .35, .25, .4      # what each counts in the similarity
LEAST = .4              # similarity of a pair
SAME = .3               # overlap of a candidate with its box a frame before
BIRTH = 3               # frames running in which it is seen, the first included


def similarity(expected, reach, boxes, appearance):
    """expected (T, 4): where targets should be; reach (T,): how uncertain that is, in pixels; boxes
    (D, 4): detections; appearance (T, D), 0 to 1. -> (T, D), 0 to 1; 0 beyond three reaches."""
    expected, boxes = np.reshape(expected, (-1, 1, 4)), np.reshape(boxes, (1, -1, 4))
    away = centre_distance(expected, boxes) / np.reshape(reach, (-1, 1))            # (T, D)
    fits = (OVERLAP * iou(expected, boxes) + MOTION * np.exp(-.5 * away ** 2)
            + APPEARANCE * np.asarray(appearance).reshape(away.shape))
    return np.where(away <= 3, fits, 0)


def assign(fits, least):
    """The pairs (row, column) of the one-to-one pairing with the largest sum, none below `least`."""
    fits = np.where(np.asarray(fits) >= least, fits, 0)     # what is too little does not pair
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(fits, maximize=True))
            if fits[i, j] > 0]


class Candidates:
    """Detections that belong to no target, and for how many frames running each was seen."""

    def __init__(self):
        self.boxes, self.ages = np.empty((0, 4)), np.empty(0, int)

    def see(self, boxes):
        """The unclaimed detections (D, 4) of a frame; -> those that are targets now (k, 4)."""
        boxes = np.reshape(boxes, (-1, 4))
        ages = np.ones(len(boxes), int)
        for before, now in assign(iou(self.boxes[:, None], boxes[None]), SAME):
            ages[now] += self.ages[before]
        born = ages >= BIRTH
        self.boxes, self.ages = boxes[~born], ages[~born]
        return boxes[born]
