import functools
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tracker
from tracker import State, cache, evaluate, metrics
from tracker.attributes import find_attributes
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


def test_errors_name_sequence_and_frame(tmp_path):
    images = [tmp_path / name for name in ("0.png", "1.png", "gone.png")]
    for path in images[:2]:
        evaluate.import_cv2().imwrite(str(path), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(RuntimeError, match="moving, frame 3: ArithmeticError: it broke"):
        evaluate.run(Scripted(np.ones((8, 4)), fail_at=3), moving())
    with pytest.raises(RuntimeError, match=r"s, frame 2: ValueError: cannot read the image .*gone\.png"):
        evaluate.run(Scripted(np.ones((3, 4))), Sequence("s", ImageFrames(images), np.ones((3, 4))))
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
    assert report.outcomes["first"][0].updates == 4
    assert json.loads(path.read_text())["trackers"]["velocity"]["auc"] == pytest.approx(20 / 21)


# ------------------------------------------------------------------------------- what is kept


class Counting:
    """Keeps the first box and counts how often one was started."""

    started = 0

    def init(self, frame, box):
        self.box = tuple(map(float, box))
        Counting.started += 1

    def update(self, frame):
        return State(self.box, confidence=.5, lost=int(frame[0, 0, 0]) == 6)


@pytest.fixture
def counting(monkeypatch):
    """The tracker "first" counts."""
    monkeypatch.setitem(tracker._MAKERS, "first", Counting)
    monkeypatch.setattr(Counting, "started", 0)
    return Counting


def folder_of(tmp_path, *sequences):
    for sequence in sequences:
        write(tmp_path / "data", sequence)
    return tmp_path / "data"


def test_tracks_are_kept_until_a_file_changes(tmp_path, counting):
    folder = folder_of(tmp_path, moving("a"), moving("b", n=12))
    once = evaluate.evaluate(find_sequences(folder), ["first"])
    assert counting.started == 2 and not any(o.kept for o in once.outcomes["first"])
    seen = []
    again = evaluate.evaluate(find_sequences(folder), ["first"], progress=seen.append)
    assert counting.started == 2 and len(seen) == 4 and all(o.kept for o in seen)
    for one, other in zip(once.outcomes["first"], again.outcomes["first"]):
        assert one.summary() == other.summary()
        for name, value in vars(one.track).items():
            np.testing.assert_array_equal(value, getattr(other.track, name))
    assert once.outcomes["first"][0].track.lost.sum() == 1
    evaluate.evaluate(find_sequences(folder), ["first"], fresh=True)
    assert counting.started == 4
    # an image, a box, or fewer frames: only what changed is tracked again
    cv2.imwrite(str(folder / "a" / "img" / "0003.png"), np.full((48, 64, 3), 9, np.uint8))
    evaluate.evaluate(find_sequences(folder), ["first"])
    assert counting.started == 5
    boxes = folder / "b" / "groundtruth_rect.txt"
    *lines, last = boxes.read_text().splitlines()
    boxes.write_text("\n".join([*lines, "1,2,3,4"]))
    evaluate.evaluate(find_sequences(folder), ["first"])
    assert counting.started == 6
    evaluate.evaluate([s.head(5) for s in find_sequences(folder)], ["first"])
    assert counting.started == 8


class Interrupted(Counting):
    def update(self, frame):
        if Counting.started == 3:
            raise KeyboardInterrupt
        return super().update(frame)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path, *(moving(name) for name in "abcd"))
    monkeypatch.setitem(tracker._MAKERS, "first", Interrupted)
    monkeypatch.setattr(Counting, "started", 0)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate_command(folder, "first")
    said = capsys.readouterr().out
    assert "interrupted after 2 of 8 tracks, 2 of them kept" in said and "goes on" in said
    assert len(list((tmp_path / "cache" / "tracks").iterdir())) == 2        # whole ones only
    report = evaluate.evaluate_command(folder, "first")
    assert Counting.started == 5        # c, which was broken off, again; and d
    assert [o.kept for o in report.outcomes["first"]] == [True, True, False, False]
    assert "2 of 8 tracks were kept" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_told_once(tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path, *(moving(name) for name in "abcd"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINIDEEP_CACHE", str(tmp_path / "file"))
    monkeypatch.setitem(tracker._MAKERS, "first", Interrupted)
    monkeypatch.setattr(Counting, "started", 0)
    cache._warn.cache_clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate_command(folder, "first")
    out, err = capsys.readouterr()
    assert "interrupted after 2 of 8 tracks, none of them kept" in out
    assert err.count("tracks cannot be kept in") == 1 and "MINIDEEP_CACHE=FOLDER" in err
    assert str(tmp_path / "file") in err


def test_errors_are_not_kept(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, moving("a"))
    monkeypatch.setitem(tracker._MAKERS, "first",
                        lambda: Scripted(moving().boxes, fail_at=3))
    assert evaluate.evaluate(find_sequences(folder), ["first"]).errors("first")
    monkeypatch.setitem(tracker._MAKERS, "first", lambda: Scripted(moving().boxes))
    assert not evaluate.evaluate(find_sequences(folder), ["first"]).errors("first")


def test_a_damaged_or_unwritable_cache_only_costs_time(tmp_path, counting, monkeypatch):
    folder = folder_of(tmp_path, moving("a"))
    evaluate.evaluate(find_sequences(folder), ["first"])
    for file in (tmp_path / "cache" / "tracks").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert not evaluate.evaluate(find_sequences(folder), ["first"]).errors("first")
    assert counting.started == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIDEEP_CACHE", str(tmp_path / "file"))
    assert not evaluate.evaluate(find_sequences(folder), ["first"]).errors("first")


def test_frames_in_memory_are_not_kept(counting):
    for _ in range(2):
        evaluate.evaluate([moving()], ["first"])
    assert counting.started == 2


def test_processes_keep_their_tracks_too(tmp_path):
    sequences = find_sequences(folder_of(tmp_path, moving("a"), moving("b")))
    evaluate.evaluate(sequences, ["first"], jobs=2)
    report = evaluate.evaluate(sequences, ["first"])
    assert all(o.kept for outcomes in report.outcomes.values() for o in outcomes)


def test_the_fingerprint_knows_sources_weights_and_settings(tmp_path, monkeypatch):
    for name in ("tracker/__init__.py", "tracker/recurrent.py", "tracker/boxes.py",
                 "tracker/window.py", "tracker/opencv.py", "minideep/a/b.py", "kernels/c.cu",
                 "kernels/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("from tracker import opencv\n" if "window" in name else "")
    (tmp_path / "tracker" / "__init__.py").write_text("def f():\n  import tracker.window\n")
    (tmp_path / "tracker" / "recurrent.py").write_text(
        "from tracker import boxes\ndef f():\n  from minideep import a\n")
    (tmp_path / "tracker" / "weights").mkdir()
    (tmp_path / "tracker" / "weights" / "w.safetensors").write_text("1")
    monkeypatch.setattr(cache, "ROOT", tmp_path)

    def now(name="recurrent", module="tracker.recurrent"):
        cache.fingerprint.cache_clear()
        return cache.fingerprint(name, module)

    last = now()
    assert now() == last and now("other") != last
    for changed in ("tracker/recurrent.py", "tracker/boxes.py", "minideep/a/b.py", "kernels/c.cu",
                    "kernels/__init__.py", "tracker/weights/w.safetensors", "tracker/__init__.py"):
        with open(tmp_path / changed, "a") as file:
            file.write("# more")
        assert now() != last, changed
        last = now()
    for unused in ("tracker/window.py", "tracker/opencv.py"):
        (tmp_path / unused).write_text("# else")
        assert now() == last, unused
    monkeypatch.setenv("MINIDEEP_KERNELS", "conv2d=im2col")
    assert now() != last
    monkeypatch.delenv("MINIDEEP_KERNELS")
    # a baseline does not use the engine; OpenCV's trackers are OpenCV
    (tmp_path / "tracker" / "baselines.py").write_text("import tracker.boxes")
    first, mil = now("first", "tracker.baselines"), now("MIL", "tracker.opencv")
    (tmp_path / "minideep" / "a" / "b.py").write_text("new")
    assert now("first", "tracker.baselines") == first and now("MIL", "tracker.opencv") == mil
    (tmp_path / "tracker" / "boxes.py").write_text("new")
    assert now("first", "tracker.baselines") != first and now("MIL", "tracker.opencv") == mil
    cache.fingerprint.cache_clear()


def test_the_sources_of_the_real_trackers():
    def names(module):
        return {str(f.relative_to(cache.ROOT)).replace(os.sep, "/") for f in cache._sources(module)}

    used = names("tracker.recurrent")
    assert {"tracker/recurrent.py", "tracker/boxes.py", "tracker/__init__.py",
            "minideep/tensor.py"} <= used
    assert any(name.startswith("kernels/conv2d/") for name in used)
    assert not {"tracker/evaluate.py", "tracker/report.py", "tracker/training.py"} & used
    assert names("tracker.baselines") == {"tracker/baselines.py", "tracker/boxes.py",
                                          "tracker/__init__.py"}


# ------------------------------------------------------------------------------- what is written


def test_attributes_and_curves_are_in_the_report(tmp_path):
    tagged = moving("a", n=8)
    dark = np.arange(8) >= 4
    tagged = Sequence("a", tagged.frames, tagged.boxes, attributes={"dark": dark})
    whole = moving("b", n=6, step=5)
    report = evaluate.Report(
        evaluate.evaluate([tagged, whole], ["first"]).outcomes, {}, "lasot", [tagged, whole],
        {"dark": {"a": dark}, "gone": {"b": np.arange(6) < 0}})
    scores = report.by_attribute("first")
    still = np.tile(tagged.boxes[0], (8, 1))
    assert scores["dark"] == pytest.approx(
        metrics.one_pass(still[dark], tagged.boxes[dark]).auc)
    assert np.isnan(scores["gone"])
    curve = report.curve("velocity", "success")
    assert curve.shape == (21,) and curve[0] == 1 and curve[-1] == 0
    report.to_json(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["attributes"] == {"dark": ["a"], "gone": ["b"]}
    assert content["trackers"]["first"]["attributes"]["gone"] is None
    assert content["trackers"]["velocity"]["curves"]["success"] == pytest.approx(list(curve))
    assert content["data"].startswith("2 sequences")


def test_tracks_in_got10ks_format(tmp_path):
    folder = folder_of(tmp_path, moving("a", n=5))
    evaluate.evaluate_command(folder, "first", results=tmp_path / "results")
    boxes = np.loadtxt(tmp_path / "results" / "velocity" / "a" / "a_001.txt", delimiter=",")
    np.testing.assert_allclose(boxes, moving(n=5).boxes)
    times = np.loadtxt(tmp_path / "results" / "first" / "a" / "a_time.txt")
    assert times.shape == (5,) and times[0] == 0 and (times[1:] >= 0).all()


def test_the_page_is_one_file_with_everything(tmp_path, capsys):
    folder = folder_of(tmp_path, moving("one & <two>", n=30, step=1.5), moving("b", absent=(4,)))
    page = tmp_path / "page.html"
    evaluate.evaluate_command(folder, "first,MIL,KCF", html=page)
    text = page.read_text()
    assert "one &amp; &lt;two&gt;" in text and "<two>" not in text
    assert not any(word in text for word in ("http://", "src='http", "<script", "@import", "url("))
    for word in ("<svg", "data:image/jpeg;base64,", "Worst moments of MIL", "absence",
                 "prefers-color-scheme: dark", 'name="viewport"', "Overlap over time"):
        assert word in text, word
    if tracker.available()["KCF"]:
        assert "KCF is not available" in text and "make peers" in text
    import html.parser

    class Balanced(html.parser.HTMLParser):
        open_tags = []

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img"):
                self.open_tags.append(tag)

        def handle_startendtag(self, tag, attributes):
            pass

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    parser = Balanced()
    parser.feed(text)
    assert parser.open_tags == []


def test_worst_moments_are_the_longest_stretches():
    from tracker.report import worst_moments
    sequences = [moving("a", n=20, step=0), moving("b", n=20, step=0, absent=(3, 4)),
                 moving("c", n=20, step=0)]
    far = np.array([40., 30, 5, 5])
    scripts = [sequence.boxes.copy() for sequence in sequences]
    scripts[0][5:8], scripts[0][10:16] = far, far
    scripts[1][2:9] = far               # two of these frames do not count
    outcomes = []
    for sequence, script in zip(sequences, scripts):
        job = evaluate.Job("x", None, sequence)
        outcomes.append(evaluate.judge(job, evaluate.run(Scripted(np.nan_to_num(script)), sequence)))
    found = worst_moments(outcomes, sequences)
    assert [(cost, s.name, at) for cost, s, _, at in found] == [(6, "a", 10), (5, "b", 2)]


def test_help_and_bad_input(tmp_path):
    with pytest.raises(ValueError, match="--trackers takes names"):
        evaluate.split_names(" , ")
    folder = folder_of(tmp_path, moving("a"))
    shutil.rmtree(folder / "a" / "img")
    with pytest.raises(FileNotFoundError, match="there are no images"):
        evaluate.evaluate_command(folder)
    assert Path(cache.folder()) == tmp_path / "cache" / "tracks"


def test_frames_that_nobody_noted_are_not_judged():
    boxes = np.tile([5., 5., 9., 9.], (6, 1))
    boxes[2:5] = np.nan
    frames = [np.zeros((24, 32, 3), np.uint8)] * 6
    noted = np.array([True, True, False, False, True, True])    # in frame 4 it is known to be away
    tags = {"haze": np.ones(6, bool)}
    for sequence, auc in ((Sequence("a", frames, boxes, "", tags), 3 / 6),
                          (Sequence("b", frames, boxes, "", tags, noted), 3 / 4)):
        report = evaluate.evaluate([sequence], ["first"], absent="otb")
        assert report.outcomes["first"][0].one_pass.auc == pytest.approx(20 / 21 * auc)
        report = replace(report, attributes=find_attributes([sequence]))
        assert report.by_attribute("first")["haze"] == pytest.approx(20 / 21 * auc)
