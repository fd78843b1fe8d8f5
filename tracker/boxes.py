"""Boxes: x, y, w, h in pixels, floats, 0-based, x and y the top-left corner.

Every function takes one box (4,) or many (..., 4) and broadcasts; all arithmetic is float64. A
row with nan (the target is absent) gives nan. The checks at the end are for the inputs of every
tracker: they let good values through and name what is wrong with bad ones.
"""

import numpy as np


LARGEST = 4     # times the frame's side: what no target is


def iou(a, b):
    """Intersection over union, in [0, 1]: a (..., 4), b (..., 4) -> (...).

    A box without area overlaps nothing: 0.
    """
    a, b = _boxes(a), _boxes(b)
    low = np.maximum(a[..., :2], b[..., :2])                         # (..., 2)
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    intersection = np.maximum(high - low, 0).prod(-1)                # (...)
    union = a[..., 2:].clip(0).prod(-1) + b[..., 2:].clip(0).prod(-1) - intersection
    # x + w - x may exceed w by a rounding: without the bound a perfect box could score 1 + 2e-16
    return np.minimum(np.where(union == 0, 0, intersection / np.where(union == 0, 1, union)), 1)


def centre(boxes):
    """Centres: (..., 4) -> (..., 2) as x, y."""
    boxes = _boxes(boxes)
    return boxes[..., :2] + boxes[..., 2:] / 2


def centre_distance(a, b):
    """Distance of the centres in pixels: (..., 4), (..., 4) -> (...)."""
    return np.hypot(*np.moveaxis(centre(a) - centre(b), -1, 0))


def to_centre(boxes):
    """x, y, w, h -> cx, cy, w, h; (..., 4) -> (..., 4)."""
    boxes = _boxes(boxes)
    return np.concatenate([centre(boxes), boxes[..., 2:]], -1)


def from_centre(boxes):
    """cx, cy, w, h -> x, y, w, h; (..., 4) -> (..., 4)."""
    boxes = _boxes(boxes)
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:]], -1)


def clip(boxes, width, height):
    """The part of each box inside an image of width x height pixels; (..., 4) -> (..., 4).

    A box wholly outside becomes one of size 0 on the border.
    """
    boxes, size = _boxes(boxes), np.array([width, height], np.float64)
    low = np.clip(boxes[..., :2], 0, size)
    high = np.clip(boxes[..., :2] + boxes[..., 2:], 0, size)
    return np.concatenate([low, high - low], -1)


def as_tuple(box):
    """A box (4,) as four Python floats, as State.box wants it."""
    x, y, w, h = (float(v) for v in box)
    return x, y, w, h


def check_frame(frame, size=None):
    """The frame itself if it is a uint8 array (H, W, 3); otherwise TypeError or ValueError.

    size: the height and width that it must have, those of the frame that tracking began on."""
    if not isinstance(frame, np.ndarray):
        hint = " (a file that cv2.imread could not read gives None)" if frame is None else ""
        raise TypeError("a frame is a NumPy array (height, width, 3) of uint8 in BGR order, "
                        f"not {type(frame).__name__}{hint}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        hint = ("; cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) makes three channels of one"
                if frame.ndim == 2 else
                "; frame[..., :3] drops the alpha channel"
                if frame.ndim == 3 and frame.shape[2] == 4 else "")
        raise ValueError("a frame has shape (height, width, 3), none of them 0, "
                         f"not {frame.shape}{hint}")
    if frame.dtype != np.uint8:
        raise TypeError(f"a frame is uint8 with values 0..255, not {frame.dtype}; for floats in "
                        "[0, 1]: (frame * 255).round().astype(np.uint8)")
    if size is not None and frame.shape[:2] != tuple(size):
        raise ValueError(f"the frame has {frame.shape[1]} x {frame.shape[0]} pixels, the first one had "
                         f"{size[1]} x {size[0]}; resize it, or call init() again")
    return frame


def check_box(box, frame):
    """The box as (4,) float64 if it can be tracked from in `frame`; otherwise ValueError.

    It must be four finite numbers x, y, w, h with w, h > 0, and overlap the frame.
    """
    try:
        values = np.array([float(v) for v in box], np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,):
        raise ValueError(f"a box is four numbers x, y, w, h in pixels, not {box!r}")
    if not np.isfinite(values).all():
        raise ValueError(f"a box must be finite, not {as_tuple(values)}: the target has to be "
                         "visible in the frame that a tracker starts on")
    x, y, w, h = as_tuple(values)
    if w <= 0 or h <= 0:
        raise ValueError(f"a box needs a positive width and height, not w={w:g}, h={h:g}; boxes "
                         "are x, y, w, h (corner and size), not two corners")
    height, width = frame.shape[:2]
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g} lies outside the frame of "
                         f"{width} x {height} pixels")
    if w > LARGEST * width or h > LARGEST * height:
        raise ValueError(f"the box w={w:g}, h={h:g} is more than {LARGEST} times as large as the frame "
                         f"of {width} x {height} pixels")
    return values


def check_started(box):
    """`box` unless it is None, which is what a tracker holds before init()."""
    if box is None:
        raise RuntimeError("update() before init(): call tracker.init(frame, (x, y, w, h)) on "
                           "the first frame")
    return box


def _boxes(boxes):
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes have shape (..., 4) as x, y, w, h, not {boxes.shape}")
    return boxes
