"""The demo and its clips: they can be read, their notes are sound, and it writes what it says."""

import json
import os

import numpy as np
import pytest

from tracker import demo as module
from tracker.demo import CLIPS, NAMES, demo, read_notes
from tracker.sequences import read_boxes
from tracker.video import FrameSource, VideoWriter

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def short_clips(tmp_path_factory):
    """The first 11 frames of the bundled clips, a quarter of the size, with their notes."""
    folder = tmp_path_factory.mktemp("clips")
    for name in NAMES:
        with FrameSource(CLIPS / f"{name}.webm") as source:
            width, height = (n // 4 for n in source.size)
            with VideoWriter(folder / f"{name}.webm", source.fps, (width, height)) as out:
                for _, frame in zip(range(11), source):
                    out.write(np.ascontiguousarray(frame[::4, ::4]))
            notes = read_notes(CLIPS / f"{name}.boxes.txt", source.count) / 4
        (folder / f"{name}.boxes.txt").write_text("# short\n" + "".join(
            f"{i}," + ",".join(f"{v:.2f}" for v in notes[i]) + "\n" for i in (0, 10)))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_clips_are_whole_and_noted(name):
    assert (CLIPS / f"{name}.webm").stat().st_size < 2_000_000
    with FrameSource(CLIPS / f"{name}.webm") as source:
        n = sum(1 for _ in source)
        assert 150 <= n == source.count <= 300
        width, height = source.size
    notes = read_notes(CLIPS / f"{name}.boxes.txt", n)
    noted = np.flatnonzero(np.isfinite(notes).all(1))
    assert set(range(0, n, 10)) <= set(noted)
    boxes = notes[noted]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 10).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (width, height)).all()
    # between two notes, 10 frames apart at most, no target leaps further than its own size
    steps = np.abs(np.diff(boxes[:, :2] + boxes[:, 2:] / 2, axis=0))
    assert (steps < boxes[1:, 2:].max(1, keepdims=True)).all()


def test_the_notice_names_every_clip():
    notice = (CLIPS / "NOTICE").read_text()
    assert "Apache License, Version 2.0" in notice and "Changes:" in notice
    assert all(f"{name}.webm" in notice for name in NAMES)
    assert "Apache License" in (CLIPS / "LICENSE-APACHE").read_text()


def test_the_demo_writes_and_prints_everything(short_clips, tmp_path, capsys):
    out = tmp_path / "out"
    summaries = demo(out, "first", json=tmp_path / "all.json", clips=short_clips)
    assert sorted(os.listdir(out)) == sorted(
        f"{name}{end}" for name in NAMES
        for end in ("-boxes.txt", "-sheet.png", "-tracked.webm", ".json"))
    assert json.loads((tmp_path / "all.json").read_text()) == summaries
    for name in NAMES:
        s = summaries[name]
        assert (s["frames"], s["noted_frames"], s["tracker"], s["device"]) == (
            11, 2, "first", "cpu")
        boxes = read_boxes(out / f"{name}-boxes.txt")
        assert (boxes == boxes[0]).all() and len(boxes) == 11      # "first" never moves
        assert 20 / 42 <= s["auc"] <= 20 / 21 and s["precision20"] == 1
    printed = capsys.readouterr().out
    for word in ("cup", "pedestrian", "frames/s", "success AUC", "precision", "cup-tracked.webm",
                 f"{summaries['cup']['auc']:.3f}"):
        assert word in printed


def test_notes_go_to_their_frames(tmp_path):
    path = tmp_path / "a.boxes.txt"
    path.write_text("# frame, x, y, w, h\n0,1,2,3,4\n\n3, 5, 6, 7, 8\n")
    notes = read_notes(path, 5)
    assert notes[0].tolist() == [1, 2, 3, 4] and notes[3].tolist() == [5, 6, 7, 8]
    assert np.isnan(notes[[1, 2, 4]]).all()


@pytest.mark.parametrize("text, match", [
    ("1,2,3,4,5\n", "frame 0 has no box"),
    ("0,1,2,3,4\n9,1,2,3,4\n", "line 2: expected frame,x,y,w,h with frame below 5"),
    ("0,1,2,3\n", "line 1"),
    ("0,1,2,3,4,5\n", "line 1"),
    ("0,1,2,x,4\n", "line 1"),
])
def test_bad_notes_are_named(tmp_path, text, match):
    path = tmp_path / "a.boxes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_notes(path, 5)


def test_the_rendered_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "RENDERED", {"small": {"seed": 1, "frames": 6, "size": (160, 120),
                                                       "unit": 30}})
    summaries = demo(tmp_path, "first", rendered=True)
    assert list(summaries) == ["small"] and summaries["small"]["noted_frames"] == 6
    assert summaries["small"]["auc"] > .5
    assert {"small.webm", "small.boxes.txt", "small-tracked.webm"} <= set(os.listdir(tmp_path))
    notes = read_notes(tmp_path / "small.boxes.txt", 6)
    assert np.isfinite(notes).all() and "small" in capsys.readouterr().out
