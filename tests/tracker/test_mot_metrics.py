"""The scores of many targets: noted figures, TrackEval and motmetrics where installed, and what
follows from the definitions."""

import math

import numpy as np
import pytest

from tracker.mot_metrics import mot_scores, scores_of_overlaps


def toy():
    """Two targets, 20 frames: their tracks swap at 10, target 0 is missed from 5 to 7, one false
    positive at 3; what is found overlaps by .8. TrackEval 1.3.0 and motmetrics 1.4.0 have the
    figures below for it."""
    truth, tracks, overlaps = [], [], []
    for t in range(20):
        found = [(target, target if t < 10 else 1 - target) for target in (0, 1)
                 if not (target == 0 and 5 <= t <= 7)]
        said = [track for _, track in found] + [2] * (t == 3)
        similar = np.zeros((2, len(said)))
        for column, (target, _) in enumerate(found):
            similar[target, column] = .8
        truth.append([0, 1])
        tracks.append(said)
        overlaps.append(similar)
    return truth, tracks, overlaps


def test_noted_figures():
    scores = scores_of_overlaps(*toy())
    assert scores["mota"] == pytest.approx(.85, abs=1e-12)
    assert scores["idf1"] == pytest.approx(40 / 78, abs=1e-12) and round(40 / 78, 4) == .5128
    assert round(scores["hota"], 4) == .4557
    assert scores["motp"] == pytest.approx(.8)
    assert {k: scores[k] for k in ("switches", "false_positives", "misses", "fragmentations",
                                   "truth", "tracks")} == {
        "switches": 2, "false_positives": 1, "misses": 3, "fragmentations": 1, "truth": 40,
        "tracks": 38}


def scene(seed, frames=40, targets=5):
    """Random walks, and tracks of them with errors of every kind: (truth, tracks)."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 150, (targets, 2)), rng.uniform(20, 60, (targets, 2))], 1)
    names, truth, tracks = np.arange(targets) + 10, [], []
    for t in range(frames):
        boxes[:, :2] += rng.normal(0, 6, (targets, 2))
        here = rng.random(targets) < .9
        if t in (7, 8):
            here[:] = False             # frames without any target
        truth.append((np.flatnonzero(here) + 100, boxes[here].copy()))
        if rng.random() < .2:           # two change their names
            i, j = rng.choice(targets, 2, replace=False)
            names[[i, j]] = names[[j, i]]
        found = here & (rng.random(targets) < .85)
        if t == 20:
            found[:] = False            # a frame in which nothing is found
        said = boxes[found] + rng.normal(0, 5, (found.sum(), 4))
        ids = names[found]
        if rng.random() < .3:           # a false positive
            said = np.concatenate([said, [[*rng.uniform(0, 150, 2), 30, 30]]])
            ids = np.append(ids, 999)
        tracks.append((ids, said))
    return truth, tracks


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_trackeval(seed):
    trackeval = pytest.importorskip("trackeval")
    from tracker.boxes import iou
    truth, tracks = scene(seed)
    scores = mot_scores(truth, tracks)
    names = [sorted({int(i) for ids, _ in frames for i in ids}) for frames in (truth, tracks)]
    data = {
        "num_timesteps": len(truth), "num_gt_ids": len(names[0]), "num_tracker_ids": len(names[1]),
        "num_gt_dets": scores["truth"], "num_tracker_dets": scores["tracks"],
        "gt_ids": [np.array([names[0].index(i) for i in ids], int) for ids, _ in truth],
        "tracker_ids": [np.array([names[1].index(i) for i in ids], int) for ids, _ in tracks],
        "similarity_scores": [iou(a[:, None], b[None]) for (_, a), (_, b) in zip(truth, tracks)],
    }
    hota = trackeval.metrics.HOTA().eval_sequence(data)
    clear = trackeval.metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    identity = trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    for ours, theirs in (("hota", hota["HOTA"].mean()), ("deta", hota["DetA"].mean()),
                         ("assa", hota["AssA"].mean()), ("mota", clear["MOTA"]),
                         ("motp", clear["MOTP"]), ("idf1", identity["IDF1"]),
                         ("switches", clear["IDSW"]), ("misses", clear["CLR_FN"]),
                         ("false_positives", clear["CLR_FP"]),
                         ("fragmentations", clear["Frag"])):
        assert scores[ours] == pytest.approx(theirs, abs=1e-9), ours


def test_perfect_tracks():
    truth, _ = scene(1)
    scores = mot_scores(truth, [(ids + 5, boxes) for ids, boxes in truth])
    assert scores["mota"] == scores["idf1"] == scores["hota"] == scores["motp"] == 1
    assert scores["switches"] == scores["misses"] == scores["false_positives"] == 0


def test_nothing_found_and_nothing_there():
    truth, _ = scene(2)
    nothing = [(np.array([], int), np.empty((0, 4)))] * len(truth)
    scores = mot_scores(truth, nothing)
    assert scores["mota"] == scores["idf1"] == scores["hota"] == 0 and math.isnan(scores["motp"])
    scores = mot_scores(nothing, nothing)
    assert all(math.isnan(scores[key]) for key in ("mota", "idf1", "hota"))
    assert mot_scores(nothing, truth)["false_positives"] == sum(len(ids) for ids, _ in truth)


def test_a_pair_is_kept_while_it_overlaps_enough():
    """Track 7 keeps target 1 although track 8 overlaps it more: no switch."""
    target = np.array([[0., 0, 10, 10]])
    truth = [([1], target)] * 3
    tracks = [([7], target), ([7, 8], [[0, 0, 10, 8], [0, 0, 10, 10]]), ([7], target)]
    scores = mot_scores(truth, tracks)
    assert scores["switches"] == 0 and scores["false_positives"] == 1


def test_an_overlap_of_exactly_a_half_counts():
    scores = mot_scores([([1], [[0, 0, 10, 10]])], [([1], [[0, 0, 10, 5]])])
    assert scores["mota"] == 1 and scores["hota"] == pytest.approx(10 / 19)


def test_bad_input_is_named():
    one = ([1], [[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="not 2 and 1"):
        mot_scores([one, one], [one])
    with pytest.raises(ValueError, match=r"frame 0 of the tracks .*\[1, 1\]"):
        mot_scores([one], [([1, 1], [[0, 0, 1, 1]] * 2)])
    with pytest.raises(ValueError, match="frame 0 of the truth"):
        mot_scores([([1, 2], [[0, 0, 1, 1]])], [one])
