"""Files of boxes, as the benchmarks write them, and writers of two of them.

A box file has a line a frame. Numbers are separated by commas, semicolons, tabs or blanks; a line
that starts with # is a remark; a byte-order mark, carriage returns and empty lines do not matter.

    x,y,w,h                     a box; "nan" in it, or no width or height: the target is absent
    frame,x,y,w,h               the same, for some of the frames only; they count from 0
    x1,y1,x2,y2,x3,y3,x4,y4     a polygon (VOT 2014 to 2019): the upright box around it, as VOT's
                                toolkit has it
    mx,y,w,h,...                a mask (VOT since 2020): the box in its first four numbers

Boxes are taken as they stand, 0-based; one_based=True subtracts the 1 from x and y of files that
count pixels from 1 (OTB's and LaSOT's own files, written by MATLAB, do; nobody's tools care).

MOTChallenge's files have a line a box, frame,id,x,y,w,h,confidence,class,visibility, and count
frames and pixels from 1.
"""

import re
from pathlib import Path

import numpy as np

from tracker.files import write_text

SEPARATORS = r"[,;\s]+"


def read_boxes(path, frames=None, one_based=False, unnoted=np.nan):
    """The boxes of a file: (n, 4) float64, nan rows where the target is absent.

    frames: how many there are, for files that note some of them; unnoted: what is in the rows of the
    others.
    Raises ValueError, naming file and line, for a line that is no box.
    """
    rows, noted, width = [], [], None
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            if line.startswith("m"):
                values = [float(word) for word in re.split(SEPARATORS, line[1:])[:4]]
            else:
                values = [float(word) for word in re.split(SEPARATORS, line)]
            width = width or len(values)
            if len(values) != width or width not in (4, 5, 8):
                raise ValueError
            if width == 5:
                frame, *values = values
                if frame != int(frame):
                    raise ValueError
                noted.append(int(frame))
        except (ValueError, OverflowError):
            raise ValueError(f"{place}: expected numbers x,y,w,h (or frame,x,y,w,h, or the eight "
                             f"of a polygon) in every line, got {_short(line)}") from None
        rows.append(_box(values, place, line))
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    boxes[:, :2] -= one_based
    if not noted:
        return boxes
    total = max(noted) + 1 if frames is None else frames
    if min(noted) < 0 or max(noted) >= total or len(set(noted)) < len(noted):
        raise ValueError(f"{path}: frame numbers have to be from 0 to {total - 1}, each at most "
                         f"once, got {_short(', '.join(map(str, noted)))}")
    sparse = np.full((total, 4), unnoted)
    sparse[noted] = boxes
    return sparse


def _box(values, place, line):
    """Four or eight numbers as x, y, w, h; four nan where the target is absent."""
    if np.isnan(values).any():
        return [np.nan] * 4
    x, y, w, h = values[:4]
    if len(values) == 8:
        x, y = min(values[::2]), min(values[1::2])
        w, h = max(values[::2]) - x, max(values[1::2]) - y
    if not np.isfinite(values).all() or w < 0 or h < 0:
        raise ValueError(f"{place}: a box needs finite numbers and a positive width and height, "
                         f"got {_short(line)}; write nan,nan,nan,nan where the target is absent")
    return [x, y, w, h] if w and h else [np.nan] * 4


def read_flags(path):
    """A file of 0 and 1, a line each or all in one: (n,) bool."""
    words = " ".join(line for _, line in _lines(path))
    try:
        flags = [float(word) for word in re.split(SEPARATORS, words) if word]
    except ValueError:
        raise ValueError(f"{path}: expected a 0 or 1 for every frame, got "
                         f"{_short(words)}") from None
    return np.array(flags, bool)


def read_mot(path, frames=None):
    """A MOTChallenge file: a list with (ids, boxes) of each frame, (k,) int and (k, 4) float64,
    0-based. Lines marked 0 (confidence of a ground truth's line: not to be judged) and those of
    other classes than pedestrians (1), where there is a class, are left out.

    frames: how many there are; None: up to the last one that is mentioned. Raises ValueError,
    naming file and line, for a line that is no box, and for a target that is twice in a frame.
    """
    found = {}
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            frame, target, *values = (float(word) for word in re.split(SEPARATORS, line))
            if len(values) < 4 or frame != int(frame) or target != int(target):
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(f"{place}: expected frame,id,x,y,w,h,..., got "
                             f"{_short(line)}") from None
        frame, target = int(frame), int(target)
        if frame < 1 or frames is not None and frame > frames:
            raise ValueError(f"{place}: frames count from 1" + (f" to {frames}" if frames else "")
                             + f", got {frame}")
        box = _box(values[:4], place, line)
        confidence, kind = [*values[4:6], 1, 1][:2] if len(values) >= 6 else (1, 1)
        if confidence == 0 or kind not in (1, -1) or np.isnan(box).any():
            continue
        if target in found.setdefault(frame, {}):
            raise ValueError(f"{place}: target {target} is twice in frame {frame}")
        found[frame][target] = [box[0] - 1, box[1] - 1, *box[2:]]
    total = max(found, default=0) if frames is None else frames
    return [(np.array(list(boxes), int), np.array(list(boxes.values()), float).reshape(-1, 4))
            for boxes in (found.get(frame, {}) for frame in range(1, total + 1))]


def mot_text(frames):
    """The text of a MOTChallenge result file: frames is a list of (ids, boxes) as read_mot gives
    them, or of (ids, boxes, confidences)."""
    lines = []
    for number, (ids, boxes, *confidences) in enumerate(frames, 1):
        scores = confidences[0] if confidences else np.ones(len(ids))
        for target, (x, y, w, h), score in zip(ids, boxes, scores):
            lines.append(f"{number},{int(target)},{x + 1:.2f},{y + 1:.2f},{w:.2f},{h:.2f},"
                         f"{score:.4g},-1,-1,-1\n")
    return "".join(lines)


def write_mot(path, frames):
    """Write a MOTChallenge result file; see mot_text()."""
    write_text(path, mot_text(frames))


def write_got10k(folder, tracker, sequence, boxes, seconds):
    """Write one track as the GOT-10k toolkit and server read it:

        FOLDER/TRACKER/SEQUENCE/SEQUENCE_001.txt     x,y,w,h a line and frame
        FOLDER/TRACKER/SEQUENCE/SEQUENCE_time.txt    seconds a frame; 0 where not measured

    boxes: (n, 4), none of them nan; seconds: (n,).
    """
    boxes, seconds = np.asarray(boxes, float), np.nan_to_num(np.asarray(seconds, float))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(seconds) \
            or not np.isfinite(boxes).all():
        raise ValueError(f"{sequence}: a result has a finite box and a time for every frame, not "
                         f"boxes of shape {boxes.shape} ({np.isnan(boxes).any(-1).sum()} with "
                         f"nan) and {len(seconds)} times")
    place = Path(folder) / tracker / sequence
    write_text(place / f"{sequence}_001.txt",
           "".join(",".join(f"{v:.3f}" for v in box) + "\n" for box in boxes))
    write_text(place / f"{sequence}_time.txt", "".join(f"{t:.6f}\n" for t in seconds))


def _lines(path):
    """(line number, line) of those that say something."""
    # what is no UTF-8 becomes a sign that no number has, and the line is named
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip(",; \t")
        if line and not line.startswith("#"):
            yield number, line


def _short(text):
    return repr(text if len(text) < 80 else text[:77] + "...")
