"""The measures against plain loops, the GOT-10k toolkit and noted figures."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tracker import metrics

DATA = Path(os.environ.get("MINIDEEP_DATA",
                           Path(__file__).resolve().parents[2].parent / "shared" / "data"))
ORACLE = DATA / "oracle_ope.npz"
WIDTH, HEIGHT = 200, 150


def tracks(seed, n=80):
    """A target that wanders over the borders of a 200 x 150 image, and a track of it."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([rng.normal((80, 60), 15, (n, 2)).cumsum(0) / np.arange(1, n + 1)[:, None]
                            + rng.normal(0, 40, (n, 2)), rng.uniform(15, 60, (n, 2))], 1)
    predicted = truth + rng.normal(0, 12, (n, 4)) * rng.uniform(0, 1, (n, 1))
    predicted[:, 2:] = np.maximum(predicted[:, 2:], 2)
    predicted[0] = truth[0]
    return np.round(predicted * 8) / 8, np.round(truth * 8) / 8     # sums are then exact


def loop_iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def loop_error(a, b):
    return (a[0] + a[2] / 2 - b[0] - b[2] / 2), (a[1] + a[3] / 2 - b[1] - b[3] / 2)


@pytest.mark.parametrize("seed", range(4))
def test_one_pass_is_its_definition_in_loops(seed):
    predicted, truth = tracks(seed)
    n = len(truth)
    success = [sum(loop_iou(p, t) > k / 20 for p, t in zip(predicted, truth)) / n
               for k in range(21)]
    precision = [sum(math.hypot(*loop_error(p, t)) <= k for p, t in zip(predicted, truth)) / n
                 for k in range(51)]
    normalised = []
    for k in range(51):
        hits = 0
        for p, t in zip(predicted, truth):
            dx, dy = loop_error(p, t)
            hits += math.sqrt((dx / t[2]) ** 2 + (dy / t[3]) ** 2) <= k / 100
        normalised.append(hits / n)
    result = metrics.one_pass(predicted, truth)
    np.testing.assert_allclose(result.success, success)
    np.testing.assert_allclose(result.precision, precision)
    np.testing.assert_allclose(result.normalised_precision, normalised)
    assert result.auc == pytest.approx(sum(success) / 21)
    assert result.precision20 == pytest.approx(precision[20])
    assert result.normalised_auc == pytest.approx(sum(normalised) / 51)
    assert 0.2 < result.auc < 0.9       # neither curve is flat


@pytest.mark.parametrize("seed", range(4))
def test_one_pass_equals_the_got10k_toolkit(seed):
    toolkit = pytest.importorskip("got10k.utils.metrics")
    otb = pytest.importorskip("got10k.experiments.otb").ExperimentOTB
    predicted, truth = tracks(seed)
    truth[10:20] = np.nan               # absent: failures by the toolkit's rule
    success, precision = otb._calc_curves(
        SimpleNamespace(nbins_iou=21, nbins_ce=51), toolkit.rect_iou(predicted, truth),
        toolkit.center_error(predicted, truth))
    result = metrics.one_pass(predicted, truth, absent="otb")
    np.testing.assert_allclose(result.success, success)
    np.testing.assert_allclose(result.precision, precision)


@pytest.mark.parametrize("seed", range(4))
def test_got10k_equals_the_toolkit_beyond_the_borders_too(seed):
    toolkit = pytest.importorskip("got10k.utils.metrics")
    predicted, truth = tracks(seed)
    assert (truth[:, :2] < 0).any() and (truth[:, 0] + truth[:, 2] > WIDTH).any()
    expected = toolkit.rect_iou(predicted[1:].copy(), truth[1:].copy(), (WIDTH, HEIGHT))
    overlaps = metrics.got10k_overlaps(predicted, truth, WIDTH, HEIGHT)
    np.testing.assert_allclose(overlaps, expected, atol=1e-12)
    assert metrics.got10k_scores(overlaps) == pytest.approx({
        "ao": expected.mean(), "sr50": np.mean(expected > 0.5), "sr75": np.mean(expected > 0.75)})


def test_got10k_pools_frames_and_drops_first_and_absent_ones():
    truth = np.array([[10, 10, 20, 20]] * 5, float)
    predicted = truth.copy()
    predicted[0] = (90, 90, 5, 5)       # dropped
    predicted[1] = np.nan               # a failure
    truth[2] = np.nan                   # dropped
    truth[3] = 0                        # dropped
    overlaps = metrics.got10k_overlaps(predicted, truth, WIDTH, HEIGHT)
    assert overlaps.tolist() == [0, 1]
    assert metrics.got10k_scores(overlaps) == {"ao": 0.5, "sr50": 0.5, "sr75": 0.5}


def test_a_perfect_track_scores_twenty_of_twenty_one():
    _, truth = tracks(5)
    result = metrics.one_pass(truth, truth)
    assert result.auc == pytest.approx(20 / 21)
    assert result.precision20 == result.normalised_auc == 1


def test_thresholds_are_strict_for_overlap_and_not_for_distance():
    truth = np.array([[0, 0, 100, 10]])
    half = metrics.one_pass([[0, 0, 50, 10]], truth)
    assert half.success[9] == 1 and half.success[10] == 0       # IoU = .5 is not above .5
    moved = metrics.one_pass([[20, 0, 100, 10]], truth)
    assert moved.precision[20] == 1 and moved.precision[19] == 0
    assert moved.normalised_precision[20] == 1 and moved.normalised_precision[19] == 0


def test_the_two_rules_for_absent_frames():
    _, truth = tracks(6, n=40)
    predicted = truth.copy()
    truth[10:15], truth[15:20] = np.nan, 0
    predicted[15:20] = 0                # "found" where there is nothing: not a success
    assert metrics.one_pass(predicted, truth).auc == pytest.approx(20 / 21)
    assert metrics.one_pass(predicted, truth, absent="lasot").precision20 == 1
    assert metrics.one_pass(predicted, truth, absent="otb").auc == pytest.approx(30 / 40 * 20 / 21)
    assert metrics.one_pass(predicted, truth, absent="otb").precision20 == 0.75


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_is_a_failure(bad):
    _, truth = tracks(7, n=10)
    predicted = truth.copy()
    predicted[3, 2] = bad
    result = metrics.one_pass(predicted, truth)
    assert result.precision20 == result.normalised_auc == 0.9
    assert result.auc == pytest.approx(0.9 * 20 / 21)


@pytest.mark.skipif(not ORACLE.exists(), reason="oracle_ope.npz is not in the data folder "
                    "(MINIDEEP_DATA)")
def test_noted_figures():
    """60 frames whose scores were computed with the GOT-10k and LaSOT toolkits."""
    with np.load(ORACLE) as file:
        truth, predicted = file["gt"], file["pr"]
    close = {"abs": 1e-6}
    result = metrics.one_pass(predicted, truth)
    assert result.auc == pytest.approx(0.5373015873, **close)
    assert result.precision20 == pytest.approx(59 / 60, **close)
    assert result.success[10] == pytest.approx(34 / 60, **close)
    assert result.normalised_auc == pytest.approx(0.5251633987, **close)
    scores = metrics.got10k_scores(metrics.got10k_overlaps(predicted, truth, 320, 240))
    assert scores == pytest.approx({"ao": 0.5316722002, "sr50": 33 / 59, "sr75": 4 / 59}, **close)
    truth[20:30] = np.nan
    otb, lasot = (metrics.one_pass(predicted, truth, rule) for rule in ("otb", "lasot"))
    assert (otb.auc, otb.precision20) == pytest.approx((0.4531746032, 49 / 60), **close)
    assert (lasot.auc, lasot.precision20) == pytest.approx((0.5438095238, 49 / 50), **close)


def test_bad_input_is_named():
    box = np.ones((3, 4))
    with pytest.raises(ValueError, match="'vot'"):
        metrics.one_pass(box, box, absent="vot")
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(3, 4\)"):
        metrics.one_pass(box[:2], box)
    with pytest.raises(ValueError, match="absent in all of the 3 frames"):
        metrics.one_pass(box, box * 0)
    with pytest.raises(ValueError, match="no frame"):
        metrics.got10k_scores([])
