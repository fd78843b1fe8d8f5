"""Annotated sequences: frames and the true box of the target in each.

One sequence is a folder with a box file and its frames:

    NAME/groundtruth_rect.txt   (or groundtruth.txt)    one box x,y,w,h a line
    NAME/img/0001.jpg, 0002.jpg, ...                    or the images beside the box file

in the manner of OTB and GOT-10k; or a video, NAME.mp4, with NAME.boxes.txt beside it, for which
lines frame,x,y,w,h may note some of the frames only. Numbers are separated by commas, tabs or
blanks; "nan" or all zeros say that the target is absent; a line that starts with # is a remark.
Boxes are taken as they stand: 0-based (OTB's own files count from 1: subtract 1 from x and y).
"""

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tracker.opencv import import_cv2

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_TYPES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
BOX_FILES = ("groundtruth_rect.txt", "groundtruth.txt")
LAYOUT = ("expected NAME/groundtruth_rect.txt (or groundtruth.txt; a box x,y,w,h a line) with the "
          "images in NAME/img/ or beside the file, or NAME.mp4 with NAME.boxes.txt; give the folder of "
          "one sequence or one that holds several")


@dataclass(frozen=True)
class Sequence:
    """frames: anything with len() whose [i] gives frame i, (H, W, 3) uint8 BGR, and that can be
    iterated; boxes: (n, 4) float64, one row a frame, nan where the target is absent."""

    name: str
    frames: Any
    boxes: np.ndarray

    def __post_init__(self):
        if len(self.frames) != len(self.boxes):
            raise ValueError(
                f"sequence {self.name}: {len(self.frames)} frames but {len(self.boxes)} boxes. "
                "Every frame needs a line in its box file (nan,nan,nan,nan where the target is "
                "absent or not annotated), and every line a frame")
        if not self.present.any():
            raise ValueError(f"sequence {self.name}: no frame has a box, nothing to track")

    def __len__(self):
        return len(self.boxes)

    @property
    def present(self):
        """(n,) bool: where the target is."""
        return np.isfinite(self.boxes).all(1)

    def head(self, frames):
        """The first `frames` frames of it, from the first annotated one on if that is later."""
        end = max(frames, int(self.present.argmax()) + 1)
        return Sequence(self.name, _Head(self.frames, min(end, len(self))), self.boxes[:end])


class ImageFrames:
    """Frames in image files, read when asked for."""

    def __init__(self, paths):
        self.paths = list(paths)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        frame = import_cv2().imread(str(self.paths[index]))
        if frame is None:
            raise ValueError(f"cannot read the image {self.paths[index]}")
        return frame


class VideoFrames:
    """Frames of a video file, read in order: iterate, or ask for one by its number (slow)."""

    def __init__(self, path):
        self.path = Path(path)
        self._length = None

    def __len__(self):
        # Counted, not asked for: the number in a file's header is often wrong.
        if self._length is None:
            capture = self._open()
            self._length = 0
            while capture.grab():
                self._length += 1
            capture.release()
        return self._length

    def __iter__(self):
        capture = self._open()
        try:
            while True:
                good, frame = capture.read()
                if not good:
                    return
                yield frame
        finally:
            capture.release()

    def __getitem__(self, index):
        return next(islice(self, range(len(self))[index], None))

    def _open(self):
        capture = import_cv2().VideoCapture(str(self.path))
        if not capture.isOpened():
            raise ValueError(f"cannot read the video {self.path}")
        return capture


class _Head:
    """The first n of some frames."""

    def __init__(self, frames, n):
        self.frames, self.n = frames, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.frames[range(self.n)[index]]

    def __iter__(self):
        # the range first: it ends the zip before a frame too many is read
        return (frame for _, frame in zip(range(self.n), iter(self.frames)))


def read_boxes(path, frames=None):
    """The boxes of a file: (n, 4) float64, nan rows where the target is absent.

    Lines x,y,w,h are the frames in order. Lines frame,x,y,w,h (frames count from 0) note some of
    `frames` frames; the rows of the others are nan. Raises ValueError, naming file and line, for
    a line that is no box.
    """
    rows, noted = [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        place = f"{path}, line {number}"
        words = re.split(r"[,;\s]+", line.strip(",; "))
        try:
            frame = [int(word) for word in words[:-4]]
            x, y, w, h = (float(word) for word in words[-4:])
            if len(frame) > 1 or rows and len(frame) != len(noted) / len(rows):
                raise ValueError
        except ValueError:
            raise ValueError(f"{place}: expected numbers x,y,w,h (or frame,x,y,w,h in every "
                             f"line), got {line!r}") from None
        row = [x, y, w, h]
        if np.isnan(row).any() or not any(row):
            row = [np.nan] * 4
        elif not np.isfinite(row).all() or w <= 0 or h <= 0:
            raise ValueError(f"{place}: a box needs finite numbers and a positive width and "
                             f"height, got {line!r}; write nan,nan,nan,nan where the target is "
                             "absent")
        rows.append(row)
        noted += frame
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    if not noted:
        return boxes
    total = max(noted) + 1 if frames is None else frames
    if min(noted) < 0 or max(noted) >= total or len(set(noted)) < len(noted):
        raise ValueError(f"{path}: frame numbers have to be from 0 to {total - 1}, each at most "
                         f"once, got {', '.join(map(str, noted))}")
    sparse = np.full((total, 4), np.nan)
    sparse[noted] = boxes
    return sparse


def read_sequence(path):
    """The sequence in a folder, or of a video file with its boxes beside it.

    Raises FileNotFoundError where there is none, ValueError where boxes and frames do not match.
    """
    path = Path(path)
    box_file = _box_file(path)
    if box_file is None:
        raise FileNotFoundError(f"no sequence at {path}: {LAYOUT}")
    if path.is_file():
        frames = VideoFrames(path)
        return Sequence(path.stem, frames, read_boxes(box_file, len(frames)))
    boxes = read_boxes(box_file)
    folder = path / "img" if (path / "img").is_dir() else path
    images = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_TYPES),
                    key=natural_order)
    if not images:
        raise FileNotFoundError(f"{box_file} has boxes, but there are no images in {folder}: "
                                f"{LAYOUT}")
    return Sequence(path.resolve().name, ImageFrames(images), boxes)


def find_sequences(folder):
    """All sequences in a folder, by name: the folder itself may be one, or hold several.

    Raises FileNotFoundError, saying what was expected, where there is none.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist: {LAYOUT}")
    if _box_file(folder) is not None:
        return [read_sequence(folder)]
    inside = sorted(folder.iterdir(), key=natural_order) if folder.is_dir() else []
    found = [read_sequence(path) for path in inside if _box_file(path) is not None]
    if not found:
        raise FileNotFoundError(f"no sequence in {folder}: {LAYOUT}")
    return found


def _box_file(path):
    """Where the boxes of the sequence at `path` are, or None if it is no sequence."""
    if path.is_dir():
        candidates = [path / name for name in BOX_FILES]
    else:
        candidates = [path.with_suffix(".boxes.txt")] * (path.suffix.lower() in VIDEO_TYPES)
    return next((file for file in candidates if file.is_file()), None)


def natural_order(path):
    """Sort key that puts 2.jpg before 10.jpg: numbers compare as numbers."""
    return [(int(word), "") if word.isdecimal() else (-1, word)
            for word in re.split(r"(\d+)", path.name.lower())]
