"""Pairs are what they say, the loss is small where it should be, training resumes to the bit."""

import json
import math

import numpy as np
import pytest

from minideep import no_grad, tensor
from minideep.data import DataLoader
from minideep.serialization import load_arrays
from tracker import correlation_training as training
from tracker import synthetic
from tracker.correlation_training import CELLS, REACH, SIDE, UNIT, Pairs, FeatureTrainer
from tracker.features import FeatureNetwork
from tracker.sequences import Sequence

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with three photos, a sequence of eight frames and a short video."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("photos", "clips"):
        (folder / name).mkdir()
    for name in "abc":
        cv2.imwrite(str(folder / "photos" / f"{name}.png"), synthetic.procedural_photo(rng, 300))
    images = folder / "train" / "square" / "img"
    images.mkdir(parents=True)
    boxes = []
    for t in range(8):
        frame = synthetic.procedural_photo(np.random.default_rng(1), 160)
        frame[40:80, 30 + 4 * t:70 + 4 * t] = (20, 200, 240)
        cv2.imwrite(str(images / f"{t:04d}.png"), frame)
        boxes.append(f"{30 + 4 * t},40,40,40")
    (images.parent / "groundtruth_rect.txt").write_text("\n".join(boxes) + "\n")
    video = cv2.VideoWriter(str(folder / "clips" / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25,
                            (640, 320))
    for _ in range(30):
        video.write(np.full((320, 640, 3), 90, np.uint8))
    video.release()
    return folder


@pytest.fixture(scope="module")
def pairs(data):
    return Pairs(data, 7, 0, 64)


def batch(pairs, count):
    return next(iter(DataLoader(pairs, count, prefetch=0)))


# ------------------------------------------------------------------------------- pairs


def test_pairs_depend_on_seed_and_number_alone(data, pairs):
    assert len(pairs) == 64 and len(pairs.pictures) == 3 + 2 and len(pairs.sequences) == 1
    assert pairs.pictures[-1].shape == (240, 480, 3)
    later = Pairs(data, 7, 10, 64)
    assert len(later) == 54
    for a, b in zip(pairs[13], later[3]):
        assert np.array_equal(a, b)
    assert not np.array_equal(pairs[13][1], pairs[14][1])
    assert not np.array_equal(pairs[13][1], Pairs(data, 8, 0, 64)[13][1])
    for template, search, pose in (pairs[i] for i in range(20)):
        assert template.shape == search.shape == (SIDE, SIDE, 3) and pose.shape == (4,)
        assert template.dtype == search.dtype == np.uint8 and pose.dtype == np.float32


def test_photos_alone_and_sequences_alone_will_do(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="no training data"):
        Pairs(tmp_path, 0, 0, 1)
    (tmp_path / "train").symlink_to(data / "train")
    assert len(Pairs(tmp_path, 0, 0, 4)[3]) == 3
    (tmp_path / "train").unlink()
    (tmp_path / "photos").symlink_to(data / "photos")
    assert len(Pairs(tmp_path, 0, 0, 4)[3]) == 3


def test_pictures_that_are_no_use(tmp_path):
    (tmp_path / "clips").mkdir()
    with pytest.raises(ValueError, match=f"nothing to make pairs from in {tmp_path}: "):
        Pairs(tmp_path, 0, 0, 1)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "plain.png"), np.zeros((100, 100, 3), np.uint8))
    with pytest.raises(ValueError, match="no target can be cut from the 1 pictures"):
        Pairs(tmp_path, 0, 0, 1)[0]


@pytest.mark.parametrize("scale", [.4, 1., 1.7, 3.1])
def test_cut_shows_the_right_place(scale):
    """On a picture whose brightness is the place, bilinear and block averages are exact."""
    y, x = np.mgrid[:600, :600]
    picture = np.stack([x * .4, y * .4, x * 0], -1).round().astype(np.uint8)
    angle = .3
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.array([310., 295.])
    crop = training.cut(picture, middle, turn * scale)
    for row, column in ((80, 80), (60, 95), (97, 40)):
        offset = np.array([column, row]) + .5 - SIDE / 2
        expected = (middle + turn @ offset * scale - .5) * .4
        np.testing.assert_allclose(crop[row, column, :2], expected, atol=1.5)


def blob(crop):
    """Middle (x, y), from the crop's middle, and area of what is bright."""
    y, x = np.nonzero(crop.min(2) > 150)
    return np.array([x.mean(), y.mean()]) + .5 - SIDE / 2, len(x)


@pytest.mark.parametrize("seed", range(8))
def test_a_real_pair_says_where_the_target_is(seed, monkeypatch):
    frames, boxes = [], []
    for t in range(6):
        frame = np.full((200, 300, 3), 30, np.uint8)
        side = 20 + 2 * t
        frame[50 + t:50 + t + side, 40 + 9 * t:40 + 9 * t + side] = 255
        frames.append(frame)
        boxes.append([40 + 9 * t, 50 + t, side, side])
    monkeypatch.setattr(training, "relit", lambda rng, crop: crop)
    sequence = Sequence("s", frames, np.array(boxes, float))
    template, search, pose = training.real_pair(np.random.default_rng(seed), sequence)
    where, area = blob(template)
    np.testing.assert_allclose(where, 0, atol=1)
    assert area == pytest.approx((SIDE / REACH) ** 2, rel=.12)
    where, area = blob(search)
    np.testing.assert_allclose(where, pose[:2] * SIDE / REACH, atol=1)
    assert area == pytest.approx((SIDE / REACH * math.exp(pose[2])) ** 2, rel=.12)
    assert pose[3] == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_rendered_pair_says_where_the_target_is(seed, monkeypatch):
    picture = np.full((400, 400, 3), 30, np.uint8)
    picture[150:190, 220:270] = 255
    middle = np.array([245., 170.])
    monkeypatch.setattr(training, "draw_target", lambda *_: (picture, middle, (50., 40.)))
    monkeypatch.setattr(training, "relit", lambda rng, crop: crop)
    monkeypatch.setattr(training, "cover", lambda *_: None)
    behind, paste = np.full((300, 300, 3), 60, np.uint8), training.paste
    monkeypatch.setattr(training, "paste", lambda rng, search, _, *how:
                        paste(rng, search, behind, *how))
    template, search, pose = training.rendered_pair(np.random.default_rng(seed), [picture])
    where, area = blob(template)
    np.testing.assert_allclose(where, 0, atol=1)
    assert area == pytest.approx((SIDE / REACH) ** 2, rel=.12)
    where, area = blob(search)
    np.testing.assert_allclose(where, pose[:2] * SIDE / REACH, atol=2.5)
    assert area == pytest.approx((SIDE / REACH * math.exp(pose[2])) ** 2, rel=.25)  # corners fade
    assert pose[3] == pytest.approx(.5 * math.log(50 / 40))


def test_targets_that_are_too_small_are_left_out():
    boxes = np.array([[0, 0, 3, 9], [0, 0, 9, 9], [np.nan] * 4, [1, 1, 4, 4]], float)
    assert training.large_enough(boxes).tolist() == [1, 3]


def test_relit_keeps_the_shape_and_changes_the_crop(pairs):
    crop = pairs[0][1]
    before = crop.copy()
    changed = [training.relit(np.random.default_rng(k), crop) for k in range(30)]
    assert np.array_equal(crop, before)
    assert all(c.shape == crop.shape and c.dtype == np.uint8 for c in changed)
    assert sum(not np.array_equal(c, crop) for c in changed) > 20


# ------------------------------------------------------------------------------- the loss


def test_hill_and_support():
    hills = training.hill(np.array([[3., -5.], [0., .5]]))
    assert hills.shape == (2, CELLS, CELLS)
    assert np.unravel_index(hills[0].argmax(), hills[0].shape) == (CELLS - 5, 3)
    assert hills[0].max() == pytest.approx(1) and hills[1][0, 0] == pytest.approx(hills[1][1, 0])
    kept = training.support(np.array([0., .5 * math.log(4)]))   # a square, and 2 : 1/2
    for k, (w, h) in enumerate([(1, 1), (2, .5)]):
        assert kept[k].sum() == pytest.approx(w * h * (1.2 * UNIT) ** 2, rel=.05)
    wide, high = kept[1].max(0), kept[1].max(1)
    assert (wide > .5).sum() == pytest.approx(24, abs=1) and (high > .5).sum() == pytest.approx(6, abs=1)
    # symmetrical around -(CELLS - 1) / 2, counted round the edges
    np.testing.assert_allclose(kept[0], np.roll(kept[0][::-1, ::-1], (2, 2), (0, 1)), atol=1e-6)


def test_the_loss_is_low_where_the_answer_is_right_and_one_for_silence(pairs, monkeypatch):
    _, _, poses = batch(pairs, 2)
    poses[:, 2] = 0
    wanted = training.hill(poses[:, :2] * UNIT)
    network = FeatureNetwork()
    crops = [np.zeros((2, SIDE, SIDE, 3), np.uint8)] * 2
    monkeypatch.setattr(training, "filter_response", lambda *_: tensor(wanted))
    with no_grad():
        loss, figures = training.pair_loss(network, tensor(np.float32(1)), *crops, poses)
        assert loss.item() == pytest.approx(0, abs=1e-9) and figures["hits"] == 1
        loss, figures = training.pair_loss(network, tensor(np.float32(0)), *crops, poses)
        assert loss.item() == pytest.approx(1, rel=.02)


@pytest.mark.parametrize("hand, steps, part", [(False, 20, .6), (True, 30, .55)])
def test_the_loss_falls(pairs, hand, steps, part):
    trainer = FeatureTrainer(seed=0, steps=1000, hand=hand)
    first = batch(pairs, 6)
    losses = [trainer.step_on(first)["loss"] for _ in range(steps)]
    assert losses[-1] < part * losses[0]


def test_every_weight_gets_a_gradient(pairs):
    trainer = FeatureTrainer(seed=0, steps=10)
    loss, _ = training.pair_loss(trainer.network, trainer.gain, *batch(pairs, 4))
    loss.backward()
    for name, weight in trainer.weights.items():
        assert weight.grad is not None and np.abs(weight.grad.numpy()).max() > 0, name


# ------------------------------------------------------------------------------- the loop


def test_the_learning_rate_goes_up_along_and_down():
    rates = [training.learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(3e-3 / 30) and rates[-1] == pytest.approx(3e-3 / 400)
    assert all(r == 3e-3 for r in rates[29:601]) and rates[800] == pytest.approx(1.5e-3)
    assert rates[:600] == [training.learning_rate(step, 2000) for step in range(600)]


def test_resume_is_the_same_to_the_bit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PAIRS", 4)
    whole = training.train(data, tmp_path / "whole", steps=5, seed=3)

    def interrupt(trainer, figures):
        if trainer.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):          # the last checkpoint is of step 2
        training.train(data, tmp_path / "half", 5, 3, save_every=0, report=interrupt)
    assert load_arrays(tmp_path / "half" / "checkpoint.safetensors")[1]["step"] == 2
    rest = training.train(data, tmp_path / "half", resume=True)
    assert (rest.step, rest.steps, rest.seed) == (5, 5, 3)
    for name in ("checkpoint.safetensors", "correlation.safetensors"):
        ours, theirs = (load_arrays(tmp_path / run / name) for run in ("whole", "half"))
        assert ours[1] == theirs[1] and ours[0].keys() == theirs[0].keys()
        assert all(np.array_equal(ours[0][k], theirs[0][k]) for k in ours[0])
    assert np.array_equal(FeatureNetwork.load(tmp_path / "half" / "correlation.safetensors")
                          .conv1.kernel.numpy(), whole.network.conv1.kernel.numpy())


def test_a_checkpoint_is_not_overwritten(data, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(FileExistsError, match="--resume"):
        training.train(data, tmp_path, 2)
    with pytest.raises(FileNotFoundError):
        training.train_command(data, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("save_every, said", [(0, "--resume goes on"), (999, "not written yet")])
def test_an_interrupted_command_says_what_is_left(data, tmp_path, monkeypatch, capsys, save_every, said):
    whole = training.train

    def train(*arguments, report):
        def interrupt(trainer, figures):
            report(trainer, figures)
            if trainer.step == 2:
                raise KeyboardInterrupt
        return whole(*arguments, save_every=save_every, report=interrupt)

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(KeyboardInterrupt):
        training.train_command(data, tmp_path / "out", 5)
    out = capsys.readouterr().out
    assert said in out and str(tmp_path / "out" / "checkpoint.safetensors") in out.replace("\n", "")


def test_the_command_writes_a_log_and_its_results(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "PAIRS", 2)
    training.train_command(data, tmp_path / "out", steps=50, seed=1, json=tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["steps"] == 50 and result["seed"] == 1 and result["loss"] > 0
    lines = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert lines[0] == "step,loss,hits,seconds" and lines[1].startswith("50,")
    assert "after 50 steps" in capsys.readouterr().out
    with open(tmp_path / "out" / "log.csv", "a") as log:    # as after an interruption
        log.write(lines[1] + "\n")
    card = json.loads((tmp_path / "out" / "correlation.json").read_text())
    assert card == training.model_card(data, tmp_path / "out") and len(card["curve"]) == 1
    assert card["weights"] == 24352 and card["pairs"] == 100 and card["curve"][0]["step"] == 50
    assert card["command"].endswith("train correlation DATA --steps 50 --seed 1")


def test_the_card_names_sources_and_licences(tmp_path):
    for name, text in {"photos/SOURCES.txt": "Head line.\n\nset_a: 3 photos; CC0\n",
                       "photos/set_a_0001.jpg": "", "photos/set_a_0002.jpg": "",
                       "train/one/SOURCE.txt": "dataset: A: b\nrepository licence: MIT\n",
                       "train/two/SOURCE.txt": "dataset: A: b\nrepository licence: MIT\n",
                       "train/three/SOURCE.txt": "nothing\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert training.sources(tmp_path) == {
        "photos": {"set_a": {"files": 2, "source": "3 photos; CC0"}}, "clips": {}, "sequences": {
            "A: b": {"sequences": 2, "licence": "MIT"},
            "three": {"sequences": 1, "licence": "no licence in the source"}}}
