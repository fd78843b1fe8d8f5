"""The detector's training data say what they show, the loss is the formula, training resumes."""

import json
import math
import shutil

import numpy as np
import pytest

from minideep import tensor
from minideep.serialization import load_arrays
from tracker import object_detector_training as training
from tracker import synthetic
from tracker.boxes import iou
from tracker.object_detector import CLASSES, STRIDE, UNIT, decode
from tracker.object_detector_training import (
    CELLS,
    CUP,
    PERSON,
    SIDE,
    Crops,
    Picture,
    Sprite,
    DetectorTrainer,
    covered,
    cut,
    detection_loss,
    draw_targets,
    find_walkers,
    one_person,
    paste,
)

cv2 = pytest.importorskip("cv2")

NONE = np.empty((0, 4))


def walkers(frames=30, size=(240, 320)):
    """Frames in which one grows as it comes nearer, two go side by side, and a cart rolls by."""
    rng = np.random.default_rng(0)
    background = cv2.GaussianBlur(rng.integers(60, 120, (*size, 3), np.uint8), (0, 0), 2)
    shown, truth = [], []
    for t in range(frames):
        frame = background.copy()
        boxes = []
        for start, pace in ((5, 6), (60, 5), (150, -4)):
            feet = 90 + 4 * t + start // 10
            h = round(.4 * feet)
            boxes.append((start + pace * t, feet - h, round(.35 * h), h))
        for x, y, w, h in boxes:
            cv2.rectangle(frame, (x, y), (x + w - 1, y + h - 1), (220, 230, 240), -1)
        cv2.rectangle(frame, (300 - 8 * t, 20), (340 - 8 * t, 45), (240, 240, 240), -1)
        shown.append(frame)
        truth.append([(max(x, 0), y, w + min(x, 0), h) for x, y, w, h in boxes])
    return shown, np.array(truth, float)


def test_walkers_are_found_and_nothing_else():
    frames, truth = walkers()
    pictures, sprites = find_walkers(frames)
    overlaps = [iou(box, truth[t]).max() for t, p in enumerate(pictures) for box in p.boxes]
    assert len(overlaps) > 50 and np.median(overlaps) > .95
    assert np.mean(np.array(overlaps) > .75) > .8       # the others touch
    assert len(sprites) == len(overlaps) and all((p.classes == PERSON).all() for p in pictures)
    assert sum(len(p.unknown) for p in pictures) > 15           # the cart, and people who touch
    for sprite in sprites[:5]:
        assert sprite.mask.shape == sprite.image.shape[:2] and .8 < sprite.mask.mean() <= 1


def test_one_person_is_as_tall_as_others_there():
    feet = np.linspace(100, 400, 20)
    h = 10 + .3 * feet
    boxes = np.stack([feet, feet - h, .4 * h, h], 1)
    odd = np.array([[50, 200 - 45, 18, 45.],            # half of someone
                    [90, 300 - 140, 50, 140],           # someone on someone's shoulders
                    [50, 200 - 70, 60, 70]])            # two side by side
    every = np.concatenate([boxes, odd])
    pixels = .6 * every[:, 2:].prod(1)
    assert one_person(every, pixels).tolist() == [True] * 20 + [False] * 3
    pixels[3] = .2 * every[3, 2:].prod()            # a thin thing
    assert not one_person(every, pixels)[3]


@pytest.mark.parametrize("scale", [.15, .35, .8, 1.7])
def test_a_cut_shows_its_boxes(scale):
    image = np.full((480, 640, 3), 30, np.uint8)
    box = np.array([[300., 200, 60, 90]])
    image[200:290, 300:360] = 255
    picture = Picture(image, box, np.array([CUP]), NONE)
    crop, boxes, classes, _ = cut(picture, np.array([318., 251.]), scale)
    seen = crop.min(2) > 140
    y, x = np.nonzero(seen)
    shown = x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1
    clipped = np.clip([boxes[0, :2], boxes[0, :2] + boxes[0, 2:]], 0, SIDE)
    np.testing.assert_allclose(shown, [*clipped[0], *(clipped[1] - clipped[0])], atol=1.1)
    assert classes.tolist() == [CUP]


def test_beyond_the_picture_is_gray():
    image = np.full((50, 60, 3), 255, np.uint8)
    picture, half = Picture(image, NONE, np.empty(0, int), NONE), SIDE // 2
    crop = cut(picture, np.array([0., 0.]), 1.)[0]
    assert (crop[:half - 1] == 128).all()
    assert (crop[half + 2:half + 40, half + 2:half + 50] == 255).all()
    assert (cut(picture, np.array([500., 500.]), 1.)[0] == 128).all()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_pasted_is_where_the_box_says(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((90, 40), np.float32)
    cv2.ellipse(mask, (20, 45), (18, 44), 0, 0, 360, 1, -1)
    sprite = Sprite((PERSON, CUP)[seed % 2], np.full((90, 40, 3), 240, np.uint8), mask)
    crop = np.full((SIDE, SIDE, 3), 20, np.uint8)
    box = paste(rng, crop, sprite)
    y, x = np.nonzero(crop.min(2) > 70)
    if len(x):
        low, high = np.clip([box[:2], box[:2] + box[2:]], 0, SIDE)
        shown = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        np.testing.assert_allclose(shown, [*low, *high], atol=3.1)


def test_how_much_is_covered():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 10, 10], [30, 0, 4, 4.]])
    np.testing.assert_allclose(covered(boxes, np.array([5, 0, 10, 10.])), [.5, .5, 0])


def test_targets_are_what_the_detector_reads():
    boxes = np.array([[20, 30, 20, 52], [90, 60, 28, 66], [100, 10, 8, 20], [130, 130, 60, 60.]])
    hills, weight, places, near = draw_targets(boxes, np.array([PERSON, CUP, PERSON, CUP]),
                                               np.array([[0, 100, 40, 40.]]))
    assert hills.shape == (CELLS, CELLS, 2) and places.shape == (CELLS, CELLS, 4)
    sure = np.where(hills == 1, 9., -9.)
    found, _, classes = decode(np.concatenate([sure, places], -1), .5)
    np.testing.assert_allclose(found, boxes[:2], atol=1e-4)     # one is small, one outside
    assert classes.tolist() == [PERSON, CUP]
    assert (weight[13:17, 0:5] == 0).all() and weight[10, 14] == 1 and (weight == 0).sum() < 60
    for i, j in np.argwhere(near[..., 0]):
        middle = (np.array([j, i]) + .5 + places[i, j, :2]) * STRIDE
        size = UNIT * np.exp(places[i, j, 2:])
        assert iou([*(middle - size / 2), *size], boxes).max() > .99


def test_the_loss_is_the_formula():
    rng = np.random.default_rng(0)
    answer = rng.normal(0, 2, (2, 3, 4, 6))
    hills, weight = rng.random((2, 3, 4, 2)), (rng.random((2, 3, 4, 1)) < .8).astype(float)
    hills[0, 1, 2, 0] = hills[1, 0, 0, 1] = weight[0, 1, 2] = weight[1, 0, 0] = 1
    places, near = rng.normal(0, 1, (2, 3, 4, 4)), (rng.random((2, 3, 4, 1)) < .4).astype(float)
    loss, figures = detection_loss(tensor(answer), hills, weight, places, near)
    focal = error = 0.
    for n, i, j in np.ndindex(2, 3, 4):
        for c in range(2):
            p, hill = 1 / (1 + math.exp(-answer[n, i, j, c])), hills[n, i, j, c]
            each = ((1 - p) ** 2 * math.log(p) if hill == 1 else
                    (1 - hill) ** 4 * p ** 2 * math.log(1 - p))
            focal -= weight[n, i, j, 0] * each
        error += near[n, i, j, 0] * np.abs(answer[n, i, j, 2:] - places[n, i, j]).sum()
    assert figures["focal"] == pytest.approx(focal / 2, rel=1e-5)
    assert figures["box"] == pytest.approx(error / near.sum() / 4, rel=1e-5)
    assert loss.item() == pytest.approx(figures["focal"] + 2 * figures["box"], rel=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("photos", "clips"):
        (folder / name).mkdir()
    for name in "ab":
        cv2.imwrite(str(folder / "photos" / f"{name}.png"),
                    synthetic.procedural_photo(np.random.default_rng(1), 300))
    video = cv2.VideoWriter(str(folder / "clips" / training.WALKERS),
                            cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for frame in walkers()[0]:
        video.write(frame)
    video.release()
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "CUP_END", 12)        # two noted frames
    monkeypatch.setattr(training, "CROPS", 2)


def test_crops_depend_on_seed_and_number_alone(data):
    crops, later = Crops(data, 5, 0, 40), Crops(data, 5, 30, 40)
    assert len(crops) == 40 and len(later) == 10 and len(crops.cups) == 2
    for a, b in zip(crops[33], later[3]):
        assert np.array_equal(a, b)
    assert not np.array_equal(crops[33][0], crops[34][0])
    drawn = [crops[i] for i in range(40)]
    for crop, hills, weight, places, near in drawn:
        assert crop.shape == (SIDE, SIDE, 3) and crop.dtype == np.uint8
        assert hills.dtype == places.dtype == np.float32 and (near.sum() > 0) == (hills > .4).any()
    assert all(any((d[1][..., c] == 1).any() for d in drawn) for c in range(len(CLASSES)))


def test_a_resumed_training_is_the_uninterrupted_one(data, tmp_path):
    whole = training.train(data, tmp_path / "whole", steps=4, seed=3)

    def stop(trainer, figures):
        if trainer.step == 2:
            trainer.save(tmp_path / "parts")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(data, tmp_path / "parts", steps=4, seed=3, report=stop)
    parts = training.train(data, tmp_path / "parts", resume=True)
    assert whole.step == parts.step == 4
    for name, w in whole.network.named_weights().items():
        assert np.array_equal(w.numpy(), parts.network.named_weights()[name].numpy()), name
    with pytest.raises(FileExistsError, match="--resume"):
        training.train(data, tmp_path / "parts", steps=4)


def test_the_command_leaves_weights_log_and_card(data, tmp_path):
    result = training.train_command(data, tmp_path, steps=50, seed=1, json=tmp_path / "r.json")
    assert result["steps"] == 50 and json.loads((tmp_path / "r.json").read_text()) == result
    card = json.loads((tmp_path / "object_detector.json").read_text())
    arrays, about = load_arrays(tmp_path / "object_detector.safetensors")
    assert card["weights"] == sum(a.size for a in arrays.values()) and about["step"] == 50
    assert [row["step"] for row in card["curve"]] == [50]
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "step,focal,box,seconds" and len(lines) == 2


def test_learning_lowers_the_loss(data):
    crops = Crops(data, 0, 0, 8)
    batch = tuple(np.stack(parts) for parts in zip(*(crops[i] for i in range(4))))
    trainer = DetectorTrainer(0, 60)
    losses = [trainer.step_on(batch)["focal"] for _ in range(40)]
    assert np.mean(losses[-5:]) < .7 * np.mean(losses[:5])


def test_missing_data_are_told(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="photos"):
        training.train(tmp_path, tmp_path / "out", steps=1)
    shutil.copytree(data / "photos", tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match="opencv_vtest.avi"):
        training.train(tmp_path, tmp_path / "out", steps=1)
