"""OpenCV: the one place that imports it, and its own trackers in our clothes.

cv2 reads, writes and draws frames for us. It is imported when first needed, so that
`import tracker` is quick and the array code works without it.

KCF and CSRT are in the wheel opencv-contrib-python only. `make peers` puts that wheel, of the
version that is installed, into the folder .peers at the top of the project (MINIDEEP_PEERS names
another); where the folder is, cv2 is imported from it: the same library with more in it.
"""

import contextlib
import os
import sys
from pathlib import Path

from tracker import State
from tracker.boxes import as_tuple, check_box, check_frame, check_started, clip

NANO_FILES = ("nanotrack_backbone_sim.onnx", "nanotrack_head_sim.onnx")

# The system libraries that OpenCV's wheels link to but do not bring, and who has them on Debian.
_PACKAGES = {
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
}


def peers_folder():
    """Where `make peers` puts OpenCV's contrib wheel."""
    return Path(os.environ.get("MINIDEEP_PEERS") or Path(__file__).parents[1] / ".peers")


def import_cv2():
    """The module cv2; ImportError says what to install when it cannot be loaded."""
    if "cv2" not in sys.modules and (peers_folder() / "cv2").is_dir():
        sys.path.insert(0, str(peers_folder()))
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"OpenCV cannot be imported ({error}). {_remedy(str(error))}") from error
    finally:
        if sys.path[:1] == [str(peers_folder())]:       # nothing else is taken from there
            del sys.path[0]
    return cv2


def _remedy(message):
    packages = [package for library, package in _PACKAGES.items() if library in message]
    headless = ("pip uninstall -y opencv-python opencv-contrib-python; "
                "pip install --force-reinstall opencv-python-headless")
    if packages:
        return ("A system library is missing. Either install it (Debian, Ubuntu: apt install "
                f"{packages[0]}; OpenCV may want both libgl1 and libglib2.0-0), or use the wheel "
                f"that needs neither, which opens no windows: {headless}")
    if "No module named 'cv2'" in message:
        return "Install it with: pip install opencv-python-headless"
    return f"The wheel with the fewest needs of the system mends most cases: {headless}"


class OpenCVTracker:
    """One of OpenCV's trackers: "MIL" (Babenko 2009), "KCF" (Henriques 2015), "CSRT" (Lukezic
    2017), "Nano" (NanoTrack, 2021; a pretrained network, whose two files NANO_FILES have to be in
    the folder that MINIDEEP_NANO names).

    OpenCV wants integer boxes and returns integers: boxes are rounded, and at least 2 pixels wide
    and high. A frame on which it reports failure gives the last good box with lost=True. MIL
    draws its features at random and cannot be seeded: its scores differ from run to run.
    """

    def __init__(self, name):
        cv2 = import_cv2()
        made = getattr(cv2, f"Tracker{name}", None)
        if made is None:
            raise ImportError(
                f"the installed OpenCV {cv2.__version__} has no {name} tracker: KCF and CSRT are "
                "in the wheel opencv-contrib-python. `make peers` puts it beside this project, "
                "where it is found; by hand: pip install --no-deps --target "
                f"{peers_folder()} opencv-contrib-python-headless")
        self._create = made.create
        if name == "Nano":
            params = cv2.TrackerNano_Params()
            params.backbone, params.neckhead = nano_files()
            self._create = lambda: made.create(params)
        self._tracker = self._box = None

    def init(self, frame, box):
        height, width = check_frame(frame).shape[:2]
        box = clip(check_box(box, frame), width, height)
        x, y, w, h = (round(v) for v in as_tuple(box))
        w, h = max(w, 2), max(h, 2)
        x, y = max(min(x, width - w), 0), max(min(y, height - h), 0)
        self._tracker, self._size = self._create(), frame.shape[:2]
        with _plain_errors():
            self._tracker.init(frame, (x, y, w, h))
        self._box = as_tuple((x, y, w, h))

    def update(self, frame):
        check_started(self._box)
        with _plain_errors():
            found, box = self._tracker.update(check_frame(frame, self._size))
        if found:
            self._box = as_tuple(box)
        return State(self._box, confidence=float(found), lost=not found)


@contextlib.contextmanager
def _plain_errors():
    """OpenCV's own errors as ValueError, the protocol's."""
    try:
        yield
    except import_cv2().error as error:
        raise ValueError(f"OpenCV's tracker cannot work on this frame and box: {error}") from error


def nano_files():
    """The paths of NanoTrack's two networks; FileNotFoundError says what to do."""
    folder = os.environ.get("MINIDEEP_NANO")
    files = [Path(folder or ".") / name for name in NANO_FILES]
    if not folder or not all(file.is_file() for file in files):
        lacking = f", and {folder} lacks them" if folder else ""
        raise FileNotFoundError(
            f"NanoTrack needs its two files {' and '.join(NANO_FILES)} (NanoTrack v2, from "
            "https://github.com/HonglinChu/SiamTrackers, folder NanoTrack/models/nanotrackv2); "
            f"MINIDEEP_NANO=FOLDER says where they are{lacking}")
    return [str(file) for file in files]


def version():
    """What decides how OpenCV's trackers behave: the version, and which of its wheels it is."""
    cv2 = import_cv2()
    return f"{cv2.__version__} {cv2.__file__}"
