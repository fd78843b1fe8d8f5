"""Drawing on frames: box, confidence, trail, frame number, LOST, and contact sheets.

Everything is drawn on a copy that is first resized by `scale`, so that lines and letters stay
sharp and legible however small the frame was. Boxes and trails are given in pixels of the
original frame.
"""

import math
from itertools import pairwise

import numpy as np

from tracker.boxes import centre
from tracker.opencv import import_cv2

FOUND = (80, 220, 60)       # BGR: green
LOST = (50, 50, 255)        # red
TRUTH = (255, 255, 255)     # white, with black dashes between
TRAIL = (0, 200, 255)       # amber; also what is only predicted


def legible_scale(size):
    """The whole number by which to enlarge frames of size (width, height) for drawing on them."""
    return math.ceil(480 / max(size))


def annotate(frame, state, number, truth=None, trail=(), scale=1):
    """A copy of the frame, resized by `scale`, that shows what the tracker said.

    frame: (H, W, 3) uint8 BGR; state: a tracker.State; number: of the frame; truth: the true box
    x, y, w, h or None (rows of nan count as None); trail: centres (x, y), oldest first.
    Returns (round(H*scale), round(W*scale), 3) uint8.
    """
    cv2 = import_cv2()
    height, width = (max(round(n * scale), 1) for n in frame.shape[:2])
    image = cv2.resize(frame, (width, height),
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    thick = max(round(min(width, height) / 180), 1)
    if len(trail) > 1:
        points = _pixels(np.array(trail) * scale).reshape(-1, 1, 2)
        cv2.polylines(image, [points], False, TRAIL, max(thick - 1, 1), cv2.LINE_AA)
    if truth is not None and np.isfinite(truth).all():
        _dashed(image, np.array(truth) * scale, thick)
    if state.lost and state.predicted is not None:
        _dashed(image, np.array(state.predicted) * scale, thick, TRAIL)
    colour = LOST if state.lost else FOUND
    if np.isfinite(state.box).all():
        box = np.array(state.box) * scale
        low, high = _pixels(box[:2]), _pixels(box[:2] + box[2:])
        cv2.rectangle(image, low.tolist(), high.tolist(), colour, thick)
        label = "LOST" if state.lost else f"{state.confidence:.2f}"
        _label(image, label, low[0], low[1], colour, above=True)
    elif state.lost:
        _label(image, "LOST", 0, height, colour, above=True)
    _label(image, f"{number}", 0, 0, (40, 40, 40))
    return image


class ContactSheet:
    """A grid of annotated frames, spread evenly over a video whose length need not be known.

    Every step-th frame is kept; when there are too many, every second one goes and the step
    doubles. At the end `tiles` of them are chosen.
    """

    def __init__(self, tiles=12, columns=4, width=360):
        self.tiles, self.columns, self.width = tiles, columns, width
        self._kept, self._step = [], 1      # [(number, image)]

    def add(self, frame, state, number, truth=None, trail=()):
        """Offer one frame, with the arguments of annotate(); call it for every frame in turn."""
        if number % self._step:
            return
        scale = self.width / frame.shape[1]
        self._kept.append((number, annotate(frame, state, number, truth, trail, scale)))
        if len(self._kept) >= 8 * self.tiles:
            self._kept = self._kept[::2]
            self._step *= 2

    def image(self):
        """The sheet: (rows*h, columns*w, 3) uint8. Raises ValueError if no frame was offered."""
        if not self._kept:
            raise ValueError("a contact sheet needs at least one frame")
        chosen = np.linspace(0, len(self._kept) - 1, min(self.tiles, len(self._kept)))
        images = [np.pad(self._kept[round(i)][1], ((0, 4), (0, 4), (0, 0))) for i in chosen]
        columns = min(self.columns, len(images))
        images += [np.zeros_like(images[0])] * (-len(images) % columns)
        return np.vstack([np.hstack(images[i:i + columns])
                          for i in range(0, len(images), columns)])


def trail_of(states, length=40):
    """The centres of the last `length` boxes, oldest first: [(x, y), ...]; lost ones left out."""
    return [tuple(centre(s.box)) for s in states[-length:]
            if not s.lost and np.isfinite(s.box).all()]


def _label(image, text, x, y, colour, above=False):
    """Text on a filled plate with its corner at x, y, moved so that all of it is in the image."""
    cv2 = import_cv2()
    size = max(min(image.shape[:2]) / 800, 0.4)
    thick = max(round(size * 1.5), 1)
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
    w, h = w + 8, h + base + 4
    x = min(max(int(x), 0), max(image.shape[1] - w, 0))
    y = min(max(int(y) - h * above, 0), max(image.shape[0] - h, 0))
    cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    ink = (0, 0, 0) if np.dot(colour, (0.1, 0.6, 0.3)) > 128 else (255, 255, 255)
    cv2.putText(image, text, (x + 4, y + h - base - 2), cv2.FONT_HERSHEY_SIMPLEX, size, ink,
                thick, cv2.LINE_AA)


def _dashed(image, box, thick, colour=TRUTH, dash=6):
    """A rectangle of dashes, of the colour and black by turns: it shows on any ground."""
    cv2 = import_cv2()
    x, y, w, h = box
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)])
    for start, end in pairwise(corners):
        dashes = max(round(np.hypot(*(end - start)) / dash / 2), 1)
        stops = _pixels(np.linspace(start, end, 2 * dashes + 1)).tolist()
        for i, (a, b) in enumerate(pairwise(stops)):
            cv2.line(image, a, b, (0, 0, 0) if i % 2 else colour, thick)


def _pixels(points):
    # OpenCV draws with 32-bit integers: a runaway box must not wrap around into the picture
    return np.clip(np.rint(points), -10_000, 30_000).astype(np.int32)
