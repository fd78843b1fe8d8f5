"""The newest frame of a source that does not wait: cameras, network streams.

    for frame, skipped in latest(source): ...       # skipped: frames left out just before this one

A thread reads all frames as they come and keeps only the last one. Who tracks slower than frames come
then misses some, but never falls behind: what is looked at is at most one frame old. The first frame,
in which the target was boxed, and the last one are never left out.
"""
from __future__ import annotations

import threading
import time

PATIENCE = 10.          # seconds without a frame after which a source counts as dead
FAREWELL = 2.           # seconds that reading may take to end


def latest(source, fps=None, patience=PATIENCE):
    """The frames of an iterable, as (frame, how many were skipped before it); see above.

    fps: frames are taken from the source at this pace, as if it were live; None: as they come.
    What goes wrong in the source is raised here; OSError when no frame comes for `patience` seconds."""
    changed = threading.Condition()
    frames = []                         # read, and not yet taken: nothing, or the newest frame
    skipped, ended, error = 0, False, None
    leave = threading.Event()

    def read():
        nonlocal skipped, ended, error
        began = time.monotonic()
        try:
            for number, frame in enumerate(source):
                if fps:
                    leave.wait(began + number / fps - time.monotonic())
                with changed:
                    if number == 1:     # the first one has to be seen
                        changed.wait_for(lambda: not frames or leave.is_set())
                    if leave.is_set():
                        return
                    skipped += len(frames)
                    frames[:] = [frame]
                    changed.notify_all()
        except BaseException as problem:
            error = problem
        finally:
            with changed:
                ended = True
                changed.notify_all()

    reader = threading.Thread(target=read, name="frames", daemon=True)
    reader.start()
    try:
        while True:
            with changed:
                if not changed.wait_for(lambda: frames or ended, patience):
                    raise OSError(f"no frame came for {patience:g} seconds: is the camera still "
                                  "plugged in, the stream still sent?")
                if not frames:
                    break
                frame, missed, skipped = frames.pop(), skipped, 0
                changed.notify_all()
            yield frame, missed
        if error is not None:
            raise error
    finally:
        leave.set()
        with changed:
            changed.notify_all()
        reader.join(FAREWELL)           # a camera may hang; the thread ends with the program then
