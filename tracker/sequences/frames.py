"""A sequence: frames that are read when asked for, and one true box for each of them."""

import hashlib
import re
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tracker.opencv import import_cv2

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_TYPES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")


@dataclass(frozen=True)
class Sequence:
    """frames: anything with len() whose [i] gives frame i, (H, W, 3) uint8 BGR, and that can be
    iterated; boxes: (n, 4) float64 x, y, w, h in pixels, 0-based, one row a frame, nan where the
    target is absent or nobody noted where it is; layout: the name of the layout that it was found in,
    or ""; attributes: {name: (n,) bool}, the frames that the dataset's own files tag so; noted: (n,)
    bool, the frames of which is known whether the target is there, None for all."""

    name: str
    frames: Any
    boxes: np.ndarray
    layout: str = ""
    attributes: dict = field(default_factory=dict)
    noted: Any = None

    def __post_init__(self):
        if self.noted is None:
            object.__setattr__(self, "noted", np.ones(len(self.boxes), bool))
        if len(self.noted) != len(self.boxes):
            raise ValueError(f"sequence {self.name}: noted is of {len(self.noted)} frames, but there "
                             f"are {len(self.boxes)} boxes")
        if len(self.frames) != len(self.boxes):
            raise ValueError(
                f"sequence {self.name}: {len(self.frames)} frames but {len(self.boxes)} boxes. "
                "Every frame needs a line in its box file (nan,nan,nan,nan where the target is "
                "absent; or, with frames that nobody noted, lines frame,x,y,w,h), and every line a "
                "frame")
        if not self.present.any():
            raise ValueError(f"sequence {self.name}: no frame has a box, nothing to track")

    def __len__(self):
        return len(self.boxes)

    @property
    def present(self):
        """(n,) bool: where the target is."""
        return np.isfinite(self.boxes).all(1)

    @property
    def absent(self):
        """(n,) bool: where the target is known not to be."""
        return self.noted & ~self.present

    def head(self, frames):
        """The first `frames` frames of it, from the first annotated one on if that is later."""
        end = min(max(frames, int(self.present.argmax()) + 1), len(self))
        return replace(self, frames=_Head(self.frames, end), boxes=self.boxes[:end],
                       noted=self.noted[:end],
                       attributes={name: tag[:end] for name, tag in self.attributes.items()})

    def every(self, step, start=0):
        """Every step-th frame of it, from number `start` on."""
        if step < 1 or not 0 <= start < len(self):
            raise ValueError(f"sequence {self.name} of {len(self)} frames has no every({step}, start="
                             f"{start}): step is 1 or more, start the number of a frame")
        return self._only(range(start, len(self), step))

    def backwards(self):
        """Its frames from the last to the first (slow for a video file)."""
        return self._only(range(len(self) - 1, -1, -1))

    def _only(self, numbers):
        return replace(self, frames=_Some(self.frames, numbers), boxes=self.boxes[numbers],
                       noted=self.noted[numbers],
                       attributes={name: tag[numbers] for name, tag in self.attributes.items()})


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

    def fingerprint(self):
        """Changes when a file does: its name, size or time of change."""
        return _digest(self.paths)


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

    def fingerprint(self):
        return _digest([self.path])

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

    def fingerprint(self):
        return f"{self.n} of {self.frames.fingerprint()}"


class _Some:
    """Of some frames those of a range of numbers."""

    def __init__(self, frames, numbers):
        self.frames, self.numbers = frames, numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return self.frames[self.numbers[index]]

    def __iter__(self):
        if isinstance(self.frames, ImageFrames) or self.numbers.step < 0:   # read only what is wanted
            return (self[i] for i in range(len(self)))
        return islice(iter(self.frames), self.numbers.start, self.numbers.stop, self.numbers.step)

    def fingerprint(self):
        return f"{self.numbers} of {self.frames.fingerprint()}"


def pick(frames, numbers):
    """Some of the frames: {number: frame}. A video is read once, from its start."""
    wanted = set(map(int, numbers))
    if not isinstance(getattr(frames, "frames", frames), VideoFrames):
        return {i: frames[i] for i in sorted(wanted)}
    return {i: frame for i, frame in zip(range(max(wanted, default=-1) + 1), frames)
            if i in wanted}


def natural_order(path):
    """Sort key that puts 2.jpg before 10.jpg: numbers compare as numbers."""
    return [(int(word), "") if word.isdecimal() else (-1, word)
            for word in re.split(r"(\d+)", path.name.lower())]


def _digest(paths):
    said = hashlib.sha256()
    for path in paths:
        stat = Path(path).stat()
        said.update(f"{Path(path).name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return said.hexdigest()
