import importlib.abc
import os
import subprocess
import sys

import numpy as np
import pytest

import tracker
from tracker.baselines import ConstantVelocity, KeepFirst
from tracker.boxes import centre
from tracker.opencv import NANO_FILES, OpenCVTracker, import_cv2

cv2 = pytest.importorskip("cv2")
FRAME = np.zeros((100, 160, 3), np.uint8)


def scene(step, size=24, frames=12):
    """A textured square that moves `step` pixels a frame over a textured ground."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 90, (120, 200, 3)).astype(np.uint8)
    target = rng.integers(120, 255, (size, size, 3)).astype(np.uint8)
    for t in range(frames):
        frame, x = ground.copy(), 40 + step * t
        frame[40:40 + size, x:x + size] = target
        yield cv2.GaussianBlur(frame, (0, 0), 2), (x, 40, size, size)


def test_keep_first_keeps_the_first_box():
    t = KeepFirst()
    t.init(FRAME, (10, 20.5, 30, 40))
    for _ in range(3):
        assert t.update(FRAME) == tracker.State((10, 20.5, 30, 40), 0.0, False)


def test_constant_velocity_goes_straight_on():
    t = ConstantVelocity()
    t.init(FRAME, (10, 20, 8, 8))
    t.observe((16, 17, 8, 8), frames=3)
    assert [t.update(FRAME).box[:2] for _ in range(4)] == [(12, 19), (14, 18), (16, 17), (18, 16)]
    t.init(FRAME, (10, 20, 8, 8))       # afresh: the old velocity is forgotten
    assert t.update(FRAME).box == (10, 20, 8, 8)


def test_constant_velocity_takes_the_velocity_of_the_centre_and_keeps_the_size():
    t = ConstantVelocity()
    t.init(FRAME, (50, 50, 10, 10))
    t.observe((45, 45, 20, 20), frames=1)       # grows about the same centre
    assert t.update(FRAME).box == (50, 50, 10, 10)


def test_constant_velocity_keeps_its_centre_in_the_frame():
    t = ConstantVelocity()
    t.init(FRAME, (10, 20, 8, 8))
    t.observe((60, -30, 8, 8), frames=1)
    for _ in range(20):
        box = t.update(FRAME).box
    assert centre(box).tolist() == [160, 0] and box[2:] == (8, 8)


@pytest.mark.parametrize("name", tracker.names())
def test_every_tracker_names_bad_input(name):
    if tracker.available()[name]:
        pytest.skip(tracker.available()[name])
    t = tracker.load(name)
    with pytest.raises(RuntimeError, match="before init"):
        t.update(FRAME)
    with pytest.raises(TypeError, match="None"):
        t.init(None, (1, 2, 3, 4))
    with pytest.raises(ValueError, match="outside"):
        t.init(FRAME, (500, 2, 30, 40))
    t.init(FRAME, (60, 40, 30, 20))
    with pytest.raises(TypeError, match="float64"):
        t.update(FRAME / 255)


@pytest.mark.parametrize("name", tracker.OPENCV)
def test_opencv_trackers_follow_a_moving_square(name):
    if tracker.available()[name]:
        pytest.skip(tracker.available()[name])
    t = OpenCVTracker(name)
    frames = list(scene(step=3))
    t.init(*frames[0])
    for frame, box in frames[1:]:
        state = t.update(frame)
        assert not state.lost and all(isinstance(v, float) for v in state.box)
    assert np.hypot(*(centre(state.box) - centre(box))) < 25     # 33 for the first box; MIL is random


class _FakeCV2:
    """OpenCV with one tracker, which notes what it is given and always fails."""

    __version__ = "0.0"

    class TrackerMIL:
        create = classmethod(lambda cls: cls())

        def init(self, frame, box):
            _FakeCV2.box = box

        def update(self, frame):
            return False, (0, 0, 0, 0)


@pytest.mark.parametrize("box, whole", [
    ((10.4, 20.6, 7.6, 9.4), (10, 21, 8, 9)),
    ((10, 20, 0.3, 1), (10, 20, 2, 2)),
    ((159.5, 99.5, 0.4, 0.4), (158, 98, 2, 2)),
    ((-10, -10, 30, 40), (0, 0, 20, 30)),
])
def test_opencv_gets_whole_boxes_inside_the_frame_and_the_last_one_is_kept(monkeypatch, box,
                                                                           whole):
    monkeypatch.setattr("tracker.opencv.import_cv2", lambda: _FakeCV2)
    t = OpenCVTracker("MIL")
    t.init(FRAME, box)
    assert _FakeCV2.box == whole and all(isinstance(v, int) for v in _FakeCV2.box)
    assert t.update(FRAME) == tracker.State(whole, 0.0, True)


def test_a_tracker_that_this_opencv_lacks_says_which_wheel_has_it(monkeypatch):
    monkeypatch.setattr("tracker.opencv.import_cv2", lambda: _FakeCV2)
    with pytest.raises(ImportError, match=r"0\.0 has no KCF .*opencv-contrib-python"):
        tracker.load("KCF")
    assert tracker.available()["MIL"] is None
    assert "opencv-contrib-python" in tracker.available()["CSRT"]


class _Refuse(importlib.abc.MetaPathFinder):
    def __init__(self, message):
        self.message = message

    def find_spec(self, name, path, target=None):
        if name == "cv2":
            raise ImportError(self.message)


@pytest.mark.parametrize("message, words", [
    ("libGL.so.1: cannot open shared object file: No such file or directory",
     "apt install libgl1.*opencv-python-headless"),
    ("libgthread-2.0.so.0: cannot open shared object file: No such file or directory",
     r"apt install libglib2\.0-0.*opencv-python-headless"),
    ("No module named 'cv2'", "pip install opencv-python-headless"),
    ("numpy.core.multiarray failed to import", "opencv-python-headless"),
])
def test_a_broken_opencv_says_what_mends_it(monkeypatch, message, words):
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Refuse(message), *sys.meta_path])
    with pytest.raises(ImportError, match=words) as caught:
        import_cv2()
    assert message in str(caught.value)


def test_names_and_the_default():
    assert set(tracker.OPENCV) < set(tracker.names()) and tracker.DEFAULT == tracker.names()[0]
    assert type(tracker.load()).__name__ == "CorrelationTracker"
    assert isinstance(tracker.load("first"), KeepFirst)
    with pytest.raises(ValueError, match=f"'nope'.*{', '.join(tracker.names())}"):
        tracker.load("nope")
    assert set(tracker.available()) == set(tracker.names())
    assert tracker.available()["velocity"] is None


class _FakeNano(_FakeCV2):
    class TrackerNano_Params:
        backbone = neckhead = ""

    class TrackerNano(_FakeCV2.TrackerMIL):
        @classmethod
        def create(cls, params):
            _FakeNano.given = params.backbone, params.neckhead
            return cls()


def test_nano_gets_its_two_files_or_says_where_they_come_from(monkeypatch, tmp_path):
    monkeypatch.setattr("tracker.opencv.import_cv2", lambda: _FakeNano)
    monkeypatch.delenv("MINIDEEP_NANO", raising=False)
    with pytest.raises(FileNotFoundError, match="MINIDEEP_NANO=FOLDER says where they are$"):
        tracker.load("Nano")
    monkeypatch.setenv("MINIDEEP_NANO", str(tmp_path))
    (tmp_path / NANO_FILES[0]).write_bytes(b"1")
    assert f"and {tmp_path} lacks them" in tracker.available()["Nano"]
    (tmp_path / NANO_FILES[1]).write_bytes(b"2")
    t = tracker.load("Nano")
    t.init(FRAME, (10, 20, 30, 40))
    assert _FakeNano.given == tuple(str(tmp_path / name) for name in NANO_FILES)
    assert t.update(FRAME).lost


def test_the_folder_of_peers_is_taken_where_it_is(tmp_path):
    """In a process of its own: cv2 is loaded once."""
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text("__version__ = 'peer'")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('taken from the peers')")
    code = ("from tracker.opencv import import_cv2, version; print(import_cv2().__version__); "
            "import numpy, sys; print(version()); print(any('peers' in p for p in sys.path))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "MINIDEEP_PEERS": str(tmp_path)}, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "peer" and lines[1].startswith("peer ") and str(tmp_path) in lines[1]
    assert lines[2] == "False"
