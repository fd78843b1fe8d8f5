"""OpenCV: the one place that imports it, and its own trackers in our clothes.

cv2 reads, writes and draws frames for us. It is imported when first needed, so that
`import tracker` is quick and the array code works without it.
"""

from tracker import State
from tracker.boxes import as_tuple, check_box, check_frame, check_started, clip

# The system libraries that OpenCV's wheels link to but do not bring, and who has them on Debian.
_PACKAGES = {
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
}


def import_cv2():
    """The module cv2; ImportError says what to install when it cannot be loaded."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"OpenCV cannot be imported ({error}). {_remedy(str(error))}") from error
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
    """One of OpenCV's trackers: "MIL" (Babenko 2009), "KCF" (Henriques 2015), "CSRT" (Lukezic 2017).

    OpenCV wants integer boxes and returns integers: boxes are rounded, and at least 2 pixels wide
    and high. A frame on which it reports failure gives the last good box with lost=True. MIL
    draws its features at random and cannot be seeded: its scores differ from run to run.
    """

    def __init__(self, name):
        cv2 = import_cv2()
        self._class = getattr(cv2, f"Tracker{name}", None)
        if self._class is None:
            raise ImportError(
                f"the installed OpenCV {cv2.__version__} has no {name} tracker: KCF and CSRT are "
                "in the wheel opencv-contrib-python. To change wheels: pip uninstall -y "
                "opencv-python opencv-python-headless; pip install opencv-contrib-python "
                "(opencv-contrib-python-headless where there is no display)")
        self._tracker = self._box = None

    def init(self, frame, box):
        height, width = check_frame(frame).shape[:2]
        box = clip(check_box(box, frame), width, height)
        x, y, w, h = (round(v) for v in as_tuple(box))
        w, h = max(w, 2), max(h, 2)
        x, y = max(min(x, width - w), 0), max(min(y, height - h), 0)
        self._tracker = self._class.create()
        self._tracker.init(frame, (x, y, w, h))
        self._box = as_tuple((x, y, w, h))

    def update(self, frame):
        check_started(self._box)
        found, box = self._tracker.update(check_frame(frame))
        if found:
            self._box = as_tuple(box)
        return State(self._box, confidence=float(found), lost=not found)
