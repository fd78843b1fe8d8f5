"""The motion network: its loss by the formula, what it learns, its file, and its use in the tracker."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from minideep import tensor
from minideep.serialization import save_arrays
from tracker import motion, motion_training, prediction
from tracker.correlation import CorrelationTracker
from tracker.motion import INPUTS, MotionNetwork
from tracker.motion_training import batch_of, fit, motion_loss, reaches

cv2 = pytest.importorskip("cv2")


def rolls(count=15, n=60, hidden=True):
    """Roll-outs of targets whose velocity lasts, across and down, with noise of a known size."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        velocity = rng.normal(0, .3, 2)
        x = np.zeros((n, INPUTS), np.float32)
        x[:, :2] = velocity + rng.laplace(0, .02, (n, 2))
        shift = velocity + rng.laplace(0, .02, (n, 2))
        there = np.ones(n)
        if hidden:
            there[30:40] = 0
            x[30:40, 3] = -3
        shift[-1] = np.nan
        made.append({"x": x, "shift": shift, "growth": np.zeros(n), "there": there})
    return made


def test_the_loss_is_the_formula():
    network = MotionNetwork()
    rng = np.random.default_rng(0)
    network.head.kernel.data = tensor(rng.normal(0, .2, network.head.kernel.shape), "float32").data
    x, shift, growth, there = batch_of(rng, rolls())
    mean, scale, grown, visible, _ = network(tensor(x))
    mean, scale, grown, visible = (t.numpy().astype(float) for t in (mean, scale, grown, visible))
    likelihood, entropy, known, told = 0., 0., 0, 0
    part = np.nanmean(there)
    for i in range(len(x)):
        for t in range(x.shape[1]):
            if np.isfinite(shift[i, t]).all():
                known += 1
                for axis in (0, 1):
                    b = math.exp(scale[i, t, axis])
                    away = abs(np.clip(shift[i, t, axis], -4, 4) - mean[i, t, axis])
                    likelihood += away / b + math.log(b)        # -log(exp(-|d|/b) / 2b) - log 2
                likelihood += 10 * (math.sqrt((grown[i, t] - growth[i, t]) ** 2 + 1e-4) - .01)
            if np.isfinite(there[i, t]):
                told += 1
                p = 1 / (1 + math.exp(-visible[i, t]))
                entropy -= (.5 / part * math.log(p) if there[i, t]
                            else .5 / (1 - part) * math.log(1 - p))
    wanted = likelihood / known + entropy / told
    assert math.isclose(motion_loss(network, x, shift, growth, there).item(), wanted, rel_tol=1e-4)


def test_it_learns_a_lasting_velocity_and_how_sure_it_may_be():
    data = rolls()
    network = fit(data, steps=150)
    new = rolls(20)[15:]
    errors, still, inside = [], [], []
    for roll in new:
        mean, scale, _, visible, _ = network(tensor(roll["x"][None]))
        errors.append(np.abs(mean.numpy()[0, 5:-1] - roll["shift"][5:-1]).mean())
        still.append(np.abs(roll["shift"][5:-1]).mean())
        inside.append((reaches(network, roll) <= network.reach.numpy()).mean())
        seen = visible.numpy()[0] > 0
        assert (seen == (roll["there"] > .5)).mean() > .9
    assert np.mean(errors) < .5 * np.mean(still)
    assert .6 < np.mean(inside) < .95


def test_the_same_seed_gives_the_same_weights():
    one, two = (fit(rolls(5), seed=3, steps=3) for _ in range(2))
    for name, weight in one.named_weights().items():
        np.testing.assert_array_equal(weight.numpy(), two.named_weights()[name].numpy())


def test_the_file(tmp_path):
    network = fit(rolls(5), steps=2)
    save_arrays(tmp_path / "m.safetensors", network.named_weights())
    again = MotionNetwork.load("correlation", tmp_path / "m.safetensors")
    assert float(again.reach.numpy()) == float(network.reach.numpy()) > 0
    with pytest.raises(FileNotFoundError):
        MotionNetwork.load("correlation", tmp_path / "none.safetensors")


@pytest.mark.parametrize("tracker", motion.TRACKERS)
def test_the_card_of_the_weights_that_come_with_it(tracker):
    card = json.loads(motion.weights_of(tracker).with_suffix(".json").read_text())
    assert {"command", "data", "tracker", "results", "weaknesses"} <= set(card)
    assert f"--tracker {tracker} --steps {card['steps']} --seed {card['seed']}" in card["command"]
    assert sum(s["sequences"] for s in card["data"]["sequences"].values()) == 33
    assert all(s["licence"] for s in card["data"]["sequences"].values())


BACKGROUND = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)
BACKGROUND = cv2.resize(BACKGROUND, (400, 300), interpolation=cv2.INTER_CUBIC)
PIECE = cv2.resize(np.random.default_rng(2).integers(0, 255, (6, 8, 3), dtype=np.uint8), (48, 40))


def frames_of(n, step=4):
    for t in range(n):
        frame = BACKGROUND.copy()
        frame[100:140, 40 + step * t:88 + step * t] = PIECE
        yield frame


def test_signals_by_hand():
    tracker = SimpleNamespace(box=np.array([10., 20, 40, 90]), lost=False,      # its size: 60
                              observed=lambda: (.1, .2, .3, .4, .5))
    x, (middle, size), lost = motion.signals(tracker, (np.array([24., 68.]), 30.), 4)
    assert middle.tolist() == [30, 65] and size == 60 and lost == 0
    np.testing.assert_allclose(x, [6 / 60, -3 / 60, math.log(2), .1, .2, .3, .4, .5, 0, 0], rtol=1e-6)
    tracker.lost = True
    x, _, lost = motion.signals(tracker, (np.array([500., 65.]), 60.), 4)
    assert lost == 5
    np.testing.assert_allclose(x[[0, 1, 2, 8, 9]], [-2, 0, 0, 1, math.log(6) / 3], rtol=1e-6)


def test_roll_out_says_where_the_target_went():
    boxes = np.array([[40 + 4 * t, 100, 48, 40] for t in range(8)], float)
    sight = np.ones(8)
    sight[6] = 0
    roll = motion_training.roll_out(CorrelationTracker(), frames_of(8), boxes, sight)
    assert roll["x"].shape == (7, INPUTS) and np.isfinite(roll["x"]).all()
    size = math.sqrt(48 * 40)
    np.testing.assert_allclose(roll["shift"][:-1], [[4 / size, 0]] * 6, atol=.05)
    np.testing.assert_allclose(roll["x"][1:, :2], [[4 / size, 0]] * 6, atol=.05)
    assert np.isnan(roll["shift"][-1]).all()
    assert roll["there"].tolist() == [1, 1, 1, 1, 1, 0, 1]
    boxes[3], sight[3] = np.nan, np.nan         # nobody noted whether it is there
    boxes[5] = np.nan                           # where it is known not to be
    sight[5] = 0
    roll = motion_training.roll_out(CorrelationTracker(), frames_of(8), boxes, sight)
    np.testing.assert_array_equal(roll["there"], [1, 1, np.nan, 1, 0, 0, 1])


def test_a_sequence_is_rolled_out_both_ways_as_it_is_and_with_blockers(tmp_path):
    folder = tmp_path / "train" / "moving"
    (folder / "img").mkdir(parents=True)
    frames = list(frames_of(80, 2))
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / "img" / f"{t:04d}.png"), frame)
    (folder / "groundtruth_rect.txt").write_text("".join(f"{40 + 2 * t},100,48,40\n" for t in range(80)))
    made = motion_training.passes(tmp_path)
    real = [name for name in made if not name.startswith("scene")]
    assert sorted(real) == ["back-blocked-moving-1", "back-blocked-moving-2", "back-real-moving-0",
                            "blocked-moving-1", "blocked-moving-2", "real-moving-0"]
    assert len(made) - len(real) == motion_training.SCENES
    shown, boxes, sight = made["back-real-moving-0"]()
    np.testing.assert_array_equal(next(iter(shown)), frames[-1])
    assert boxes[0, 0] == 40 + 2 * 79 and (sight == 1).all()
    assert all((made[name]()[2] < .1).any() for name in real if "blocked" in name)


def test_the_command_measures_its_card_anew_and_keeps_the_rest(tmp_path, monkeypatch):
    boxes = np.array([[40 + 4 * t, 100, 48, 40] for t in range(60)], float)
    monkeypatch.setattr(motion_training, "passes",
                        lambda data: {"a": lambda: (frames_of(60), boxes, np.ones(60))})
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "SOURCE.txt").write_text("dataset: A\nrepository licence: MIT\n")
    (tmp_path / "correlation_motion.json").write_text('{"weaknesses": ["many"], "steps": 7}')
    motion_training.train_command(tmp_path, tmp_path, steps=50)
    card = json.loads((tmp_path / "correlation_motion.json").read_text())
    assert card["weaknesses"] == ["many"] and card["steps"] == 50 and card["data"]["frames"] == 59
    assert card["data"]["sequences"] == {"A": {"sequences": 1, "licence": "MIT"}}
    (tmp_path / "other" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"was made from .*, not from .*other: give another --output"):
        motion_training.train_command(tmp_path / "other", tmp_path, steps=50, resume=True)


class Foretold(MotionNetwork):
    """Says that all goes on as it went, within .1 sizes."""

    def call(self, x, state=None):
        n = x[..., 0] * 0
        return x[..., :2], x[..., :2] * 0 + math.log(.1), n, n + 9, [n]


def test_a_guess_is_a_box_whose_centre_stays_in_the_frame():
    guess = motion.Guess(np.array([10., -60.]), np.array([3., 4.]), 1.1, .9)
    frame = np.zeros((100, 200, 3), np.uint8)
    np.testing.assert_allclose(guess.box(np.array([40., 20, 20, 30]), frame),
                               [60 - 11, 0 - 16.5, 22, 33])     # its centre: 50, 35


def test_the_tracker_tells_what_is_predicted():
    tracker = CorrelationTracker(motion=Foretold())
    frames = list(frames_of(8))
    tracker.init(frames[0], (40, 100, 48, 40))
    states = [tracker.update(frame) for frame in frames[1:]]
    for t, state in enumerate(states[2:], 3):
        x, y, w, h = state.predicted
        np.testing.assert_allclose([x, y], [40 + 4 * (t + 1), 100], atol=4)
        np.testing.assert_allclose([w, h], state.box[2:])
        np.testing.assert_allclose(state.reach, .1 * math.sqrt(w * h), rtol=1e-5)
    assert not tracker.motion.any()                 # it is only used while the target is lost
    tracker.lost = True
    tracker.foresight.last = tracker.centre - (4, 0), tracker.size
    tracker.predict(frames[-1], tracker.box)
    np.testing.assert_allclose(tracker.motion, (4, 0), atol=1e-4)
    tracker = CorrelationTracker(motion=Foretold(), lead=True)
    tracker.init(frames[0], (40, 100, 48, 40))
    tracker.update(frames[1])
    assert tracker.motion[0] == pytest.approx(4, abs=3)


def test_motion_gate():
    tracker = CorrelationTracker(gate=True, motion=Foretold(), motion_gate=True)
    frames = list(frames_of(5))
    tracker.init(frames[0], (40, 100, 48, 40))
    calls = []
    tracker.learn = lambda frame: calls.append(1)
    tracker.update(frames[1])
    assert len(calls) == 1
    tracker.believed = .01
    tracker.update(frames[2])
    assert len(calls) == 1


def test_only_some_trackers_have_a_motion_network():
    with pytest.raises(ValueError, match="for correlation or recurrent, not 'CSRT'"):
        motion_training.train_command("nowhere", "nowhere", "CSRT")


def test_prediction_errors_by_hand():
    truth = np.array([[10. * t, 0, 4, 9] for t in range(6)])
    boxes = truth.copy()
    predicted = truth + [1, 0, 0, 0]
    predicted[3] += [5, 0, 0, 0]
    predicted[0] = predicted[1] = np.nan
    sight = np.ones(6)
    sight[4] = 0
    found = prediction.errors(boxes, predicted, np.full((6, 2), 2.), truth, sight)
    np.testing.assert_allclose(found["predicted"], [1 / 6, 1, 1 / 6, 1 / 6])
    np.testing.assert_allclose(found["no motion"], 10 / 6)
    np.testing.assert_allclose(found["constant velocity"], 0, atol=1e-12)
    assert found["inside"].tolist() == [True, False, True, True]
    assert found["on target"].all() and found["hidden"].tolist() == [False, False, True, False]
    sparse = truth.copy()
    sparse[1:4] = np.nan
    boxes[5] += [20, 0, 0, 0]                   # off the target, after it was on it
    sparse = prediction.errors(boxes, predicted, np.full((6, 2), 2.), sparse, sight)
    assert sparse["on target"].tolist() == [True, True]         # both told by frame 4
    rows = prediction.table([found])
    assert rows["all"]["inside"] == .75 and rows["hidden"]["frames"] == 1


def test_a_tracker_that_predicts_nothing_is_refused():
    from tracker.baselines import KeepFirst
    from tracker.sequences import Sequence
    frames = list(frames_of(3))
    sequence = Sequence("s", frames, np.array([[40 + 4 * t, 100, 48, 40] for t in range(3)], float))
    with pytest.raises(ValueError, match="predicts nothing"):
        prediction.follow(KeepFirst(), sequence)
