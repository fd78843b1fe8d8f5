"""The recurrent tracker: geometry, network against plain formulas, manners, and its weights."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from minideep import tensor
from tracker import recurrent, synthetic
from tracker.recurrent import CROP, Network, RecurrentTracker, around, correlate, look, to_boxes

cv2 = pytest.importorskip("cv2")
DATA = Path(os.environ.get("MINIDEEP_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def trained():
    return RecurrentTracker.load()


def scene(n, step=(2., 1.), size=(70, 50), growth=1.):
    """A textured square that moves over a textured background: frames and true boxes."""
    background = synthetic.procedural_photo(np.random.default_rng(3), 400)[:300]
    piece = synthetic.procedural_photo(np.random.default_rng(8), 100)
    frames, boxes = [], []
    for t in range(n):
        w, h = (int(s * growth ** t) for s in size)
        x, y = int(60 + step[0] * t), int(70 + step[1] * t)
        frame = background.copy()
        frame[y:y + h, x:x + w] = cv2.resize(piece, (w, h), interpolation=cv2.INTER_AREA)
        frames.append(frame)
        boxes.append((x, y, w, h))
    return frames, np.array(boxes, float)


def iou(a, b):
    low = np.maximum(a[:2], b[:2])
    high = np.minimum(np.add(a[:2], a[2:]), np.add(b[:2], b[2:]))
    both = np.maximum(high - low, 0).prod()
    return both / (a[2] * a[3] + b[2] * b[3] - both)


# ------------------------------------------------------------------------------- geometry


def test_no_motion_gives_the_same_box():
    boxes = np.array([[10., 20, 30, 40], [-5, 3, 8, 6]])
    still = 10 * np.array([[5 / 16, 5 / 16, 11 / 16, 11 / 16]] * 2)      # the middle 6 of 16 cells
    np.testing.assert_allclose(to_boxes(still, around(boxes)), boxes)
    np.testing.assert_allclose(around(boxes)[0], [-15, -100 / 3 + 20, 80, 320 / 3])


def test_look_inside_is_a_plain_resize():
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    crop = look(frame, (100, 50, 100, 80), "cpu").numpy()
    assert crop.shape == (1, CROP, CROP, 3)
    expected = cv2.resize(frame[40:140, 90:210].astype("float32"), None, fx=1, fy=1)
    m = np.array([[100 / 64, 0, 10 + 50 / 64 - .5], [0, 80 / 64, 10 + 40 / 64 - .5]])
    expected = cv2.warpAffine(expected, m, (64, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    np.testing.assert_allclose(crop[0] * 64 + 127, expected, atol=6)   # OpenCV's weights: 1/32


def test_look_averages_before_it_shrinks():
    """Of a fine chessboard only the mean is left; sampling would give black and white."""
    board = (np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)
    crop = look(np.repeat(board[..., None], 3, 2), (50, 50, 400, 390), "cpu").numpy() * 64 + 127
    np.testing.assert_allclose(crop, 127.5, atol=1)
    ramp = np.repeat(np.arange(600)[None] * .4, 600, 0).astype(np.uint8)
    crop = look(np.repeat(ramp[..., None], 3, 2), (50, 50, 400, 390), "cpu").numpy()[0, 5, :, 0]
    np.testing.assert_allclose(crop * 64 + 127, .4 * (50 + (np.arange(64) + .5) * 400 / 64 - .5),
                               atol=1)


@pytest.mark.parametrize("region", [(-500, 20, 60, 60), (500, 700, 900, 900), (-5, -5, 3, 2)])
def test_outside_of_the_frame_is_gray(region):
    frame = np.full((240, 320, 3), 255, np.uint8)
    assert np.abs(look(frame, region, "cpu").numpy()).max() == 0


def test_look_at_a_corner_is_half_gray():
    crop = look(np.full((240, 320, 3), 255, np.uint8), (-32, 0, 64, 64), "cpu").numpy()[0]
    assert np.allclose(crop[:, :31], 0) and np.allclose(crop[1:, 33:], 2)


# ------------------------------------------------------------------------------- the network


def test_correlate_is_the_sum_of_products():
    rng = np.random.default_rng(0)
    x, a, b = (rng.normal(size=(2, *shape, 4)) for shape in ((7, 6), (3, 3), (3, 3)))
    got = correlate(tensor(x), [tensor(a), tensor(b)])
    for found, template in zip(got, (a, b)):
        assert found.shape == (2, 5, 4, 4)
        for i in range(5):
            for j in range(4):
                expected = (x[:, i:i + 3, j:j + 3] * template).sum((1, 2))      # (2, 4)
                np.testing.assert_allclose(found.numpy()[:, i, j], expected, rtol=1e-5)


def test_mean_groups_is_one_for_a_perfect_match():
    k = recurrent.TARGET
    unit = np.ones((1, k, k, 8), "float32")             # the mean square of each vector is 1
    found = correlate(tensor(unit), [tensor(unit)])[0]
    np.testing.assert_allclose(recurrent.mean_groups(found, 4).numpy(), np.ones((1, 1, 1, 4)))
    halves = np.concatenate([unit[..., :4], -unit[..., 4:]], -1)
    found = recurrent.mean_groups(correlate(tensor(unit), [tensor(halves)])[0], 2).numpy()
    np.testing.assert_allclose(found.ravel(), [1, -1])


def inputs(rng, n):
    crops = [rng.normal(size=(n, CROP, CROP, 3)).astype("float32") for _ in range(5)]
    return [tensor(crop) for crop in crops[:3]], tensor(crops[3]), tensor(crops[4])


def test_batch_of_targets_is_each_alone():
    network = Network().build_now()
    first, last, now = inputs(np.random.default_rng(1), 3)
    together = network((network.template(first), last, now), network.start(3))
    for i in range(3):
        one = slice(i, i + 1)
        template = network.template([crops[one] for crops in first])
        alone = network((template, last[one], now[one]), network.start(1))
        for a, b in zip(together[:3], alone[:3]):
            np.testing.assert_allclose(a.numpy()[one], b.numpy(), rtol=1e-3, atol=1e-3)


def test_places_are_probabilities_and_memory_matters():
    network = Network().build_now()
    first, last, now = inputs(np.random.default_rng(2), 1)
    crops = network.template(first), last, now
    before, _, places, state = network(crops, network.start(1))
    np.testing.assert_allclose(np.exp(places.numpy()).sum(), 1, rtol=1e-5)
    after = network(crops, state)[0]
    assert np.abs(before.numpy() - after.numpy()).max() > 1e-6


def test_hypotheses_are_boxes_of_each_size_at_each_shift():
    middle = recurrent.PLACES ** 2 // 2
    np.testing.assert_allclose(recurrent.HYPOTHESES[middle, 1], [-.5, -.5, .5, .5])
    right = recurrent.HYPOTHESES[middle + 2, 2]             # two cells, a third of the target
    np.testing.assert_allclose(right, [1 / 3 - .64, -.64, 1 / 3 + .64, .64], rtol=1e-6)
    below = recurrent.HYPOTHESES[middle + 2 * recurrent.PLACES, 0]
    np.testing.assert_allclose(below, [-.39, 1 / 3 - .39, .39, 1 / 3 + .39], rtol=1e-6)


def test_expected_is_the_mean_of_places():
    chance = np.full((1, recurrent.PLACES ** 2, 3), 1e-12)
    middle = recurrent.PLACES ** 2 // 2
    chance[0, middle + 3, 1] = .5                   # half a target to the right, of the same size
    chance[0, middle - recurrent.PLACES, 2] = .5    # a sixth of it up, and larger
    shift, growth = recurrent.expected(np.log(chance).astype("float32"))
    np.testing.assert_allclose(shift, [[.25, -1 / 12]], atol=1e-6)
    np.testing.assert_allclose(growth, [np.log(1.28) / 2], atol=1e-6)


def test_template_regions_show_the_target_larger_and_smaller():
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[80:120, 100:160] = 255                                    # a target of 60 x 40
    for scale, region in zip(recurrent.SCALES, recurrent.template_regions((100, 80, 60, 40))):
        bright = look(frame, region, "cpu").numpy()[0, :, :, 0] > 0
        np.testing.assert_allclose(bright.any(0).sum(), 24 * scale, atol=1)
        np.testing.assert_allclose(bright.any(1).sum(), 24 * scale, atol=1)


# ------------------------------------------------------------------------------- the tracker


def test_follows_an_easy_target(trained):
    frames, boxes = scene(40)
    trained.init(frames[0], boxes[0])
    overlaps = []
    for frame, box in zip(frames[1:], boxes[1:]):
        state = trained.update(frame)
        overlaps.append(iou(state.box, box))
    assert np.mean(overlaps) > .6 and min(overlaps) > .4
    assert not state.lost and .5 < state.confidence <= 1


def test_follows_a_growing_target(trained):
    frames, boxes = scene(30, growth=1.02)
    trained.init(frames[0], boxes[0])
    for frame in frames[1:]:
        state = trained.update(frame)
    assert iou(state.box, boxes[-1]) > .5
    assert state.box[2] > 1.25 * boxes[0][2]


def test_spread_is_the_deviation_of_places():
    rng = np.random.default_rng(0)
    places = np.log(rng.dirichlet(np.full(3 * recurrent.PLACES ** 2, .01)).reshape(1, -1, 3) + 1e-9)
    chance = np.exp(places[0])
    drawn = rng.choice(chance.size, 200_000, p=chance.ravel() / chance.sum())
    across = recurrent.HYPOTHESES[drawn // 3, 1, 0] + .5
    down = recurrent.HYPOTHESES[drawn // 3, 1, 1] + .5
    size = np.log(recurrent.SCALES)[drawn % 3]
    np.testing.assert_allclose(recurrent.spread(places), [across.std(), down.std(), size.std()],
                               rtol=.01)


def test_spread_of_one_sure_place_is_nothing():
    for place in range(3 * recurrent.PLACES ** 2):
        logits = np.full((1, recurrent.PLACES ** 2, 3), -40., np.float32)
        logits.reshape(-1)[place] = 0
        np.testing.assert_allclose(recurrent.spread(logits), 0, atol=1e-6)


def test_it_says_where_the_target_will_be(trained):
    frames, boxes = scene(20, step=(4., 0.))
    trained.init(frames[0], boxes[0])
    states = [trained.update(frame) for frame in frames[1:]]
    ahead = [s.predicted[0] + s.predicted[2] / 2 - s.box[0] - s.box[2] / 2 for s in states[5:]]
    assert 2 < np.mean(ahead) < 6
    assert all(0 < r < 40 for s in states for r in s.reach)


def test_a_lost_target_is_looked_for_where_it_is_predicted(trained):
    frames, boxes = scene(6)
    trained.init(frames[0], boxes[0])
    looked, look = [], trained._look
    trained._look = lambda frame, region: (looked.append(region), look(frame, region))[1]
    gray = np.full_like(frames[0], 90)
    try:
        for lost in (False, True):
            trained.LOST = trained.FOUND = 2. * lost            # always found, then always lost
            before = trained.update(gray)
            looked.clear()
            trained.update(gray)
            box = np.array(before.box)
            if lost:                                    # its size, around the predicted centre
                x, y, w, h = before.predicted
                box[:2] = np.array([x + w / 2, y + h / 2]) - box[2:] / 2
                assert np.abs(box - before.box).max() > .01
            assert before.lost == lost
            np.testing.assert_allclose(looked[0], around(box))
    finally:
        del trained._look, trained.LOST, trained.FOUND


def test_without_a_motion_network_nothing_is_predicted(trained):
    tracker = RecurrentTracker(trained.network)
    frames, boxes = scene(2)
    tracker.init(frames[0], boxes[0])
    state = tracker.update(frames[1])
    assert state.predicted is None and state.reach is None


def test_resolution_does_not_matter(trained):
    """The same scene three times as large gives the boxes three times as large, nearly."""
    frames, boxes = scene(12)
    runs = []
    for k in (1, 3):
        trained.init(cv2.resize(frames[0], None, fx=k, fy=k), boxes[0] * k)
        runs.append([trained.update(cv2.resize(f, None, fx=k, fy=k)).box for f in frames[1:]])
    np.testing.assert_allclose(np.array(runs[1]) / 3, runs[0], atol=6)


def test_starting_again_forgets(trained):
    frames, boxes = scene(5)

    def run():
        trained.init(frames[0], boxes[0])
        return [trained.update(frame) for frame in frames[1:]]

    assert run() == run()


def test_a_reused_frame_buffer_is_no_trap(trained):
    frames, boxes = scene(5)
    trained.init(frames[0], boxes[0])
    expected = [trained.update(frame).box for frame in frames[1:]]
    buffer = frames[0].copy()
    trained.init(buffer, boxes[0])
    for frame, box in zip(frames[1:], expected):
        buffer[...] = frame
        assert trained.update(buffer).box == box


def test_a_box_settles_between_correlation_and_correction(trained):
    tracker = RecurrentTracker(trained.network)
    tracker.box = tracker.first_box = np.array([40., 30, 20, 10])          # its centre: 50, 35
    frame = np.zeros((100, 200, 3), np.uint8)
    place = np.array([[.5, -1.]]), np.array([.2])       # 10 to the right, 10 up, e^.2 as large
    corrected = np.array([52., 23, 20, 10])             # its centre: 62, 28
    x, y, w, h = tracker._settle(*place, corrected, .1, frame)      # in doubt: the size rests
    np.testing.assert_allclose([x + w / 2, y + h / 2, w, h], [61, 26.5, 20, 10])
    x, y, w, h = tracker._settle(*place, corrected, .9, frame)      # half of .2, and eased
    np.testing.assert_allclose([x + w / 2, y + h / 2], [61, 26.5])
    np.testing.assert_allclose([w, h], np.array([20, 10]) * np.exp(RecurrentTracker.EASE * .1))
    outside = tracker._settle(np.array([[9., 0]]), place[1], corrected + [180, 0, 0, 0], .1, frame)
    assert outside[0] + outside[2] / 2 == 200


def test_boxes_stay_sane_on_noise(trained):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, 90, 120, 3), dtype=np.uint8)
    trained.init(frames[0], (100, 70, 15, 15))
    for frame in frames[1:]:
        x, y, w, h = trained.update(frame).box
        assert 0 <= x + w / 2 <= 120 and 0 <= y + h / 2 <= 90
        assert 2 <= w <= 120 and 2 <= h <= 90 and 3 <= w <= 75 and 3 <= h <= 75


def test_errors(trained):
    frame = np.zeros((50, 60, 3), np.uint8)
    fresh = RecurrentTracker(trained.network)
    with pytest.raises(RuntimeError, match="init"):
        fresh.update(frame)
    with pytest.raises(ValueError, match="width and height"):
        fresh.init(frame, (5, 5, 0, 4))
    with pytest.raises(ValueError, match="outside"):
        fresh.init(frame, (500, 5, 4, 4))
    with pytest.raises(TypeError, match="uint8"):
        fresh.init(frame.astype(float), (5, 5, 9, 9))
    fresh.init(frame, (5, 5, 9, 9))
    with pytest.raises(ValueError, match="shape"):
        fresh.update(frame[..., 0])


def test_load_says_what_does_not_fit(tmp_path):
    from minideep.serialization import save_arrays
    with pytest.raises(FileNotFoundError, match="nowhere"):
        RecurrentTracker.load(tmp_path / "nowhere.safetensors")
    save_arrays(tmp_path / "other.safetensors", {"kernel": np.zeros(3, "float32")})
    with pytest.raises(ValueError, match="does not fit"):
        RecurrentTracker.load(tmp_path / "other.safetensors")


def test_the_weights_that_come_with_it():
    assert recurrent.WEIGHTS.stat().st_size < 2e6
    card = json.loads(recurrent.WEIGHTS.with_suffix(".json").read_text())
    assert {"command", "data", "results", "weaknesses"} <= set(card)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "val").is_dir(), reason=(
    f"no {DATA / 'val'}: set MINIDEEP_DATA to a folder that holds val/"))
def test_beats_the_baselines_on_unseen_sequences():
    from tracker.evaluate import evaluate
    from tracker.sequences import find_sequences
    report = evaluate(find_sequences(DATA / "val"), ["recurrent"])
    auc = {name: report.summary(name)["auc"] for name in ("recurrent", "first", "velocity")}
    assert auc["recurrent"] >= max(auc["first"], auc["velocity"]) + .10
