"""The detector of the demo's objects: boxes out of the network's answer, and what it starts."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from minideep import no_grad, tensor
from tracker import object_detector
from tracker.__main__ import app
from tracker.boxes import iou
from tracker.demo import CLIPS, read_notes
from tracker.multi import MultiTracker
from tracker.object_detector import (
    CLASSES,
    STRIDE,
    UNIT,
    WEIGHTS,
    ObjectDetector,
    ObjectNetwork,
    decode,
    pyramid,
    suppress,
)
from tracker.sequences import VideoFrames

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def detector():
    return ObjectDetector.load()


def answer_of(shape, objects):
    """What a network says that is sure: objects (class, box, score)."""
    answer = np.full((*shape, len(CLASSES) + 4), -9.)
    for c, (x, y, w, h), score in objects:
        i, j = int((y + h / 2) // STRIDE), int((x + w / 2) // STRIDE)
        answer[i, j, c] = np.log(score / (1 - score))
        answer[i, j, 2:] = ((x + w / 2) / STRIDE - j - .5, (y + h / 2) / STRIDE - i - .5,
                            np.log(w / UNIT), np.log(h / UNIT))
    return answer


def test_boxes_come_out_as_they_went_in():
    objects = [(0, (10, 20, 14, 44), .9), (1, (60, 30, 33, 70), .6), (0, (100, 8, 9, 30), .2)]
    boxes, scores, classes = decode(answer_of((12, 16), objects), .1)
    order = np.argsort(-scores)
    np.testing.assert_allclose(boxes[order], [box for _, box, _ in objects], atol=1e-9)
    np.testing.assert_allclose(scores[order], [.9, .6, .2])
    assert classes[order].tolist() == [0, 1, 0]
    assert len(decode(answer_of((12, 16), objects), .5)[0]) == 2


def test_only_the_best_of_neighbouring_cells_counts():
    answer = answer_of((6, 6), [(0, (8, 8, 16, 16), .9)])
    answer[2, 3, 0], answer[2, 3, 2:] = 1., 0           # below the best, beside it
    assert len(decode(answer, .1)[0]) == 1
    answer[2, 4, 0] = .5                                # beside that one
    assert len(decode(answer, .1)[0]) == 1
    answer[5, 5, 0] = .5
    assert len(decode(answer, .1)[0]) == 2


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_opencvs(seed):
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.uniform(0, 60, (40, 2)), rng.uniform(10, 40, (40, 2))])
    scores = rng.random(40)
    expected = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0., .5)
    assert suppress(boxes, scores) == list(expected) and 1 < len(expected) < 40


def test_what_has_no_score_or_no_area_is_suppressed():
    boxes = np.array([[0, 0, 5, 5], [20, 0, 5, 0], [40, 0, 5, 5.]])
    assert suppress(boxes, np.array([0, 1, .5])) == [2]
    assert suppress(np.empty((0, 4)), np.empty(0)) == []


def test_the_network_says_what_it_takes():
    network = ObjectNetwork()
    assert network.count_params() == 135526
    with no_grad():
        assert network(tensor(np.zeros((2, 24, 40, 3), np.float32))).shape == (2, 3, 5, 6)
    with pytest.raises(ValueError, match=r"multiples of 8, not \(1, 20, 24, 3\)"):
        network(tensor(np.zeros((1, 20, 24, 3), np.float32)))


@pytest.mark.parametrize("size, levels", [((576, 768), 4), ((1080, 1920), 4), ((97, 203), 2),
                                          ((7, 5), 1)])
def test_a_frame_is_looked_at_in_sizes(size, levels):
    frame = np.zeros((*size, 3), np.uint8)
    images = list(pyramid(frame))
    assert len(images) == levels and max(images[0][0].shape[:2]) == min(max(size), 768)
    for image, scale in images:
        np.testing.assert_allclose(scale[:2] * size[::-1], image.shape[1::-1])


def test_objects_of_all_sizes_end_in_the_frames_pixels(monkeypatch):
    """A network that finds white: where the frame's white box is, whatever the level."""
    class White:
        def __call__(self, crops):
            crop = crops.numpy()[0]
            assert crop.shape[0] % STRIDE == crop.shape[1] % STRIDE == 0
            y, x = np.nonzero(crop.min(2) > 250)
            box = (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)
            return tensor(answer_of(np.array(crop.shape[:2]) // STRIDE, [(1, box, .9)])[None])

    frame = np.zeros((600, 1000, 3), np.uint8)
    frame[120:360, 400:560] = 255
    boxes, scores, classes = ObjectDetector(White()).find(frame)
    assert len(boxes) == 1 and iou(boxes[0], (400, 120, 160, 240)) > .95 and classes[0] == 1
    frame[:, :200] = frame[:500, 800:] = 0
    frame[500:, 900:] = 255         # boxes do not reach beyond the frame
    frame[120:360, 400:560] = 0
    boxes, _, _ = ObjectDetector(White(), ["cup"]).find(frame)
    assert (boxes[:, :2] + boxes[:, 2:] <= (1000, 600)).all()
    assert len(ObjectDetector(White(), ["person"])(frame)[0]) == 0


def test_what_cannot_be_is_told(detector, tmp_path):
    for classes in (["dog"], []):
        with pytest.raises(ValueError, match="knows person and cup, not ('dog'|nothing)"):
            ObjectDetector(detector.network, classes)
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        ObjectDetector.load(tmp_path / "none.safetensors")
    with pytest.raises(TypeError, match="imread"):
        detector(None)
    for shape in ((1, 1), (9, 300)):
        boxes, scores = detector(np.zeros((*shape, 3), np.uint8))
        assert boxes.shape == (len(scores), 4)


def test_the_card_is_of_these_weights(detector):
    card = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert card["weights"] == detector.network.count_params() and card["classes"] == list(CLASSES)
    assert WEIGHTS.stat().st_size < 1e6


def test_it_starts_a_track_of_the_cup():
    """On frames of the clip that it was not trained on."""
    notes = read_notes(CLIPS / "cup.boxes.txt", 200)
    tracker = MultiTracker.load(detect=ObjectDetector.load(classes=["cup"]))
    for number, frame in enumerate(VideoFrames(CLIPS / "cup.webm")):
        if number == 142:
            tracker.init(frame)
        elif 142 < number <= 150:
            states = tracker.update(frame)
    assert [n for n, _ in states] == [1] and not states[0][1].lost
    assert iou(states[0][1].box, notes[150]) > .7


def test_the_command_takes_its_classes(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((60, 80, 3), 90, np.uint8))
    for name in CLASSES:
        result = CliRunner().invoke(app, ["track", str(tmp_path), "--detect", name, "--output",
                                          str(tmp_path / "out")])
        assert result.exit_code == 0 and "0 targets in 3 frames" in result.output


def test_loading_it_imports_no_opencv_of_its_own():
    assert "cv2" not in vars(object_detector)
