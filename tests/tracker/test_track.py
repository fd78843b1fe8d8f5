"""The tracking loop: what it writes is what the tracker said."""

import io
import json
import os
import time

import numpy as np
import pytest
from rich.console import Console

from tracker import State, load
from tracker.correlation import CorrelationTracker
from tracker.draw import inside_width
from tracker.metrics import one_pass
from tracker.multi import MultiTracker
from tracker.scenes import render
from tracker.sequences import read_boxes, read_mot
from tracker import track as module
from tracker.track import boxes_text, track, track_many
from tracker.video import FrameSource, VideoWriter

cv2 = pytest.importorskip("cv2")
BOX = (10, 20, 12.5, 8)


@pytest.fixture
def video(tmp_path):
    """12 frames of 64 x 48 in which a bright box moves 2 pixels right a frame."""
    path = tmp_path / "my clip.webm"
    with VideoWriter(path, 20, (64, 48)) as out:
        for i in range(12):
            frame = np.full((48, 64, 3), 60, np.uint8)
            frame[20:28, 10 + 2 * i:22 + 2 * i] = 220
            out.write(frame)
    return path


class Mover:
    """Moves the box 2 pixels right a frame; says lost in frame 5; fails in frame `fail`."""

    def __init__(self, fail=None):
        self.fail, self.frames = fail, []

    def init(self, frame, box):
        self.box, self.frames = box, [frame]

    def update(self, frame):
        i = len(self.frames)
        if i == self.fail:
            raise KeyboardInterrupt
        self.frames.append(frame)
        x, y, w, h = self.box
        return State((x + 2 * i, y, w, h), 0.9, lost=i == 5)


def run(path, tracker, folder, **arguments):
    with FrameSource(path) as source:
        return track(source, tracker, BOX, folder, name="mover", console=quiet(), **arguments)


def quiet():
    return Console(file=io.StringIO())


def test_everything_is_written_and_agrees(video, tmp_path):
    out = tmp_path / "out"
    tracker = Mover()
    summary = run(video, tracker, out)
    assert sorted(os.listdir(out)) == ["my clip-boxes.txt", "my clip-sheet.png",
                                       "my clip-tracked.webm", "my clip.json"]
    assert summary == json.loads((out / "my clip.json").read_text())
    assert summary["frames"] == len(tracker.frames) == len(summary["per_frame"]) == 12
    assert summary["tracker"] == "mover" and summary["size"] == [64, 48]
    assert summary["fps"] > 0 and summary["total_seconds"] > summary["init_seconds"]
    assert summary["auc"] is None and summary["note"] is None
    assert [f["lost"] for f in summary["per_frame"]] == [i == 5 for i in range(12)]
    assert summary["per_frame"][0] == {"box": list(BOX), "confidence": 1.0, "lost": False,
                                       "skipped": 0, "predicted": None, "reach": None}

    boxes = read_boxes(out / "my clip-boxes.txt")
    assert np.allclose(boxes, [(10 + 2 * i, 20, 12.5, 8) for i in range(12)])
    with FrameSource(out / "my clip-tracked.webm") as annotated:
        assert (annotated.fps, annotated.size) == (20, (512, 384))      # enlarged 8 times
        assert len(list(annotated)) == 12
    assert cv2.imread(str(out / "my clip-sheet.png")).shape[1] == 4 * 364


def test_the_boxes_file_has_one_box_a_line():
    assert boxes_text([(1, 2, 3.456, 4), (-0.5, 1e3, 7, 8)]) == (
        "1.00,2.00,3.46,4.00\n-0.50,1000.00,7.00,8.00\n")


def test_only_noted_frames_are_judged(video, tmp_path):
    notes = np.full((12, 4), np.nan)
    notes[[0, 4, 8]] = BOX, (18, 20, 12.5, 8), (10, 20, 12.5, 8)    # right, right, 16 pixels off
    summary = run(video, Mover(), tmp_path / "out", notes=notes)
    assert summary["noted_frames"] == 3
    # two perfect boxes (20 of 21 thresholds) and one without overlap
    assert summary["auc"] == pytest.approx(2 / 3 * 20 / 21)
    assert summary["precision20"] == 1
    predicted = [f["box"] for f in summary["per_frame"]]
    assert summary["auc"] == one_pass(predicted, notes).auc


def test_an_interrupted_run_leaves_nothing(video, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(video, Mover(fail=6), out)
    assert not out.exists()


def test_an_error_while_reading_leaves_nothing(tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((48, 64, 3), np.uint8))
    (folder / "2.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"2\.png"):
        run(folder, Mover(), out)
    assert not out.exists()


def test_ctrl_c_ends_a_recording_from_a_camera_and_keeps_it(video, tmp_path):
    with FrameSource(video) as source:
        source.camera, source.count, source.stem = True, None, "camera-0"
        summary = track(source, Mover(fail=6), BOX, tmp_path / "out", name="mover",
                        console=quiet())
    assert summary["frames"] == 6
    with FrameSource(tmp_path / "out" / "camera-0-tracked.webm") as annotated:
        assert len(list(annotated)) == 6


def test_closing_the_window_ends_tracking_and_keeps_the_files(video, tmp_path):
    class ThreeFrames:
        shown = 0

        def show(self, picture):
            assert picture.shape == (384, 512, 3)
            self.shown += 1
            return self.shown < 3

    summary = run(video, Mover(), tmp_path / "out", window=ThreeFrames())
    assert summary["frames"] == 3 and summary["note"] is None
    assert len(read_boxes(tmp_path / "out" / "my clip-boxes.txt")) == 3


@pytest.mark.parametrize("box", [(100, 100, 5, 5), (0, 0, 0, 5), (0, 0, float("nan"), 5)])
def test_a_bad_box_is_refused_before_anything_is_written(video, tmp_path, box):
    with FrameSource(video) as source, pytest.raises(ValueError, match="box"):
        track(source, load("first"), box, tmp_path / "out", name="first", console=quiet())
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_overwritten(video, tmp_path):
    before = video.read_bytes()
    run(video, load("first"), video.parent)
    assert video.read_bytes() == before


def test_folders_with_dots_keep_their_name(tmp_path):
    folder = tmp_path / "v1.2"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.zeros((48, 64, 3), np.uint8))
    summary = run(folder, load("first"), tmp_path / "out")
    assert summary["files"]["boxes"].endswith("v1.2-boxes.txt")
    assert run(folder / ".." / "v1.2", load("first"), tmp_path / "out")["files"] == summary["files"]
    assert summary["fps"] is None       # one frame: nothing was timed


def test_in_real_time_frames_are_skipped_and_everything_says_so(video, tmp_path, monkeypatch):
    bars, progress = [], module._progress
    monkeypatch.setattr(module, "_progress", lambda *args: bars.append(progress(*args)) or bars[-1])

    class Slow(Mover):
        def update(self, frame):
            time.sleep(.1)                      # two frames of the file's 20 a second
            return super().update(frame)

    tracker = Slow()
    notes = np.full((12, 4), np.nan)
    notes[[0, 11]] = BOX, (30, 20, 12.5, 8)
    summary = run(video, tracker, tmp_path, realtime=True, notes=notes)
    seen = len(tracker.frames)
    assert summary["frames"] == seen < 11 and summary["skipped"] == 12 - seen
    assert bars[0].tasks[0].completed == bars[0].tasks[0].total == 12
    assert sum(f["skipped"] for f in summary["per_frame"]) == 12 - seen
    boxes = read_boxes(tmp_path / "my clip-boxes.txt")
    numbers = np.cumsum([1 + f["skipped"] for f in summary["per_frame"]]) - 1
    assert len(boxes) == 12 and (np.flatnonzero(np.isfinite(boxes[:, 0])) == numbers).all()
    assert summary["noted_frames"] == 2 and numbers[-1] == 11   # the last frame is seen
    with FrameSource(tmp_path / "my clip-tracked.webm") as annotated:
        assert len(list(annotated)) == 12       # it keeps time


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Ten frames with two targets, and a video of it."""
    scene = render(2, 10, (240, 200), 2, unit=40)
    path = tmp_path_factory.mktemp("scene") / "scene.webm"
    scene.write(path)
    return scene, path


def test_many_targets(scene, tmp_path):
    scene, path = scene
    with FrameSource(path) as source:
        summary = track_many(source, MultiTracker(), scene.boxes[0], tmp_path, name="many",
                             console=quiet())
    assert sorted(os.listdir(tmp_path)) == ["scene-sheet.png", "scene-tracked.webm",
                                            "scene-tracks.txt", "scene.json"]
    assert summary == json.loads((tmp_path / "scene.json").read_text())
    assert summary["targets"] == [1, 2] and len(summary["per_frame"]) == 10
    tracks = read_mot(tmp_path / "scene-tracks.txt")
    assert [list(ids) for ids, _ in tracks] == [[1, 2]] * 10
    for t, (_, boxes) in enumerate(tracks):
        np.testing.assert_allclose(boxes, scene.boxes[t], atol=12)
        np.testing.assert_allclose(boxes, [summary["per_frame"][t][n]["box"] for n in "12"],
                                   atol=.006)
    with FrameSource(tmp_path / "scene-tracked.webm") as annotated:
        assert len(list(annotated)) == 10


def test_many_from_a_detector_alone(scene, tmp_path):
    scene, path = scene
    frames = iter(scene.boxes[1:])
    tracker = MultiTracker(detect=lambda frame: (next(frames), np.ones(2)))
    with FrameSource(path) as source:
        summary = track_many(source, tracker, [], tmp_path, name="many", console=quiet())
    assert summary["per_frame"][0] == {} and sorted(summary["per_frame"][9]) == ["1", "2"]
    assert summary["targets"] == [1, 2]


def test_what_the_search_saw_is_in_the_video(scene, tmp_path):
    scene, path = scene
    with FrameSource(path) as source:
        summary = track(source, CorrelationTracker(), scene.boxes[0, 0], tmp_path, name="c",
                        console=quiet(), inside=True)
    with FrameSource(summary["files"]["video"]) as annotated:
        assert annotated.size == (480 + inside_width(400), 400)
        last = list(annotated)[-1]
    assert last[:100, -100:].std() > 10         # the response
    with FrameSource(path) as source, pytest.raises(ValueError, match="tracker correlation, not of"):
        track(source, Mover(), BOX, tmp_path, name="mover", console=quiet(), inside=True)
