"""Frames in and out: videos, folders of images and cameras; videos that a browser plays.

    with FrameSource("clip.mp4") as source, VideoWriter("out.webm", 25, source.size) as out:
        for frame in source:            # (H, W, 3) uint8 BGR
            out.write(frame)

Files appear under their names only when they are complete: everything is written to a temporary
name in the same folder, which is renamed at the end.
"""

import math
import os
from contextlib import contextmanager
from pathlib import Path

from tracker.boxes import check_frame
from tracker.files import make_folder, partial_name, remove_empty
from tracker.opencv import import_cv2
from tracker.sequences import IMAGE_TYPES, natural_order


class FrameSource:
    """The frames of a video file, of a folder of images (2.png before 10.png), or of a camera.

    source: a path; a camera's number (0 is the first one), as an integer or as text; or a stream's
    address, such as rtsp://HOST/PATH.

    name; stem: the name without folder and ending, for naming files after it; camera: does it not
    wait for who reads it (cameras and streams); first: the first frame; size: (width, height) in
    pixels; fps: frames per second and count: how many frames there should be, each None where not
    known. Iterate once: cameras do not rewind.

    Raises FileNotFoundError for a path that is not there, ValueError for one that is no video, has
    no images, or has a frame that cannot be read (named), OSError for a camera or a stream that does
    not open.
    """

    def __init__(self, source):
        text = str(source)
        stream = "://" in text
        self.camera = stream or isinstance(source, int) or (text.isdigit()
                                                            and not Path(text).exists())
        self.name = f"camera {text}" if self.camera and not stream else text
        path = Path(text).resolve()
        self.stem = ("stream" if stream else f"camera-{text}" if self.camera
                     else path.name if path.is_dir() else path.stem)
        self.fps = self.count = self._capture = self._images = None
        self.frames_read, self._exhausted = 0, False
        if self.camera:
            self._capture = self._open(text if stream else int(text))
        elif not Path(text).exists():
            raise FileNotFoundError(f"{text} does not exist: expected a video file, a folder of "
                                    "images, or a camera's number (0 is the first)")
        elif Path(text).is_dir():
            self._images = [p for p in sorted(Path(text).iterdir(), key=natural_order)
                            if p.suffix.lower() in IMAGE_TYPES]
            self.count = len(self._images)
            if not self._images:
                raise ValueError(f"no images in the folder {text}: expected files named "
                                 f"*{', *'.join(IMAGE_TYPES)}")
        elif Path(text).suffix.lower() in IMAGE_TYPES:
            raise ValueError(f"{text} is one image: give the folder that holds all of them")
        else:
            self._capture = self._open(text)
            self.count = self._property("CAP_PROP_FRAME_COUNT")
            self.count = self.count and round(self.count)
        if self._capture is not None:
            self.fps = self._property("CAP_PROP_FPS")
        self.first = self._read(0)
        if self.first is None:
            self.close()
            raise ValueError(f"{self.name} has no frame that OpenCV can read")
        self.size = (self.first.shape[1], self.first.shape[0])

    def __iter__(self):
        if self.frames_read:
            raise RuntimeError(f"the frames of {self.name} were read already: make a new "
                               "FrameSource to read them again")
        frame = self.first
        while frame is not None:
            if frame.shape != self.first.shape:
                raise ValueError(
                    f"{self._which(self.frames_read)} has {frame.shape[1]} x {frame.shape[0]} "
                    f"pixels, the first frame {self.size[0]} x {self.size[1]}: they must be equal")
            self.frames_read += 1
            yield frame
            frame = self._read(self.frames_read)
        self._exhausted = True

    def shortfall(self):
        """A sentence if the frames ended clearly earlier than announced, otherwise None.

        Not an error: in many sound files the announced number is only an estimate.
        """
        if not self._exhausted or self.count is None or self.frames_read >= 0.9 * self.count:
            return None
        return (f"{self.name} announces {self.count} frames, only {self.frames_read} could be "
                "read: it may be damaged or cut short")

    def close(self):
        if self._capture is not None:
            self._capture.release()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _open(self, what):
        cv2 = import_cv2()
        with _quiet():
            capture = cv2.VideoCapture(what)
        if not capture.isOpened():
            if self.camera and self.name == what:
                raise OSError(f"{what} cannot be opened: is the address right, and something sent "
                              "there?")
            if self.camera:
                raise OSError(f"{self.name} cannot be opened: is it plugged in, not used by "
                              "another program, and readable for you (on Linux: /dev/video"
                              f"{what})?")
            raise ValueError(f"{what} is not a video that OpenCV can read")
        return capture

    def _property(self, name):
        value = self._capture.get(getattr(import_cv2(), name))
        return value if math.isfinite(value) and value > 0 else None

    def _read(self, index):
        """Frame `index`, the next one, or None after the last."""
        if self._images is not None:
            if index == self.count:
                return None
            frame = import_cv2().imread(str(self._images[index]))
        else:
            if not self._capture.grab():
                return None
            good, frame = self._capture.retrieve()
            frame = frame if good else None
        if frame is None:
            raise ValueError(f"{self._which(index)} cannot be read: is it damaged?")
        return frame

    def _which(self, index):
        return (f"{self._images[index]} (frame {index})" if self._images is not None
                else f"frame {index} of {self.name}")


class VideoWriter:
    """An annotated video: VP8 in WebM, which browsers and OpenCV both play.

    path: ends in .webm; fps: frames per second; size: (width, height) of the frames in pixels. An
    odd width or height is made even by repeating the last column or row, as the codec wants.

    VP9, the other codec that browsers play and OpenCV's wheels write, takes five times as long for
    the same quality here: OpenCV gives no way to set the encoder's speed. What OpenCV writes into
    .mp4 and .avi files (mp4v, MJPG) is shown by no browser.

    Used in a `with`, the file appears at its end, and not at all after an error; otherwise call
    close(). Raises ValueError for another file type or a frame of another size, OSError where the
    installed OpenCV cannot write it.
    """

    def __init__(self, path, fps, size):
        self.path = Path(path)
        if self.path.suffix.lower() != ".webm":
            raise ValueError(f"the annotated video must be called NAME.webm, not {self.path.name}: "
                             "browsers do not show what OpenCV writes into other files")
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"a video needs a positive number of frames per second, not {fps}")
        cv2 = import_cv2()
        width, height = self.size = size
        self._even = (width + width % 2, height + height % 2)
        self._frames = 0
        self._real = self.path.resolve()        # what a link points to is replaced, not the link
        self._made = make_folder(self._real.parent)
        self._partial = partial_name(self._real)
        with _quiet():      # OpenCV grumbles about the tag VP80, and writes it correctly
            self._writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG,
                                           cv2.VideoWriter_fourcc(*"VP80"), float(fps), self._even)
        if not self._writer.isOpened():
            self.discard()
            raise OSError(
                f"OpenCV {cv2.__version__} cannot write VP8 in WebM to {self.path}: is the folder "
                "writable, and OpenCV built with FFmpeg and libvpx? The wheels on PyPI are: pip "
                "install --force-reinstall opencv-python-headless")

    def write(self, frame):
        """Add one frame: (height, width, 3) uint8 BGR."""
        cv2 = import_cv2()
        height, width = check_frame(frame).shape[:2]
        if (width, height) != tuple(self.size):
            raise ValueError(f"a frame of {width} x {height} pixels in a video of "
                             f"{self.size[0]} x {self.size[1]}")
        if self._even != (width, height):
            frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(frame)
        self._frames += 1

    def close(self):
        """Finish the file and give it its name."""
        self._writer.release()
        # OpenCV does not say when the disk is full: what can be read back tells.
        with _quiet():
            written = import_cv2().VideoCapture(str(self._partial))
        count = written.get(import_cv2().CAP_PROP_FRAME_COUNT) if written.isOpened() else 0
        written.release()
        if not self._frames or count < 0.9 * self._frames - 1:
            self.discard()
            raise OSError(f"{self.path} could not be written: {self._frames} frames went in, "
                          f"{max(count, 0):.0f} came back. Is the disk full?")
        os.replace(self._partial, self._real)

    def discard(self):
        """Give up: nothing is left under any name."""
        self._writer.release()
        self._partial.unlink(missing_ok=True)
        remove_empty(self._made)

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is None:
            self.close()
        else:
            self.discard()


@contextmanager
def _quiet():
    """Keeps FFmpeg and OpenCV from writing to the terminal: we say it in our own words."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
