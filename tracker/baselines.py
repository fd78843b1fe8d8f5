"""Two trackers that never look at a picture. One that is worth having beats both.

Their scores say how easy a set of sequences is: how much the targets stay, and how much they move
on straight lines.
"""

import numpy as np

from tracker import State
from tracker.boxes import (
    as_tuple,
    check_box,
    check_frame,
    check_started,
    from_centre,
    to_centre,
)


class KeepFirst:
    """The target never moves: every frame gets the first box."""

    def __init__(self):
        self._box = None

    def init(self, frame, box):
        self._box = as_tuple(check_box(box, check_frame(frame)))

    def update(self, frame):
        check_started(self._box)
        check_frame(frame)
        return State(self._box, confidence=0.0, lost=False)


class ConstantVelocity:
    """The target keeps its size and goes on with its first velocity, the centre kept in the frame.

    A velocity needs two boxes, and this tracker cannot measure one itself: observe() tells it
    where the target was once more. The evaluation calls it with the second annotated box, which
    is an advantage over every other tracker (they get one box). Unobserved, the velocity is 0.
    """

    def __init__(self):
        self._box = None    # cx, cy, w, h

    def init(self, frame, box):
        self._box = to_centre(check_box(box, check_frame(frame)))
        self._velocity = np.zeros(2)    # pixels a frame
        self._centre = self._box[:2]    # where the straight line has come to, inside or not

    def observe(self, box, frames):
        """The target is at `box` `frames` frames after the one of init(); call before update()."""
        check_started(self._box)
        self._velocity = (to_centre(box)[:2] - self._box[:2]) / frames

    def update(self, frame):
        check_started(self._box)
        height, width = check_frame(frame).shape[:2]
        self._centre = self._centre + self._velocity
        self._box[:2] = np.clip(self._centre, 0, (width, height))
        return State(as_tuple(from_centre(self._box)), confidence=0.0, lost=False)
