"""Trackers: given one box in the first frame of a video, find it in every frame after.

    import tracker
    t = tracker.load()                      # the default, or tracker.load("velocity"), ...
    t.init(frame, (x, y, w, h))
    state = t.update(next_frame)            # state.box, state.confidence, state.lost

Frames are BGR uint8 arrays (H, W, 3), as OpenCV gives them. Boxes are x, y, w, h in pixels,
floats, 0-based, x and y the top-left corner: a box covers [x, x + w) by [y, y + h).
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class State:
    """What a tracker knows about the target in one frame."""

    box: tuple[float, float, float, float]  # x, y, w, h in pixels
    confidence: float                       # 0 (a guess) to 1 (certain)
    lost: bool                              # True: the box is only the last good one
    predicted: tuple[float, float, float, float] | None = None  # the box in the next frame
    reach: tuple[float, float] | None = None    # pixels: within so much of predicted's centre,
    #                                             across and down, the target's is in 80 % of frames
    skipped: int = 0    # frames left out just before this one, of a source that does not wait


class Tracker(Protocol):
    """What every tracker offers: any class with these two methods is one."""

    def init(self, frame, box) -> None:
        """Start on `frame` (H, W, 3) uint8 BGR with the target at `box` (x, y, w, h).

        Calling it again starts afresh. Raises TypeError or ValueError for a bad frame or box.
        """

    def update(self, frame) -> State:
        """Find the target in the next frame. Raises RuntimeError before init()."""


def _correlation():
    from tracker.correlation import CorrelationTracker
    return CorrelationTracker.load()


def _recurrent():
    from tracker.recurrent import RecurrentTracker
    return RecurrentTracker.load()


def _first():
    from tracker.baselines import KeepFirst
    return KeepFirst()


def _velocity():
    from tracker.baselines import ConstantVelocity
    return ConstantVelocity()


def _opencv(name):
    from tracker.opencv import OpenCVTracker
    return OpenCVTracker(name)


DEFAULT = "correlation"
OPENCV = ("MIL", "KCF", "CSRT", "Nano")
_MAKERS = {
    "correlation": _correlation,
    "recurrent": _recurrent,
    "first": _first,
    "velocity": _velocity,
    **{name: lambda name=name: _opencv(name) for name in OPENCV},
}


def names():
    """The names that load() knows, the default first."""
    return tuple(_MAKERS)


def load(name=None):
    """A new tracker by its name; None gives the default. See names() and available().

    Raises ValueError for an unknown name and ImportError for an OpenCV tracker that the
    installed OpenCV does not have (the message says which wheel has it).
    """
    name = DEFAULT if name is None else name
    if name not in _MAKERS:
        raise ValueError(f"no tracker is called {name!r}; there are: {', '.join(names())}")
    return _MAKERS[name]()


def available():
    """What can be loaded here: {name: None, or the reason why not}."""
    reasons = {}
    for name in names():
        try:
            load(name)
            reasons[name] = None
        except (ImportError, OSError, ValueError, RuntimeError) as error:  # no wheel, weights, GPU
            reasons[name] = str(error)
    return reasons
