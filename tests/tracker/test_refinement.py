"""The refined box: its maps by loops, what the network learns; only what is told is corrected."""

import json
from dataclasses import replace

import numpy as np
import pytest

import minideep
from minideep import tensor
from minideep.serialization import save_arrays
from tracker import refinement, refinement_training
from tracker.boxes import iou
from tracker.correlation import CorrelationTracker, Look, cut
from tracker.features import FeatureNetwork
from tracker.motion import MotionNetwork
from tracker.multi import MultiTracker
from tracker.refinement import AROUND, CUES, GRID, LARGEST, PART, Refinement, RefinementNetwork
from tracker.refinement_training import batch_of, correction, drawn, fit
from tracker.scenes import render

pytest.importorskip("cv2")


def bilinear(maps, x, y):
    """The value at x, y in cells, whose values sit in their middles; zeros outside."""
    total = 0.
    i, j = int(np.floor(y - .5)), int(np.floor(x - .5))
    for r in (i, i + 1):
        for c in (j, j + 1):
            if 0 <= r < len(maps) and 0 <= c < maps.shape[1]:
                total = total + maps[r, c] * (1 - abs(y - .5 - r)) * (1 - abs(x - .5 - c))
    return total


def places(square, box, cells):
    """Where the places are, in cells of a square, row by row."""
    for i in range(GRID):
        for j in range(GRID):
            across, down = ((k + .5) / GRID * AROUND - AROUND / 2 + .5 for k in (j, i))
            x, y = box[0] + across * box[2], box[1] + down * box[3]
            yield [(p - q) / square[2] * cells for p, q in ((x, square[0]), (y, square[1]))]


def test_a_view_by_loops():
    maps = np.random.default_rng(0).normal(size=(12, 12, 3)).astype("float32")
    square, box = np.array([30., -20, 60, 60]), np.array([50., -30, 14, 40])    # reaches beyond
    wanted = [np.zeros(3) + bilinear(maps, *at) for at in places(square, box, 12)]
    np.testing.assert_allclose(refinement.view(maps, square, box), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def scene():
    return render(5, frames=60, size=(240, 180), targets=1, speed=.06, growth=.02)


@pytest.fixture(scope="module")
def network():
    minideep.seed(0)
    return FeatureNetwork()


def started(scene, network, refine, **options):
    tracker = CorrelationTracker(network, refine=refine, **options)
    tracker.init(scene[0], tuple(scene.boxes[0, 0]))
    return tracker


def test_cues_by_loops(scene, network):
    tracker = started(scene, network, RefinementNetwork())
    square = tracker.squares(Look(tracker.centre, tracker.size))
    (begun_crop,), (first,) = (crop := cut(scene[0], square)), tracker.describe(crop)
    begun, square, colours = tracker.box, square[0], tracker.histogram.likelihood.copy()
    for t in range(1, 6):
        tracker.update(scene[t])
    found, = tracker.search(scene[5], [Look(tracker.centre, tracker.size, (1.2,))])
    found = replace(found, crops=np.stack([0 * found.crops[0], found.crops[0]]), scales=(1., 1.2), best=1)
    box = tracker.box + [3., -2, 5, 4]
    cues = tracker.refinement.cues(tracker, found, box)
    assert cues.shape == (GRID, GRID, CUES)

    def vectors(features, where, around):
        rows = [bilinear(features[..., :32], *at) for at in places(where, around, 40)]
        return [row / np.linalg.norm(row) for row in rows]

    def colour(likelihood, crop, where, around):
        pooled = crop.reshape(80, 2, 80, 2, 3).mean((1, 3))
        b, g, r = np.moveaxis((pooled / 16).astype(int), -1, 0)
        likely = likelihood.reshape(16, 16, 16)[b, g, r]
        return [bilinear(likely, *at) for at in places(where, around, 80)]
    side = found.side * found.scale
    searched = np.array([*(found.centre - side / 2), side, side])
    then, now = vectors(first, square, begun), vectors(found.features, searched, box)
    inner = [GRID / 4 <= q // GRID < GRID * 3 / 4 and GRID / 4 <= q % GRID < GRID * 3 / 4
             for q in range(GRID**2)]
    for q in range(0, GRID**2, 7):
        alike = np.array([now[q] @ other for other in then])
        same = np.array([then[q] @ other for other in then])
        wanted = [alike[inner].max(), alike[~np.array(inner)].max(), alike[q],
                  same[inner].max(), same[~np.array(inner)].max()]
        here = cues[q // GRID, q % GRID]
        np.testing.assert_allclose(here[[2, 3, 4, 6, 7]], wanted, atol=1e-4)
    flat = cues.reshape(-1, CUES)
    seen = found.crops[found.best]
    np.testing.assert_allclose(flat[:, 0], colour(tracker.histogram.likelihood, seen, searched, box),
                               atol=1e-4)
    np.testing.assert_allclose(flat[:, 1], colour(colours, seen, searched, box), atol=1e-4)
    np.testing.assert_allclose(flat[:, 5], colour(colours, begun_crop, square, begun), atol=1e-4)


class Says(RefinementNetwork):
    """Always the same."""

    asked = 0

    def call(self, cues, training=False):
        self.asked += 1
        return tensor(np.array([[.1, -.2, .9, -.05]], np.float32))


def test_only_what_is_told_is_corrected(scene, network):
    plain, corrected = started(scene, network, None), started(scene, network, Says())
    for t in range(1, 8):
        one, two = plain.update(scene[t]), corrected.update(scene[t])
        np.testing.assert_array_equal(plain.box, corrected.box)
        np.testing.assert_allclose(two.box, told_after(one.box), atol=1e-4)


def told_after(box):
    """A box (4,) as Says() corrects it."""
    x, y, w, h = box
    grown = np.array([w * np.exp(PART * LARGEST), h * np.exp(PART * -.05)])
    middle = np.array([x + w / 2 + PART * .1 * w, y + h / 2 - PART * .2 * h])
    return np.array([*(middle - grown / 2), *grown])


def test_what_is_predicted_follows_the_told_box_and_the_search_does_not(scene, network):
    for lead in (False, True):
        motion = MotionNetwork()
        plain, corrected = (started(scene, network, refine, motion=motion, lead=lead)
                            for refine in (None, Says()))
        for t in range(1, 6):
            one, two = plain.update(scene[t]), corrected.update(scene[t])
            np.testing.assert_array_equal(plain.motion, corrected.motion)
            np.testing.assert_allclose(two.predicted, told_after(one.predicted), atol=1e-4)


def test_it_is_asked_in_every_second_frame_and_starts_afresh(scene, network):
    tracker = started(scene, network, Says())
    for t in range(1, 6):
        tracker.update(scene[t])
    assert tracker.refinement.network.asked == 3
    tracker.init(scene[0], tuple(scene.boxes[0, 0]))
    tracker.age = 1                             # the next one is not asked in
    state = tracker.update(scene[1])
    assert tracker.refinement.network.asked == 3
    np.testing.assert_allclose(state.box, tracker.box, atol=1e-9)


def test_a_lost_target_is_told_as_it_is_and_what_was_said_is_forgotten(scene, network, monkeypatch):
    tracker = started(scene, network, Says())
    tracker.update(scene[1])
    assert tracker.refinement.told.all()
    tracker.lose(scene[1])
    monkeypatch.setattr(tracker.confidence, "of", lambda found: 0.)
    state = tracker.update(scene[1])
    assert state.lost and state.box == tuple(tracker.box.tolist())
    assert not tracker.refinement.told.any()


def test_of_many_targets_each_is_refined_unless_there_is_a_detector(scene, network):
    boxes = [tuple(scene.boxes[0, 0]), (20, 20, 40, 30)]
    many, alone = MultiTracker(network, refine=Says()), [started(scene, network, Says()) for _ in boxes]
    numbers = many.init(scene[0], boxes)
    for tracker, box in zip(alone, boxes):
        tracker.init(scene[0], box)
    for t in (1, 2):
        states = dict(many.update(scene[t]))
        for number, tracker in zip(numbers, alone):
            np.testing.assert_allclose(states[number].box, tracker.update(scene[t]).box, atol=1e-3)
    target = many.targets[1]
    np.testing.assert_allclose(states[1].box, told_after(target.box), atol=1e-4)
    assert MultiTracker.load().eyes.refinement is not None
    detecting = MultiTracker.load(detect=lambda frame: (np.empty((0, 4)), []))
    detecting.init(scene[0], boxes)
    assert all(t.refinement is None for t in detecting.targets.values())


def test_all_networks_are_where_the_tracker_is(scene):
    """On a device whose arrays refuse NumPy, as a GPU's do."""
    import strict_array
    strict_array.install()
    boxes = []
    for device in ("strict", "cpu"):
        motion, refine = MotionNetwork.load("correlation"), RefinementNetwork.load()
        with minideep.device(device):
            tracker = CorrelationTracker.load(motion=motion, refine=refine)
        tracker.init(scene[0], tuple(scene.boxes[0, 0]))
        states = [tracker.update(scene[t]) for t in range(1, 4)]
        boxes.append([state.box + state.predicted for state in states])
        for part in (tracker, tracker.refinement, tracker.foresight):
            assert {str(w.device) for w in part.network.parameters()} == {device}
    np.testing.assert_allclose(boxes[0], boxes[1], atol=.3)     # other kernels round otherwise


def test_without_network_or_histogram_nothing_is_refined():
    assert CorrelationTracker(None, refine=Says()).refinement is None
    assert CorrelationTracker(FeatureNetwork(), histogram=False, refine=Says()).refinement is None
    assert isinstance(CorrelationTracker(FeatureNetwork(), refine=Says()).refinement, Refinement)


def test_a_correction_leads_to_the_true_box():
    box, truth = np.array([10., 20, 40, 30]), np.array([16., 14, 50, 24])
    told = correction(box, truth)
    middle = box[:2] + box[2:] / 2 + told[:2] * box[2:]
    size = box[2:] * np.exp(told[2:])
    np.testing.assert_allclose([*(middle - size / 2), *size], truth)
    rng = np.random.default_rng(0)
    many = np.array([drawn(rng, truth) for _ in range(4000)])
    off = np.array([correction(truth, box) for box in many])
    np.testing.assert_allclose(off.mean(0), 0, atol=.01)
    np.testing.assert_allclose(off[:, :2].std(0), refinement_training.MOVED, rtol=.05)
    spread = np.hypot(refinement_training.GROWN, refinement_training.STRETCHED)
    np.testing.assert_allclose(off[:, 2:].std(0), spread, rtol=.05)


def rolls(count, seed):
    """Boxes around targets that all maps show as they are."""
    made = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        cues, corrections = [], []
        for _ in range(30):
            box = drawn(rng, np.array([-.5, -.5, 1, 1]))
            x, y = (box[k] + box[2 + k] * ((np.arange(GRID) + .5) / GRID * AROUND - AROUND / 2 + .5)
                    for k in (0, 1))
            shown = np.outer(abs(y) < .5, abs(x) < .5)
            cues.append(rng.normal(0, .1, (GRID, GRID, CUES)) + shown[..., None])
            corrections.append(correction(box, np.array([-.5, -.5, 1, 1])))
        made.append({"cues": np.array(cues, np.float16), "correction": np.array(corrections, np.float32)})
    return made


def test_it_learns_where_the_target_ends():
    network = fit([rolls(6, 0), rolls(6, 1)], steps=400)
    new = rolls(6, 2)
    told = np.concatenate([network(tensor(r["cues"].astype("float32"))).numpy() for r in new])
    true = np.concatenate([r["correction"] for r in new])
    assert np.abs(told - true).mean() < .5 * np.abs(true).mean()


def test_mirroring_and_turning_keep_the_correction_true():
    made = rolls(3, 4)
    cues, corrections = batch_of(np.random.default_rng(1), [made])
    seen = cues[..., 0] > .5                    # the target; its centre and size out of the map
    for shown, told in zip(seen, corrections):
        for axis in (0, 1):
            line = np.flatnonzero(shown.any(axis))
            middle, size = (line.mean() + .5) / GRID * AROUND - 1, len(line) / GRID * AROUND
            assert abs(middle - told[axis]) < .06 and abs(np.log(size) - told[2 + axis]) < .16


def test_half_of_a_batch_is_real():
    def of(number):
        return [{"cues": np.full((2, GRID, GRID, CUES), number, np.float16),
                 "correction": np.zeros((2, 4), np.float32)}]
    cues, _ = batch_of(np.random.default_rng(0), [of(1), of(2) * 5])
    assert (cues[:, 0, 0, 0] == 1).mean() == .5
    assert (batch_of(np.random.default_rng(0), [of(3)])[0] == 3).all()


def test_a_roll_out_learns_from_frames_that_hold_the_target(scene):
    tracker = CorrelationTracker(FeatureNetwork(), refine=RefinementNetwork())
    boxes, sight = scene.boxes[:12, 0], np.ones(12)
    boxes[5], sight[7] = np.nan, .2             # absent by the notes; nearly covered
    boxes[9] += [200, 0, 0, 0]                  # not where the tracker's box is
    roll = refinement_training.roll_out(tracker, "a", scene, boxes, sight)
    assert roll["cues"].shape == (3 * 8, GRID, GRID, CUES) and roll["cues"].dtype == np.float16
    assert np.isfinite(roll["correction"]).all() and np.abs(roll["correction"][::3]).max() < .4
    again = refinement_training.roll_out(tracker, "a", scene, boxes, sight)
    np.testing.assert_array_equal(roll["cues"], again["cues"])
    other = refinement_training.roll_out(tracker, "b", scene, boxes, sight)
    np.testing.assert_array_equal(other["cues"][::3], roll["cues"][::3])
    assert (other["correction"][1::3] != roll["correction"][1::3]).all()
    empty = refinement_training.roll_out(tracker, "a", scene, boxes[:1], sight[:1])
    assert empty["cues"].shape == (0, GRID, GRID, CUES)


def test_boxes_are_drawn_around_the_true_one_and_the_trackers_own(scene, monkeypatch):
    tracker, own = CorrelationTracker(FeatureNetwork(), refine=RefinementNetwork()), []
    update = tracker.update

    def watched(frame):
        state = update(frame)
        own.append(tracker.box)
        return replace(state, lost=len(own) == 2)
    tracker.update = watched
    monkeypatch.setattr(refinement_training, "drawn", lambda rng, box: box + [3., 2, 1, 0])
    boxes = scene.boxes[:4, 0]
    roll = refinement_training.roll_out(tracker, "a", scene, boxes, np.ones(4))
    wanted = [correction(box, truth) for box, truth in zip(own, boxes[1:])
              for box in (box, truth + [3., 2, 1, 0], box + [3., 2, 1, 0])]
    np.testing.assert_allclose(roll["correction"], wanted[:3] + wanted[6:], atol=1e-6)    # one was lost


def test_nothing_to_learn_from_is_said():
    nothing = {"cues": np.empty((0, GRID, GRID, CUES), np.float16), "correction": np.empty((0, 4))}
    with pytest.raises(ValueError, match="no roll-out has a frame to learn from"):
        fit([[nothing], []], steps=1)


def test_maps_are_scaled_by_what_they_are_in_the_training():
    made = rolls(3, 0)
    for roll in made:
        roll["cues"][..., 4] = .25              # of one map all the same
    network = fit([made, []], steps=1)
    every = np.concatenate([roll["cues"].astype(float).reshape(-1, CUES) for roll in made])
    np.testing.assert_allclose(network.mean.numpy(), every.mean(0), atol=1e-3)
    deviation = network.deviation.numpy()
    np.testing.assert_allclose(np.delete(deviation, 4), np.delete(every.std(0), 4), rtol=.05)
    assert deviation[4] == np.float32(1e-3)


def test_a_sequence_is_rolled_out_both_ways_and_real_ones_are_told_from_rendered(tmp_path, monkeypatch):
    import cv2
    folder = tmp_path / "train" / "moving"
    (folder / "img").mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 255, (5, 60, 80, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / "img" / f"{t:04d}.png"), frame)
    (folder / "groundtruth_rect.txt").write_text("".join(f"{10 + t},9,8,7\n" for t in range(5)))
    (folder / "SOURCE.txt").write_text("dataset: A\nrepository licence: MIT\n")
    monkeypatch.setattr(refinement_training, "SCENES", 3)
    made = refinement_training.passes(tmp_path)
    assert list(made) == ["real-moving", "real-back-moving", "scene-000", "scene-001", "scene-002"]
    name, shown, boxes, sight = made["real-back-moving"]()
    assert name == "moving" and len(boxes) == len(sight) == 5 and boxes[0, 0] == 10 + 4
    np.testing.assert_array_equal(next(iter(shown)), frames[-1])
    kinds = []
    monkeypatch.setattr(refinement_training, "roll_out", lambda tracker, *seen: {
        "cues": np.full((1, 1), len(kinds)), "correction": np.zeros((1, 4))})
    monkeypatch.setattr(refinement_training, "fit", lambda rolls, *rest: (
        kinds.append([len(some) for some in rolls]), RefinementNetwork())[1])
    refinement_training.train_command(tmp_path, tmp_path / "out", steps=1)
    assert kinds == [[2, 3]]


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(refinement_training, "SCENES", 2)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    import cv2
    for k in range(8):
        picture = cv2.resize(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8), (600, 400))
        cv2.imwrite(str(tmp_path / "photos" / f"a_{k}.png"), picture)
    (tmp_path / "photos" / "SOURCES.txt").write_text("a: made here; CC0\n")
    (tmp_path / "refinement.json").write_text('{"weaknesses": ["many"], "steps": 7}')
    result = refinement_training.train_command(tmp_path, tmp_path, steps=50)
    card = json.loads((tmp_path / "refinement.json").read_text())
    assert card["weaknesses"] == ["many"] and card["steps"] == 50
    assert card["data"]["boxes"] == result["boxes"] > 100 and card["data"]["photos"]["a"]["files"] == 8
    one = RefinementNetwork.load(tmp_path / "refinement.safetensors").named_weights()
    with pytest.raises(FileExistsError, match="--resume"):
        refinement_training.train_command(tmp_path, tmp_path, steps=50)
    refinement_training.train_command(tmp_path, tmp_path, steps=50, resume=True)
    two = RefinementNetwork.load(tmp_path / "refinement.safetensors").named_weights()
    for name, weight in one.items():
        np.testing.assert_array_equal(weight.numpy(), two[name].numpy())


def test_a_file_of_something_else_is_refused(tmp_path):
    save_arrays(tmp_path / "m.safetensors", {"weight": np.zeros(3)})
    with pytest.raises(ValueError, match="m.safetensors"):
        RefinementNetwork.load(tmp_path / "m.safetensors")
    with pytest.raises(FileNotFoundError):
        RefinementNetwork.load(tmp_path / "none.safetensors")


def test_the_card_of_the_weights_that_come_with_it():
    card = json.loads(refinement.WEIGHTS.with_suffix(".json").read_text())
    assert {"command", "data", "results", "weaknesses"} <= set(card)
    assert f"--steps {card['steps']} --seed {card['seed']}" in card["command"]
    assert sum(s["sequences"] for s in card["data"]["sequences"].values()) == 33


def test_the_weights_that_come_with_it_correct_boxes_that_are_off():
    """On a rendered scene that no training has seen, boxes drawn around the true one."""
    scene, before, after = render(77, frames=40, size=(300, 220), unit=50), [], []
    tracker = CorrelationTracker.load()
    tracker.init(scene[0], tuple(scene.boxes[0, 0]))
    rng = np.random.default_rng(0)
    for t in range(1, 40):
        tracker.update(scene[t])
        truth = scene.boxes[t, 0]
        box = drawn(rng, truth)
        told = tracker.refinement.network(tensor(
            tracker.refinement.cues(tracker, tracker.found, box)[None])).numpy()[0]
        size = box[2:] * np.exp(told[2:])
        middle = box[:2] + box[2:] / 2 + told[:2] * box[2:]
        before.append(iou(box, truth))
        after.append(iou(np.concatenate([middle - size / 2, size]), truth))
    assert np.mean(after) > np.mean(before) + .05
