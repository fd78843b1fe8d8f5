"""Average precision as by hand and by a slower way; and how well the shipped detector does."""

import json
from itertools import count

import numpy as np
import pytest

from tracker import evaluate_detector as evaluation
from tracker.evaluate_detector import average_precision, read_objects
from tracker.object_detector import CLASSES

cv2 = pytest.importorskip("cv2")

A, B, C = [0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10]


def found(*pairs):
    return np.reshape([box for box, _ in pairs], (-1, 4)), np.array([score for _, score in pairs])


def test_by_hand():
    """Right, wrong, right, a second time, right: precision 1, 1/2, 2/3, 2/4, 3/5, of 4 objects."""
    frames = [found((A, .9), (C, .8), (A, .6)), found((B, .7), ([2, 0, 10, 10], .5))]
    truth = [np.array([A, B]), np.array([A, B])]
    ap, recall, precision = average_precision(frames, truth, sure=.65)
    assert ap == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert recall == 2 / 4 and precision == pytest.approx(2 / 3)


def test_all_none_and_nothing():
    assert average_precision([found((A, .9))], [[A]]) == (1, 1, 1)
    ap, recall, precision = average_precision([found()], [[A]])
    assert ap == recall == 0 and np.isnan(precision)
    assert np.isnan(average_precision([found((A, .5))], [[]])[0])
    half = found(([0, 0, 10, 5], .9)), found(([0, 0, 10, 4.9], .9))
    assert [average_precision([one], [[A]])[0] for one in half] == [1, 0]       # IoU .5, .49


def test_hidden_objects_are_neither_right_nor_wrong():
    frame = found((B, .9), (A, .8), (B, .7))
    assert average_precision([frame], [[A]], [[B]]) == (1, 1, 1)
    assert average_precision([frame], [[A]])[0] == .5


@pytest.mark.parametrize("seed", range(20))
def test_by_a_slower_way(seed):
    """The area under the highest precision at each recall or more, on a fine grid of recalls."""
    rng = np.random.default_rng(seed)
    slots = np.array([[30 * k, 0, 20, 20] for k in range(8)], float)
    frames, truth = [], []
    for _ in range(4):
        truth.append(slots[rng.random(8) < .5])
        chosen = slots[rng.random(8) < .6]
        frames.append((chosen + rng.uniform(-2, 2, chosen.shape), rng.random(len(chosen))))
    total = sum(map(len, truth))
    flags = sorted(((s, any(abs(b[0] - t[0]) < 15 for t in true)) for (boxes, scores), true
                    in zip(frames, truth) for b, s in zip(boxes, scores)), reverse=True)
    curve, right = [], 0
    for n, (_, good) in zip(count(1), flags):
        right += good
        curve.append((right / total, right / n))
    grid = (np.arange(1000 * total) + .5) / (1000 * total)
    expected = np.mean([max((p for r, p in curve if r >= x), default=0) for x in grid])
    assert average_precision(frames, truth)[0] == pytest.approx(expected, abs=1e-9)
    flat = np.array(flags, float)
    if flat[:, 1].any():        # scikit-learn's, without the maximum, is no larger
        score = pytest.importorskip("sklearn.metrics").average_precision_score
        plain = score(flat[:, 1], flat[:, 0])
        assert average_precision(frames, truth)[0] >= plain * flat[:, 1].sum() / total - 1e-9


def test_the_notes_are_boxes_in_their_frames():
    objects = read_objects()
    assert {clip: len(frames) for clip, frames in objects.items()} == {"pedestrian": 12, "cup": 15}
    sizes = {"pedestrian": (768, 576), "cup": (640, 480)}
    for clip, frames in objects.items():
        for boxes in (b for kinds in frames.values() for b in kinds.values()):
            assert (boxes[:, 2:] > 10).all() and (boxes[:, :2] >= 0).all()
            assert (boxes[:, :2] + boxes[:, 2:] <= np.array(sizes[clip]) + 1).all()
    assert sum(len(kinds["person"]) for kinds in objects["pedestrian"].values()) == 72


def test_how_well_the_shipped_detector_does(monkeypatch, tmp_path, capsys):
    nothing = np.empty((0, 4)), np.empty(0)
    monkeypatch.setattr(evaluation, "MovingThings", lambda: lambda frame: nothing)  # it takes long
    monkeypatch.setattr(evaluation, "hog_people", lambda frame: nothing)
    rows = evaluation.evaluate_detector_command(tmp_path / "rows.json")
    person, cup, motion = rows[:3]
    assert [r["class"] for r in rows[:2]] == list(CLASSES)
    assert person["ap"] >= .5 and person["objects"] == 72
    assert cup["ap"] >= .8 and cup["objects"] == 15
    assert motion["class"] == "person" and motion["ap"] == 0
    assert json.loads((tmp_path / "rows.json").read_text())[:2] == rows[:2]
    assert f"{person['ap']:.3f}" in capsys.readouterr().out
