"""A detector of whatever moves before a camera that stands still, to start tracks without boxes.

    detect = MovingThings()
    boxes, scores = detect(frame)       # (D, 4) x, y, w, h in pixels; (D,), how solid each is

Each pixel has a mixture of the colours that it usually shows; what is none of them is in front
(Zivkovic 2004, OpenCV's MOG2). Connected regions of such pixels are things. It knows nothing of what
it sees: things that touch are one, and what stands still for long becomes background.
"""
import numpy as np

from tracker.boxes import check_frame
from tracker.opencv import import_cv2

HISTORY = 300           # frames in which what stands still becomes background
LEAST = 1 / 1000        # of the frame's area, of a thing
GAP = 1 / 25            # of the frame's shorter side: smaller gaps within a thing are closed
SOLID = .3              # part of its box that a thing fills, at least
LARGEST = .5            # of the frame: more has changed than a thing, the camera moved or the light


class MovingThings:
    """See the head of this file. It takes the first frame to be empty."""

    def __init__(self):
        self._model = import_cv2().createBackgroundSubtractorMOG2(HISTORY, 16, detectShadows=True)

    def __call__(self, frame):
        cv2 = import_cv2()
        changed = (self._model.apply(check_frame(frame)) == 255).astype(np.uint8)   # no shadows
        area, gap = changed.size, max(int(min(changed.shape) * GAP), 1)
        changed = cv2.medianBlur(changed, 3)
        changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8))
        _, _, regions, _ = cv2.connectedComponentsWithStats(changed)
        boxes, pixels = regions[1:, :4].astype(float), regions[1:, 4]       # 0 is the background
        solid = pixels / boxes[:, 2:].prod(1)
        good = (pixels >= LEAST * area) & (solid >= SOLID) & (pixels.sum() < LARGEST * area)
        return boxes[good], solid[good]
