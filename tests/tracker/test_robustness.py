import json

import numpy as np
import pytest

import tracker
from tracker import robustness as r
from tracker.boxes import centre
from tracker.evaluate import Track
from tracker.sequences import Sequence

cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDEEP_CACHE", str(tmp_path / "cache"))


def sequence(n=9, absent=(), name="s"):
    rng = np.random.default_rng(1)
    boxes = np.array([[5 + 2 * t, 10, 12, 10] for t in range(n)], float)
    boxes[list(absent)] = np.nan
    return Sequence(name, list(rng.integers(60, 200, (n, 48, 64, 3), np.uint8)), boxes)


@pytest.mark.parametrize("kind", r.CURVES)
def test_the_first_level_leaves_all_as_it_is(kind):
    given = sequence()
    same, first = r.worsened(given, kind, r.CURVES[kind][1][0])
    assert same is given and first.tolist() == given.boxes[0].tolist()


def test_noise_has_its_strength_and_is_the_same_every_time():
    given = sequence()
    for level in (10, 40):
        noisy, first = r.worsened(given, "noise", level)
        added = np.stack(list(noisy.frames)).astype(float) - np.stack(given.frames)
        assert added[..., 0].std() == pytest.approx(level, rel=.1) and abs(added.mean()) < 1
        again, _ = r.worsened(sequence(), "noise", level)
        np.testing.assert_array_equal(noisy.frames[4], again.frames[4])
    other, _ = r.worsened(sequence(name="t"), "noise", level)
    third, fourth, others = (frames[i].astype(float) - given.frames[i] for frames, i in (
        (noisy.frames, 3), (noisy.frames, 4), (other.frames, 3)))
    for another in (fourth, others):        # every frame and every sequence has its own
        assert abs(np.corrcoef(third.ravel(), another.ravel())[0, 1]) < .1
    assert first.tolist() == given.boxes[0].tolist()


def test_blur_and_jpeg_take_detail_away():
    given = sequence()

    def detail(frames):
        return np.abs(np.diff(np.stack(list(frames)).astype(float), axis=2)).mean()

    for kind, levels in (("blur", (1, 2, 4)), ("jpeg", (30, 15, 7))):
        values = [detail(r.worsened(given, kind, level)[0].frames) for level in levels]
        assert detail(given.frames) > values[0] > values[1] > values[2], kind
        worse = r.worsened(given, kind, levels[0])[0].frames
        assert worse[0].shape == (48, 64, 3) and worse[0].dtype == np.uint8 and len(worse) == 9
        np.testing.assert_array_equal(worse[2], list(worse)[2])


def test_frames_are_left_out_from_the_first_annotated_one_on():
    given = sequence(10, absent=(0, 4))
    fewer, first = r.worsened(given, "frame rate", 4)
    assert len(fewer) == len(list(fewer.frames)) == 3
    np.testing.assert_array_equal(fewer.boxes, given.boxes[[1, 5, 9]])
    for frame, i in zip(fewer.frames, (1, 5, 9)):
        np.testing.assert_array_equal(frame, given.frames[i])
    np.testing.assert_array_equal(fewer.frames[2], given.frames[9])
    assert first.tolist() == given.boxes[1].tolist()


def test_first_boxes_are_moved_and_scaled_by_their_part():
    given = sequence()
    for level in (.1, .4):
        same, first = r.worsened(given, "shifted", level)
        assert same is given and first[2:].tolist() == [12, 10]
        assert np.hypot(*((centre(first) - centre(given.boxes[0])) / (12, 10))) == (
            pytest.approx(level))
        _, first = r.worsened(given, "scaled", level)
        assert centre(first) == pytest.approx(centre(given.boxes[0]))
        factor = first[2:] / given.boxes[0, 2:]
        assert factor[0] == pytest.approx(factor[1])
        assert max(factor[0], 1 / factor[0]) == pytest.approx(1 + level)
    factors = [r.worsened(sequence(name=str(i)), "scaled", .4)[1][2] for i in range(20)]
    assert len({round(f, 6) for f in factors}) == 2     # larger and smaller


def test_the_first_frame_is_not_judged():
    given = sequence(4)
    boxes = given.boxes.copy()
    boxes[0] = 0
    n = np.ones(4)
    track = Track(0, boxes, n, n, (64, 48), n > 1)
    assert r.score(given, track) == pytest.approx(20 / 21)
    assert r.score(given, "it failed") == 0
    assert np.isnan(r.score(sequence(3, absent=(1, 2)), "it failed"))


def test_the_command_makes_table_plots_and_json(tmp_path, capsys):
    for name in "ab":
        given = sequence(name=name)
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i, frame in enumerate(given.frames):
            cv2.imwrite(str(folder / f"{i}.png"), frame)
        np.savetxt(folder / "groundtruth.txt", given.boxes)
    files = {"json": tmp_path / "r.json", "html": tmp_path / "r.html"}
    result = r.robustness_command(tmp_path / "data", "velocity,KCF", **files)
    curves = result["curves"]["velocity"]
    assert curves["noise"] == pytest.approx([20 / 21] * 4)      # it looks at nothing
    assert curves["frame rate"] == pytest.approx([20 / 21] * 4)
    assert curves["shifted"][0] > curves["shifted"][2] > curves["shifted"][4]
    content = json.loads(files["json"].read_text())
    assert content["curves"]["velocity"] == curves and content["levels"]["jpeg"][0] == "as it is"
    text, page = capsys.readouterr().out, files["html"].read_text()
    assert page.count("<svg") == 6 and "http" not in page
    assert "success AUC against noise" in text
    if tracker.available()["KCF"]:
        assert "KCF" in result["missing"] and "make peers" in page.replace("\n", " ")
    again = r.robustness_command(tmp_path / "data", "velocity,KCF")
    assert again == result
    passes = 2 * (1 + sum(len(levels) - 1 for _, levels in r.CURVES.values()))
    if tracker.available()["KCF"]:
        assert f"{passes} of {passes} tracks were kept" in capsys.readouterr().out


def test_a_tracker_that_fails_scores_zero_and_is_named():
    class Fails:
        def init(self, frame, box):
            pass

        def update(self, frame):
            raise ArithmeticError("it broke")

    seen = []
    result = r.robustness([sequence()], {"mine": Fails}, progress=lambda *a: seen.append(a))
    assert result["curves"]["mine"]["blur"] == [0] * 4
    assert len(result["errors"]["mine"]) == len(seen) == r.passes(1, 1)
    assert result["failed"] == ["mine"]
    moved = sequence()
    moved.boxes[1:] += 1000                     # who stays where it was scores 0, and has not failed
    result = r.robustness([moved], ["first"])
    assert result["curves"]["first"]["blur"] == [0] * 4 and result["failed"] == []
    with pytest.raises(ValueError, match="'nope'"):
        r.robustness([sequence()], ["nope"])
