"""The newest frame: slow trackers skip, and never wait for what is old; ends, errors, silence."""

import threading
import time

import pytest

from tracker.stream import latest


def paced(count, seconds=.002):
    for i in range(count):
        time.sleep(seconds)
        yield i


def threads():
    return [t for t in threading.enumerate() if t.name == "frames"]


def test_a_slow_tracker_gets_the_newest_frame_and_knows_what_it_missed():
    made, taken, now = [], [], -1

    def source():
        for i in range(100):
            time.sleep(.002)
            made.append(i)
            yield i

    for frame, skipped in latest(source()):
        assert skipped == frame - now - 1               # nothing is counted twice, or not at all
        assert len(made) - frame <= 20 or frame == 0    # it is not old, also on a busy machine
        now = frame
        taken.append(frame)
        time.sleep(.02)
    assert taken[0] == 0 and taken[-1] == 99 and len(taken) < 40
    assert not threads()


def test_a_quick_tracker_gets_every_frame():
    assert list(latest(paced(20, .01))) == [(i, 0) for i in range(20)]


def test_the_first_frame_waits_until_it_is_taken():
    frames = latest(iter(range(50)))
    first = next(frames)
    time.sleep(.03)
    assert first == (0, 0) and next(frames) == (49, 48)
    assert list(frames) == []


def test_the_end_of_a_stream():
    assert list(latest([])) == [] and list(latest([7])) == [(7, 0)]


def test_a_source_that_dies_is_an_error_after_what_it_gave():
    def dying():
        yield from range(3)
        raise ValueError("frame 3 of camera 0 cannot be read")

    taken = []
    with pytest.raises(ValueError, match="frame 3 of camera 0"):
        for frame, _ in latest(dying()):
            taken.append(frame)
    assert taken[0] == 0 and taken[-1] == 2 and not threads()


def test_a_silent_source_is_an_error_and_no_hang():
    silence = threading.Event()

    def silent():
        yield 0
        silence.wait(5)

    began = time.monotonic()
    try:
        frames = latest(silent(), patience=.1)
        assert next(frames) == (0, 0)
        threading.Timer(.3, silence.set).start()        # so that the thread ends
        with pytest.raises(OSError, match="no frame came for 0.1 seconds"):
            next(frames)
    finally:
        silence.set()
    assert time.monotonic() - began < 2


def test_frames_of_a_file_come_at_their_pace():
    began = time.monotonic()
    assert [frame for frame, _ in latest(range(10), fps=100)][-1] == 9
    assert .08 < time.monotonic() - began < 2


def test_leaving_early_ends_the_reading():
    read = []

    def endless():
        while True:
            time.sleep(.001)
            read.append(1)
            yield len(read)

    for frame, _ in latest(endless()):
        if frame > 3:
            break
    del _, frame
    deadline = time.monotonic() + 2
    while threads() and time.monotonic() < deadline:
        time.sleep(.005)
    assert not threads()
