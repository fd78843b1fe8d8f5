"""Drawing on frames: box, confidence, trail, frame number, LOST; what a search saw; contact sheets.

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
DARK = (40, 40, 40)
PALETTE = ((80, 220, 60), (0, 160, 255), (255, 140, 60), (220, 80, 220), (60, 230, 230),
           (230, 220, 60), (140, 120, 255), (120, 190, 120))    # of several targets, by their numbers
INSIDE = 2 * 160            # pixels that show_inside() adds to the width, at least
HISTORY = 100               # frames that its curves show


def legible_scale(size):
    """The whole number by which to enlarge frames of size (width, height) for drawing on them."""
    return math.ceil(480 / max(size))


def annotate(frame, state, number, truth=None, trail=(), scale=1):
    """A copy of the frame, resized by `scale`, that shows what the tracker said.

    frame: (H, W, 3) uint8 BGR; state: a tracker.State; number: of the frame; truth: the true box
    x, y, w, h or None (rows of nan count as None); trail: centres (x, y), oldest first. Where the
    target is lost, the box predicted for the next frame is dashed.
    Returns (round(H*scale), round(W*scale), 3) uint8.
    """
    image = _resized(frame, scale)
    _draw_trail(image, trail, scale, TRAIL)
    if truth is not None and np.isfinite(truth).all():
        _dashed(image, np.array(truth) * scale)
    _draw_state(image, state, scale, FOUND, f"{state.confidence:.2f}", "LOST")
    _label(image, f"{number}", 0, 0, DARK)
    return image


def annotate_many(frame, states, number, trails=(), scale=1):
    """As annotate(), for several targets: states [(number, State)], trails {number: centres}."""
    image = _resized(frame, scale)
    for name, state in states:
        colour = PALETTE[(name - 1) % len(PALETTE)]
        _draw_trail(image, dict(trails).get(name, ()), scale, colour)
        _draw_state(image, state, scale, colour, f"{name}", f"{name} LOST")
    _label(image, f"{number}", 0, 0, DARK)
    return image


def _resized(frame, scale):
    cv2 = import_cv2()
    height, width = (max(round(n * scale), 1) for n in frame.shape[:2])
    return cv2.resize(frame, (width, height),
                      interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _draw_trail(image, trail, scale, colour):
    if len(trail) > 1:
        cv2 = import_cv2()
        points = _pixels(np.array(trail) * scale).reshape(-1, 1, 2)
        cv2.polylines(image, [points], False, colour, max(_thick(image) - 1, 1), cv2.LINE_AA)


def _draw_state(image, state, scale, colour, label, lost):
    """The box with its label; in red with the label `lost` where the target is lost."""
    colour, label = (LOST, lost) if state.lost else (colour, label)
    if state.lost and state.predicted is not None:
        _dashed(image, np.array(state.predicted) * scale, TRAIL)
    if np.isfinite(state.box).all():
        box = np.array(state.box) * scale
        low, high = _pixels(box[:2]), _pixels(box[:2] + box[2:])
        import_cv2().rectangle(image, low.tolist(), high.tolist(), colour, _thick(image))
        _label(image, label, low[0], low[1], colour, above=True)
    elif state.lost:
        _label(image, label, 0, image.shape[0], colour, above=True)


def inside_width(height):
    """By how many pixels show_inside() widens a picture of that height."""
    return max(2 * (height // 3), INSIDE)


def show_inside(image, found, states, sizes, beliefs=()):
    """The picture with a panel on its right that shows what the tracker's search saw.

    image: (H, W, 3) of annotate(); found: a tracker.correlation.Found, or None before the first
    search; states: all so far, sizes: √(w·h) of each box. Above: the crop that was searched, the box
    that was found in it, and the merged response over it. Below: curves of the last HISTORY frames,
    confidence (0 to 1; red where lost), size against the first one (a half to twice), and, where
    there are any, beliefs: how likely the LSTM held that the target is there.
    Returns (H, W + inside_width(H), 3)."""
    height, width = image.shape[0], inside_width(image.shape[0])
    side = min(width // 2, height // 2)
    panel = np.full((height, width, 3), DARK, np.uint8)
    if found is not None:
        cv2 = import_cv2()
        crop = found.crops[found.best].clip(0, 255).astype(np.uint8)
        response = np.clip(found.merged[found.best], 0, 1) * 255
        heat = cv2.applyColorMap(response.astype(np.uint8), cv2.COLORMAP_VIRIDIS)
        crop, heat = (cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)
                      for picture in (crop, heat))
        middle = side / 2 + found.shift * side / (found.side * found.scale)
        cell = side / len(response)     # the map's middle is that of a cell, right and below of ours
        for picture, place in ((crop, middle), (heat, middle + cell / 2)):
            cv2.drawMarker(picture, _pixels(place).tolist(), (255, 255, 255), cv2.MARKER_CROSS,
                           max(side // 10, 5), 1)
        _label(crop, f"grown x{found.growth:.2f}", 0, 0, DARK)
        _label(heat, f"response {found.peak:.2f}", 0, 0, DARK)
        panel[:side, :side], panel[:side, width - side:] = crop, heat
    lost = [state.lost for state in states]
    curves = [([s.confidence for s in states], 0, 1, "confidence {:.2f}", float),
              (np.log2(np.divide(sizes, sizes[0])), -1, 1, "size x{:.2f}", np.exp2)]
    if len(beliefs):
        curves.append((beliefs, 0, 1, "LSTM: there {:.2f}", float))
    for part, curve in zip(np.array_split(panel[side:], len(curves)), curves):      # views
        _curve(part, lost, *curve)
    return np.hstack([image, panel])


def _curve(image, lost, values, low, high, label, shown):
    """Draw the last values (n,) as a curve from `low` to `high`, in red where lost; the label says
    what the last one is, as shown(value)."""
    cv2 = import_cv2()
    height, width = image.shape[:2]
    values, lost = np.asarray(values, float)[-HISTORY:], lost[-HISTORY:]
    x = np.linspace(0, width - 1, HISTORY)[:len(values)]
    part = (np.clip(values, low, high) - low) / (high - low)
    points = _pixels(np.column_stack([x, (height - 4) - part * (height - 8)])).tolist()
    _label(image, label.format(shown(values[-1])), 0, 0, (90, 90, 90))      # behind the curve
    cv2.line(image, (0, height // 2), (width, height // 2), (80, 80, 80), 1)
    for (a, b), gone in zip(pairwise(points), lost[1:]):
        cv2.line(image, a, b, LOST if gone else FOUND, 1, cv2.LINE_AA)


class ContactSheet:
    """A grid of annotated frames, spread evenly over a video whose length need not be known.

    Every step-th frame is kept; when there are too many, every second one goes and the step
    doubles. At the end `tiles` of them are chosen.
    """

    def __init__(self, tiles=12, columns=4, width=360):
        self.tiles, self.columns, self.width = tiles, columns, width
        self._kept, self._step = [], 1      # [(number, image)]

    def add(self, number, width, picture):
        """Offer one frame, `width` pixels wide; call it for every frame in turn.

        picture(scale=...) draws it; it is only called when the frame is kept."""
        if number % self._step:
            return
        self._kept.append((number, picture(scale=self.width / width)))
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


def _dashed(image, box, colour=TRUTH, dash=6):
    """A rectangle of dashes, of the colour and black by turns: it shows on any ground."""
    cv2 = import_cv2()
    x, y, w, h = box
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)])
    for start, end in pairwise(corners):
        dashes = max(round(np.hypot(*(end - start)) / dash / 2), 1)
        stops = _pixels(np.linspace(start, end, 2 * dashes + 1)).tolist()
        for i, (a, b) in enumerate(pairwise(stops)):
            cv2.line(image, a, b, (0, 0, 0) if i % 2 else colour, _thick(image))


def _thick(image):
    """Of lines, in pixels."""
    return max(round(min(image.shape[:2]) / 180), 1)


def _pixels(points):
    # OpenCV draws with 32-bit integers: a runaway box must not wrap around into the picture
    return np.clip(np.rint(points), -10_000, 30_000).astype(np.int32)
