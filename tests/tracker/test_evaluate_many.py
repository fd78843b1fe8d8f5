"""Measuring many targets: what is given, what is judged, and data in MOTChallenge's layout."""

import json

import numpy as np
import pytest

from tracker import State, evaluate_many
from tracker.evaluate_many import Crowd, evaluate_many_command, find_crowds, flawed, follow, rendered
from tracker.mot_metrics import mot_scores
from tracker.multi import MultiTracker
from tracker.scenes import render
from tracker.sequences import write_mot

cv2 = pytest.importorskip("cv2")


class Oracle:
    """Says what it was given, and then always what the truth is."""

    def __init__(self, truth, detect=None):
        self.truth, self.detect, self.targets, self.now = truth, detect, None, 0

    def init(self, frame, boxes):
        self.targets = {}
        return [self.add(frame, box) for box in boxes]

    def add(self, frame, box):
        ids, boxes = self.truth[self.now]
        assert any(np.array_equal(box, b) for b in boxes)
        number = len(self.targets) + 1
        self.targets[number] = int(ids[[np.array_equal(box, b) for b in boxes].index(True)])
        return number

    def update(self, frame):
        self.now += 1
        boxes = dict(zip(*self.truth[self.now]))
        return [(n, State(tuple(boxes.get(i, (0, 0, 1, 1))), 1., i not in boxes))
                for n, i in self.targets.items()]


@pytest.fixture(scope="module")
def scene():
    return render(2, 60, (240, 200), 2, unit=40, leaving=1)


def test_a_perfect_tracker_scores_one(scene):
    truth = scene.truth()
    crowd = Crowd("scene", np.zeros((60, 20, 20, 3), np.uint8), truth, None)
    tracks, _ = follow(crowd, lambda detect: Oracle(truth, detect), "boxes")
    scores = mot_scores(truth, tracks)
    assert scores["mota"] == scores["idf1"] == scores["hota"] == 1
    assert len(follow(crowd, lambda detect: Oracle(truth, detect), "boxes", 7)[0]) == 7


def test_real_tracking_of_a_short_scene():
    scene = render(2, 24, (240, 200), 2, unit=40)
    truth = scene.truth()
    found = evaluate_many.evaluate_many([Crowd("a", scene, truth, flawed(truth, 1))], MultiTracker)
    assert found["boxes"]["a"]["mota"] > .95 and found["boxes"]["a"]["switches"] == 0
    assert found["detections"]["a"]["mota"] > .75 and found["detections"]["a"]["idf1"] > .85
    assert found["boxes"]["a"]["fps"] > 0


def test_flawed_detections():
    truth = [(np.array([0, 1]), np.array([[10., 10, 40, 40], [100, 100, 50, 20]]))] * 500
    found = flawed(truth, 0)
    assert 1.85 < np.mean([len(boxes) for boxes in found]) < 1.95       # 2 · .9 + .1
    assert all(np.array_equal(a, b[1]) for a, b in zip(flawed(truth, 0, 0, 0, 0), truth))
    assert rendered(1, 60).name == "scene 1" and len(rendered(1, 60).truth) == 60


@pytest.fixture
def challenge(scene, tmp_path):
    """Six frames in MOTChallenge's layout."""
    folder = tmp_path / "data" / "scene-1"
    for part in ("img1", "gt", "det"):
        (folder / part).mkdir(parents=True)
    for t in range(6):
        cv2.imwrite(str(folder / "img1" / f"{t + 1:06}.png"), scene[t])
    truth = scene.truth()[:6]
    write_mot(folder / "gt" / "gt.txt", [(ids + 1, boxes) for ids, boxes in truth])
    (folder / "det" / "det.txt").write_text("".join(
        f"{t + 1},-1,{x + 1:.2f},{y + 1:.2f},{w:.2f},{h:.2f},.9,-1,-1,-1\n"
        for t, (_, boxes) in enumerate(truth) for x, y, w, h in boxes if t != 3))
    return tmp_path / "data"


def test_data_in_the_layout_of_motchallenge(challenge, scene, tmp_path, capsys):
    crowd, = find_crowds(challenge)
    assert crowd.name == "scene-1" and np.array_equal(crowd.frames[4], scene[4])
    np.testing.assert_allclose(crowd.detections[2], scene.boxes[2], atol=.01)
    np.testing.assert_allclose(crowd.truth[2][1], scene.boxes[2], atol=.01)
    assert len(crowd.detections[3]) == 0
    found = evaluate_many_command(challenge, json=tmp_path / "a.json", make=MultiTracker)
    assert found["boxes"]["scene-1"]["mota"] == 1
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["detections"]["scene-1"]["truth"] == 12
    printed = capsys.readouterr().out
    for word in ("MOTA", "IDF1", "HOTA", "scene-1", "a detector's boxes"):
        assert word in printed, printed
    (challenge / "scene-1" / "det" / "det.txt").write_text("1,-1,a\n")
    with pytest.raises(ValueError, match=r"det.txt: expected frame,-1,x,y,w,h"):
        find_crowds(challenge)
    with pytest.raises(ValueError, match="expected MOTChallenge's layout"):
        find_crowds(challenge / "scene-1" / "img1")


def test_ctrl_c_says_how_far_it_came(scene, monkeypatch, capsys):
    class Interrupted(Oracle):
        def update(self, frame):
            if self.now == 7:
                raise KeyboardInterrupt
            return super().update(frame)

    truth = scene.truth()
    crowd = Crowd("scene", np.zeros((60, 20, 20, 3), np.uint8), truth, None)
    monkeypatch.setattr(evaluate_many, "find_crowds", lambda folder: [crowd])
    with pytest.raises(KeyboardInterrupt):
        evaluate_many_command("data", make=lambda detect: Interrupted(truth, detect))
    assert "interrupted after 8 of 60 frames" in capsys.readouterr().out
