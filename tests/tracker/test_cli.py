"""python -m tracker: commands, help, and one clear line for what the user can mend."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from kernels import backend
from tracker.__main__ import app
from tracker.correlation import CorrelationTracker
from tracker.demo import CLIPS
from tracker.video import FrameSource, VideoWriter

cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDEEP_CACHE", str(tmp_path / "cache"))


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def help_of(*command):
    """The help without the colours that some terminals get."""
    result = call(*command, "--help")
    assert result.exit_code == 0, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def refuse(*arguments):
    """Run a command that must fail on the user's account; returns its one line."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(4):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[20:28, 10 + i:20 + i] = 200
        cv2.imwrite(str(folder / f"{i}.png"), frame)
    return folder


def test_track_a_folder(images, tmp_path):
    result = call("track", images, "--box", "10,20,10,8", "--tracker", "first",
                  "--output", tmp_path / "out", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "frames-boxes.txt").read_text() == "10.00,20.00,10.00,8.00\n" * 4
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == 4
    assert "frames-tracked.webm" in result.output
    with FrameSource(tmp_path / "out" / "frames-tracked.webm") as video:
        assert len(list(video)) == 4


def test_track_a_video_with_opencv(tmp_path):
    with FrameSource(CLIPS / "pedestrian.webm") as source, \
            VideoWriter(tmp_path / "short.webm", 10, (300, 300)) as out:
        for _, frame in zip(range(5), source):
            out.write(frame[200:500, 450:750])
    result = call("track", tmp_path / "short.webm", "--box", "161 74 38 98", "--tracker", "MIL",
                  "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "short-boxes.txt").read_text().splitlines()) == 5


@pytest.fixture
def hand_made(monkeypatch):
    """Trackers without their networks: quick, and there without weights."""
    from tracker.correlation import CorrelationTracker
    monkeypatch.setattr(CorrelationTracker, "load", classmethod(lambda cls, path=None: cls()))


def test_track_several_targets(images, tmp_path, hand_made):
    result = call("track", images, "--box", "10,20,10,8", "--box", "40,10,12,12", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "2 targets in 4 frames" in result.output and "frames-tracks.txt" in result.output
    assert len((tmp_path / "frames-tracks.txt").read_text().splitlines()) == 8
    result = call("track", images, "--detect", "motion", "--output", tmp_path)
    assert result.exit_code == 0 and "0 targets in 4 frames" in result.output, result.output
    for where in ((images, "--detect"), ("--detect", "--output", tmp_path / "bare", images)):
        result = call("track", *where)
        assert result.exit_code == 0 and "0 targets in 4 frames" in result.output, result.output
    assert "--detect takes person, cup or motion, not 'x'" in refuse("track", images, "--detect", "x")
    assert "tracker correlation" in refuse("track", images, "--detect", "motion", "--inside")
    assert "tracker correlation" in refuse("track", images, "--box", "1,2,3,4", "--box", "1,2,3,4",
                                           "--tracker", "MIL")


def test_track_in_real_time_and_inside(images, tmp_path, hand_made):
    result = call("track", images, "--box", "10,20,10,8", "--realtime", "--inside", "--tracker",
                  "correlation", "--output", tmp_path, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "a.json").read_text())
    assert summary["frames"] + summary["skipped"] == 4
    assert "inside a search" in refuse("track", images, "--box", "10,20,10,8", "--inside",
                                       "--tracker", "first", "--output", tmp_path)


def test_a_stream_that_is_not_there(tmp_path):
    assert "is the address right" in refuse("track", "rtsp://127.0.0.1:9/x", "--box", "1,2,3,4",
                                            "--tracker", "first")


def test_evaluate_many(tmp_path, hand_made):
    result = call("evaluate-many", "--scenes", 1, "--max-frames", 5, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "MOTA" in result.output and "scene 0" in result.output
    assert json.loads((tmp_path / "a.json").read_text())["boxes"]["scene 0"]["mota"] == 1
    assert "expected MOTChallenge's layout" in refuse("evaluate-many", tmp_path)


@pytest.mark.parametrize("box", ["1,2,3", "1,2,3,4,5", "a,b,c,d", ""])
def test_a_bad_box(images, box):
    assert "--box takes four numbers x,y,w,h" in refuse("track", images, "--box", box)


@pytest.mark.parametrize("box, reason", [("1,2,0,4", "positive width"), ("90,2,3,4", "outside"),
                                         ("nan,2,3,4", "finite")])
def test_a_box_that_cannot_be_tracked(images, tmp_path, box, reason):
    assert reason in refuse("track", images, "--box", box, "--tracker", "first",
                            "--output", tmp_path / "out")


def test_a_missing_file(tmp_path):
    assert "nowhere.mp4 does not exist" in refuse("track", tmp_path / "nowhere.mp4", "--box",
                                                  "1,2,3,4", "--tracker", "first")


def test_an_unknown_tracker(images):
    line = refuse("track", images, "--box", "1,2,3,4", "--tracker", "psychic")
    assert "'psychic'" in line and "MIL" in line
    assert "'psychic'" in refuse("demo", "--tracker", "psychic")


def test_an_unknown_device(images):
    assert "cpu or cuda, not 'abacus'" in refuse("demo", "--device", "abacus")
    assert "MIL computes on the cpu only" in refuse(
        "track", images, "--box", "1,2,3,4", "--tracker", "MIL", "--device", "cuda")


def test_the_environments_device_is_none_of_a_tracker_without_a_network(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDEEP_DEVICE", "cuda")
    result = call("track", images, "--box", "10,20,10,8", "--tracker", "first",
                  "--output", tmp_path / "out", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "a.json").read_text())["device"] == "cpu"


def test_no_box_and_no_display_says_how_to_give_it(images, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    if sys.platform in ("win32", "darwin"):
        pytest.skip("a display is always there")
    assert "--box x,y,w,h" in refuse("track", images, "--tracker", "first")
    assert "leave out --show" in refuse("demo", "--show", "--tracker", "first")
    rendered = refuse("demo", "--show", "--rendered", "--tracker", "first", "--output", images / "out")
    assert "leave out --show" in rendered and not (images / "out").exists()


def test_evaluate(images, tmp_path):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    result = call("evaluate", images, "--trackers", "first", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "a.json").read_text())["trackers"]["first"]["auc"] == (
        pytest.approx(20 / 21))
    assert "there are no images" in refuse("evaluate", _only_boxes(tmp_path))


def test_evaluate_writes_a_page_and_says_what_it_recognised(images, tmp_path):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    result = call("evaluate", images, "--trackers", "first", "--html", tmp_path / "a.html",
                  "--results", tmp_path / "results", "--one-based")
    assert result.exit_code == 0, result.output
    assert "1 sequence (folder layout), 4 frames" in result.output
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    boxes = (tmp_path / "results" / "first" / "frames" / "frames_001.txt").read_text()
    assert boxes.startswith("9.000,19.000,10.000,8.000")
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 3)
    line = refuse("evaluate", images)
    assert "4 frames but 3 boxes" in line and "groundtruth.txt" in line
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    assert "'psychic'" in refuse("evaluate", images, "--trackers", "psychic")


def test_a_tracker_that_was_named_and_cannot_be_used(images, monkeypatch):
    import tracker

    def missing():
        raise ImportError("no such wheel: pip install it")

    class Broken:
        def init(self, frame, box):
            raise ArithmeticError("broken")

    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    for name in ("CSRT", *set(tracker.names()) - {"first", "velocity", tracker.DEFAULT}):
        monkeypatch.setitem(tracker._MAKERS, name, missing)
    for command in ("evaluate", "robustness", "occlusions"):
        named = call(command, images, "--trackers", "first,CSRT")
        assert named.exit_code == 1, named.output
        assert "no such wheel: pip install it" in named.output and "CSRT is not" in named.output
        assert call(command, images, "--trackers", "first").exit_code == 0
    assert "CSRT (not" in call("evaluate", images, "--trackers", "CSRT").output
    every = call("evaluate", images)
    assert every.exit_code == 0 and "CSRT is not available" in every.output
    monkeypatch.setitem(tracker._MAKERS, tracker.DEFAULT, missing)      # without that there is no result
    assert call("evaluate", images).exit_code == call("occlusions", images).exit_code == 1
    monkeypatch.setitem(tracker._MAKERS, "CSRT", Broken)
    for command in ("evaluate", "occlusions"):
        assert call(command, images, "--trackers", "first,CSRT").exit_code == 1


def test_outputs_are_checked_before_the_work_begins(images, tmp_path, monkeypatch):
    """All that a command will write, and nothing is left behind."""
    import tracker
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    monkeypatch.setattr(tracker, "load", lambda *_: pytest.fail("it began"))
    before = sorted(tmp_path.rglob("*"))
    under = file / "a" / "x.json"
    track = "track", images, "--box", "10,20,10,8", "--tracker", "first"
    wrong = [("evaluate", images, "--json", under), ("evaluate", images, "--html", folder),
             ("evaluate", images, "--results", file), ("evaluate-many", "--json", under),
             ("robustness", images, "--html", under), ("ablate", images, "--json", folder),
             ("occlusions", images, "--json", under), ("predict", images, "--json", folder),
             ("demo", "--output", file), ("demo", "--json", under),
             (*track, "--output", file / "a"), (*track, "--json", folder),
             *(("train", kind, images, option, where) for kind in ("recurrent", "correlation", "motion")
               for option, where in (("--output", file), ("--json", under)))]
    for command in wrong:
        assert f"error: {command[-1]} cannot be written" in refuse(*command), command
    assert sorted(tmp_path.rglob("*")) == before


def test_no_empty_folder_is_left_behind(images, tmp_path):
    deep = tmp_path / "new" / "out"
    for box in ("90,2,3,4", "1,2,0,4"):
        refuse("track", images, "--box", box, "--tracker", "first", "--output", deep)
    cv2.imwrite(str(images / "2.png"), np.zeros((9, 9, 3), np.uint8))
    assert "must be equal" in refuse("track", images, "--box", "10,20,10,8", "--tracker", "first",
                                     "--output", deep)
    assert not (tmp_path / "new").exists()


def test_what_could_not_be_measured_is_an_exit_code(images):
    (images / "groundtruth.txt").write_text("90,20,10,8\n" * 4)        # outside of the frames
    assert call("robustness", images, "--trackers", "first").exit_code == 1
    assert call("ablate", images, "--frames", 3).exit_code == 1


def test_a_default_tracker_that_has_no_device(images, monkeypatch):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    problem = backend.DeviceError("CUDA cannot be used here: no driver")
    monkeypatch.setattr(CorrelationTracker, "load", classmethod(lambda *_, **__: raise_(problem)))
    assert "no driver" in refuse("predict", images)
    assert call("occlusions", images).exit_code == 1


def raise_(error):
    raise error


def test_two_results_want_two_files(images, tmp_path):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    one = tmp_path / "one"
    line = refuse("evaluate", images, "--trackers", "first", "--json", one, "--html", one)
    assert f"cannot both be written to {one}" in line and not one.exists()


def test_robustness(images):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    result = call("robustness", images, "--trackers", "first", "--json", images / "r.json",
                  "--html", images / "r.html")
    assert result.exit_code == 0, result.output
    curve = json.loads((images / "r.json").read_text())["curves"]["first"]["frame rate"]
    assert curve[3] is None and 0 < curve[0] < 1     # every eighth of four: nothing to judge
    assert "success AUC against frame rate" in result.output
    assert "'psychic'" in refuse("robustness", images, "--trackers", "psychic")


def test_too_few_frames_to_judge(images):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    assert "2 frames or more (--max-frames)" in refuse("robustness", images, "--max-frames", "1")
    for few in "12":
        assert "3 frames or more" in refuse("predict", images, "--max-frames", few)
    assert call("predict", images, "--max-frames", "3").exit_code == 0


def test_a_tracker_that_predicts_nothing(images):
    (images / "groundtruth.txt").write_text("10,20,10,8\n" * 4)
    line = refuse("predict", images, "--tracker", "first")
    assert "the tracker first predicts nothing: " in line and "correlation and recurrent predict" in line


def test_train_says_what_data_it_wants(tmp_path):
    assert "no training data" in refuse("train", "recurrent", tmp_path, "--output", tmp_path / "out")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no photo")
    for name in ("recurrent", "correlation"):       # the one is told by a process that prepares data
        line = refuse("train", name, tmp_path, "--output", tmp_path / "out", "--steps", 1)
        assert str(tmp_path) in line and ("no photo" in line or "nothing to make pairs" in line)


@pytest.mark.parametrize("name", ["recurrent", "correlation", "detector"])
def test_a_resumed_training_keeps_its_steps_and_seed(name, tmp_path):
    (tmp_path / "photos").mkdir()
    line = refuse("train", name, tmp_path, "--output", tmp_path / "out", "--resume", "--seed", 0)
    assert "leave out --seed" in line


def _only_boxes(folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "groundtruth.txt").write_text("1,2,3,4\n")
    return folder / "empty"


def test_help_names_every_option():
    assert all(name in help_of() for name in ("demo", "track", "train", "evaluate"))
    for command in ("demo", "track", "train recurrent", "train correlation", "evaluate"):
        assert "--json" in help_of(*command.split())
    assert "x,y,w,h" in help_of("track") and "recurrent" in help_of("demo")


def test_help_is_quick():
    """It loads neither OpenCV, NumPy nor the engine."""
    code = ("import sys; from typer.testing import CliRunner; from tracker.__main__ import app; "
            "assert CliRunner().invoke(app, ['track', '--help']).exit_code == 0; "
            "print(sorted({'cv2', 'numpy', 'minideep', 'kernels'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=True)
    assert done.stdout.strip() == "[]"
