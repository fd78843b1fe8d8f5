import functools
import json
import os
import time

import numpy as np
import pytest

import tracker
from tracker import State, evaluate, metrics
from tracker.sequences import ImageFrames, Sequence, find_sequences

cv2 = pytest.importorskip("cv2")
SIZE = (64, 48)     # width, height


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDEEP_CACHE", str(tmp_path / "cache"))


def moving(name="moving", n=8, step=2.0, absent=()):
    boxes = np.array([[5 + step * t, 10, 12, 10] for t in range(n)], float)
    boxes[list(absent)] = np.nan
    return Sequence(name, [np.full((48, 64, 3), t, np.uint8) for t in range(n)], boxes)


class Scripted:
    """Says box t in its t-th update, and notes what it was shown."""

    def __init__(self, boxes, fail_at=None):
        self.boxes, self.fail_at, self.seen = boxes, fail_at, []

    def init(self, frame, box):
        self.seen.append(("init", int(frame[0, 0, 0]), tuple(box)))

    def update(self, frame):
        t = int(frame[0, 0, 0])
        self.seen.append(("update", t))
        if t == self.fail_at:
            raise ArithmeticError("it broke")
        return State(tuple(self.boxes[t]), confidence=t / 10, lost=False)


def test_one_pass_over_all_frames_from_the_first_annotated_one():
    sequence = moving(absent=(0, 1, 4))
    said = np.arange(32.0).reshape(8, 4)
    script, steps = Scripted(said), []
    track = evaluate.run(script, sequence, progress=lambda done, total: steps.append((done, total)))
    assert script.seen == [("init", 2, tuple(sequence.boxes[2])),
                           *(("update", t) for t in range(3, 8))]
    assert steps == [(i, 8) for i in range(1, 9)]
    assert track.start == 2 and track.size == SIZE
    assert np.isnan(track.boxes[:2]).all() and np.isnan(track.confidence[:2]).all()
    np.testing.assert_array_equal(track.boxes[2:], [sequence.boxes[2], *said[3:]])
    np.testing.assert_array_equal(track.confidence[2:], [1, .3, .4, .5, .6, .7])
    assert np.isnan(track.seconds[:3]).all() and (track.seconds[3:] > 0).all()


def test_only_update_is_timed():
    class Slow(Scripted):
        def init(self, frame, box):
            time.sleep(0.1)

        def update(self, frame):
            time.sleep(0.01)
            return super().update(frame)

    class SlowFrames(ImageFrames):
        def __getitem__(self, index):
            time.sleep(0.1)
            return moving().frames[self.paths[index]]

    sequence = moving(n=4)
    track = evaluate.run(Slow(sequence.boxes),
                         Sequence("slow", SlowFrames(range(4)), sequence.boxes))
    assert 0.03 <= np.nansum(track.seconds) < 0.1 * 3


def test_the_velocity_baseline_is_told_the_second_annotated_box():
    sequence = moving(absent=(1, 2))
    track = evaluate.run(tracker.load("velocity"), sequence)
    np.testing.assert_allclose(track.boxes, moving().boxes)


def test_errors_name_sequence_and_frame():
    with pytest.raises(RuntimeError, match="moving, frame 3: ArithmeticError: it broke"):
        evaluate.run(Scripted(np.ones((8, 4)), fail_at=3), moving())
    short = moving()
    object.__setattr__(short, "boxes", np.ones((9, 4)))     # as a video that ends too early
    with pytest.raises(RuntimeError, match="the frames end here, but there are boxes for 9"):
        evaluate.run(Scripted(np.ones((9, 4))), short)


def test_the_report_averages_sequences_and_pools_frames():
    sequences = [moving("long", n=20), moving("short", n=5, step=9)]
    report = evaluate.evaluate(sequences, {"still": lambda: tracker.load("first")})
    assert list(report.outcomes) == ["still", "first", "velocity"] and not report.missing
    still = [np.tile(s.boxes[0], (len(s), 1)) for s in sequences]
    each = [metrics.one_pass(b, s.boxes) for b, s in zip(still, sequences)]
    pooled = np.concatenate([metrics.got10k_overlaps(b, s.boxes, *SIZE)
                             for b, s in zip(still, sequences)])
    summary = report.summary("still")
    assert summary["auc"] == pytest.approx((each[0].auc + each[1].auc) / 2)
    assert summary["precision20"] == pytest.approx((each[0].precision20 + each[1].precision20) / 2)
    assert summary["ao"] == pytest.approx(pooled.mean()) and len(pooled) == 19 + 4
    assert summary["fps"] > 100
    assert report.summary("velocity")["auc"] == pytest.approx(20 / 21)
    assert [o.sequence for o in report.outcomes["still"]] == ["long", "short"]


def test_frames_before_the_start_are_not_judged_and_the_absent_rule_is_used():
    sequence = moving(absent=(0, 1, 5))
    for rule, share in (("lasot", 1), ("otb", 5 / 6)):
        report = evaluate.evaluate([sequence], ["velocity"], absent=rule)
        assert report.summary("velocity")["auc"] == pytest.approx(share * 20 / 21)


def test_a_failing_tracker_scores_zero_there_and_is_named(tmp_path):
    made = []

    def make():     # fails on the second sequence only; the first call is the check that it loads
        made.append(len(made))
        return Scripted(moving(n=20).boxes, fail_at=3 if len(made) == 3 else None)

    sequences = [moving("good"), moving("bad"), moving("fine")]
    seen = []
    report = evaluate.evaluate(sequences, {"mine": make}, progress=seen.append)
    assert report.errors("mine") == {"bad": "bad, frame 3: ArithmeticError: it broke"}
    assert [o.one_pass.auc for o in report.outcomes["mine"]] == pytest.approx([20/21, 0, 20/21])
    assert report.summary("mine")["auc"] == pytest.approx(2 / 3 * 20 / 21)
    assert report.summary("mine")["ao"] == pytest.approx(2 / 3)
    assert len(seen) == 9
    assert any("mine failed and scores 0 on bad, frame 3" in note for note in report.notes())
    path = tmp_path / "report.json"
    report.to_json(path)
    content = json.loads(path.read_text())
    assert content["trackers"]["mine"]["errors"] == report.errors("mine")
    assert content["trackers"]["mine"]["sequences"]["bad"]["auc"] == 0
    assert content["trackers"]["mine"]["sequences"]["bad"]["precision20"] == 0
    assert content["trackers"]["mine"]["auc"] == report.summary("mine")["auc"]
    assert content["absent_rule"] == "lasot"


def test_a_tracker_that_cannot_be_loaded_is_listed_with_the_reason():
    def make():
        raise ImportError("no such wheel")

    report = evaluate.evaluate([moving()], {"mine": make})
    assert report.missing == {"mine": "ImportError: no such wheel"}
    assert "mine is not available: ImportError: no such wheel" in report.notes()
    assert report.table().row_count == 3


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'nope'.*recurrent"):
        evaluate.evaluate([moving()], ["first", "nope"])
    with pytest.raises(ValueError, match="'vot'"):
        evaluate.evaluate([moving()], ["first"], absent="vot")
    with pytest.raises(ValueError, match="same name"):
        evaluate.evaluate([moving(), moving()], ["first"])


def write(folder, sequence):
    (folder / sequence.name / "img").mkdir(parents=True)
    for t, frame in enumerate(sequence.frames):
        cv2.imwrite(str(folder / sequence.name / "img" / f"{t:04}.png"), frame)
    np.savetxt(folder / sequence.name / "groundtruth_rect.txt", sequence.boxes, delimiter=",")


def test_processes_give_what_one_process_gives_and_one_that_dies_is_reported(tmp_path):
    for sequence in (moving("a"), moving("b", n=12, step=3)):
        write(tmp_path, sequence)
    sequences = find_sequences(tmp_path)
    alone = evaluate.evaluate(sequences, ["first"])
    before = dict(os.environ)
    shared = evaluate.evaluate(sequences, ["first"], jobs=2)
    assert dict(os.environ) == before
    for name in ("first", "velocity"):
        for one, other in zip(alone.outcomes[name], shared.outcomes[name]):
            assert (one.sequence, one.one_pass.auc) == (other.sequence, other.one_pass.auc)
            np.testing.assert_array_equal(one.overlaps, other.overlaps)
    deadly = functools.partial(eval, "__import__('os')._exit(1) if "
                               "__import__('multiprocessing').parent_process() else 0")
    report = evaluate.evaluate(sequences[:1], {"deadly": deadly}, jobs=2)
    assert "a: its process died" in report.errors("deadly")["a"]
    assert report.summary("deadly")["auc"] == 0
    assert not report.errors("first") and not report.errors("velocity")     # innocent


def test_the_command_prints_tables_and_writes_json(tmp_path, capsys):
    write(tmp_path / "data", moving("a", n=8))
    path = tmp_path / "out.json"
    report = evaluate.evaluate_command(tmp_path / "data", "first, KCF", json=path, max_frames=6)
    text = capsys.readouterr().out
    for word in ("AUC", "velocity", "first", "KCF", "SR.75", "lasot", str(path)[:20]):
        assert word in text
    if tracker.available()["KCF"]:
        assert "opencv-contrib-python" in text.replace("\n", "")
    assert report.outcomes["first"][0].updates == 5
    assert json.loads(path.read_text())["trackers"]["velocity"]["auc"] == pytest.approx(20 / 21)
