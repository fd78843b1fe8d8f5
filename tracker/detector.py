"""Finding a target again that was lost: a few places of every frame are looked at, best guess first.

    detector = Detector()
    detector.start(tracker, frame)                  # when the target is lost
    places = detector.places(tracker, frame)        # in every frame after: where else to look, and
    found, confidence = detector.choose(tracker, found)     # what all that was found there means

What was fitted to the target while it was surely there (the tracker's filter and histogram, which
rest while it is lost) is the classifier; any object can be found again, and nothing is trained.
Candidates are the places where the frame has the target's colours, and, for targets that have no
colour of their own, a grid over the whole frame, from the inside out, at three sizes in turn. The
filter answers at LOOKS of them in a frame, so that a frame never takes much longer than others. What
answers best away from its crop's middle is looked at again in the next frame, there in the middle.
"""
from __future__ import annotations

import numpy as np

from tracker.colour_histogram import BINS
from tracker.confidence import fade

LOOKS = 3               # places in each frame
STEP = 1.5              # from one place of the grid to the next, in sizes of the target
SIZES = (1., 1.2, 1 / 1.2)      # relative to when it was lost; one round over the grid each
NEAR, FAR = 1.5, 4.     # sizes from where it is expected; so many times the doubt counts beyond
OFF = .3                # sizes of the target, from which on a candidate is not in the middle
SAMPLES = 10            # of the frame across the target, for its colours


class Detector:
    """Where to look next; see the head of this file."""

    def start(self, tracker, frame):
        """Begin where the target was seen last."""
        self.grid, self.looked = self._grid(tracker, frame.shape), 0    # at so many places of it
        self.turn, self.again = 0, []

    def places(self, tracker, frame):
        """Up to LOOKS + 1 pairs of a place (2,), x and y in pixels, and the target's size there."""
        self.turn += 1
        alike = []
        if tracker.histogram is not None:
            alike = alike_places(frame, tracker.histogram, tracker.first * tracker.size, 3)
        chosen = [(alike[self.turn % len(alike)], 1.)] if len(alike) else []
        chosen += [self._next() for _ in range(LOOKS - len(chosen))]
        return self.again + [(place, tracker.size * size) for place, size in chosen]

    def choose(self, tracker, found):
        """The best of what was found where the target is expected and then at places().

        -> (Found, confidence that it is the target)."""
        first, best = found[0], max(found, key=expected)
        confidence = tracker.confidence.of(best)
        self.again = []
        if np.hypot(*best.shift) > OFF * tracker.target_size * best.scale:
            size = best.side / tracker.side * tracker.size * best.scale
            self.again = [(best.centre + best.shift, size)]
        away = best.centre + best.shift - first.centre
        if np.hypot(*away) > NEAR * tracker.target_size:    # look-alikes stand all over the frame
            confidence = max(0., 1 - FAR * (1 - confidence))
        return best, confidence

    @staticmethod
    def _grid(tracker, shape):
        """Places all over the frame (k, 2), the nearest to where the target was first."""
        step = STEP * tracker.target_size
        height, width = shape[:2]
        x, y = ((np.arange(max(round(n / step), 1)) + .5) * n / max(round(n / step), 1)
                for n in (width, height))
        places = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        return places[np.hypot(*(places - tracker.centre).T).argsort()]

    def _next(self):
        """The next place of the grid and the size to look for there; one round for each of SIZES."""
        turn, number = divmod(self.looked, len(self.grid))
        self.looked += 1
        return self.grid[number], SIZES[turn % len(SIZES)]


def expected(found):
    """The response that a second look, with the candidate in the middle, can be hoped to give."""
    return found.peak / max(fade(found), .2)


def alike_places(frame, histogram, size, most):
    """The places of a frame that look most like the target by colour: (k, 2) x, y, k <= most.

    size (2,): of the target, in pixels. The score of a place is the mean likelihood of a box."""
    step = max(int(size.min() / SAMPLES), 1)
    levels = frame[::step, ::step] // (256 // BINS)
    levels = levels.astype(np.intp)
    likelihood = histogram.likelihood[(levels[..., 0] * BINS + levels[..., 1]) * BINS
                                      + levels[..., 2]]                     # (h, w)
    w, h = (min(max(round(s / step), 1), n) for s, n in zip(size, likelihood.shape[::-1]))
    integral = np.pad(likelihood.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    score = (integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w])
    found = []
    for _ in range(most):
        y, x = np.unravel_index(score.argmax(), score.shape)
        if score[y, x] < .4 * w * h:
            break
        found.append(((x + w / 2) * step, (y + h / 2) * step))
        score[max(y - h, 0):y + h, max(x - w, 0):x + w] = 0
    return np.array(found).reshape(-1, 2)
