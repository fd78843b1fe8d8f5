import numpy as np
import pytest

from tracker.attributes import computed, find_attributes
from tracker.sequences import Sequence

pytest.importorskip("cv2")


def sequence(boxes, frames=None, **more):
    """Over noise, so that no rule about pictures holds."""
    boxes = np.array(boxes, float)
    if frames is None:
        frames = np.random.default_rng(0).integers(0, 120, (len(boxes), 100, 160, 3), np.uint8)
        for frame, (x, y, w, h) in zip(frames, np.nan_to_num(boxes).astype(int)):
            frame[y:y + h, x:x + w] += 100
    return Sequence("s", list(frames), boxes, **more)


STILL = [40, 40, 30, 25]
CASES = {
    "scale change": [STILL, [32, 34, 45, 36]],
    "aspect change": [STILL, [40, 40, 42, 17]],
    "fast motion": [STILL, [58, 40, 30, 25]],
    "small target": [[40, 40, 20, 22], [40, 40, 20, 19]],
    "absence": [STILL, [np.nan] * 4, STILL],
    "at the border": [STILL, [39, 34, 31, 25], [30, 30, 31, 69.5]],
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule(name):
    assert name in computed(sequence(CASES[name]))
    assert computed(sequence([STILL] * 3)) == []


def test_just_inside_the_rules():
    assert computed(sequence([[20, 20, 40, 40], [26, 26, 28.5, 28.5], [12, 12, 56, 56],
                              [20, 20, 40, 40], [1, 20, 40, 40]])) == []


def test_absence_before_the_start_does_not_count_nor_motion_over_gaps():
    assert computed(sequence([[np.nan] * 4, STILL, STILL])) == []
    assert computed(sequence([STILL, [np.nan] * 4, [70, 40, 30, 25]])) == ["absence"]


def test_light_change():
    dim = sequence([STILL] * 4)
    dim.frames[2] = dim.frames[2] // 2
    assert computed(dim) == ["light change"]


def test_a_target_that_is_like_its_surround():
    noise = np.random.default_rng(0).integers(0, 255, (3, 100, 160, 3), np.uint8)
    assert computed(sequence([STILL] * 3, noise)) == ["like its surround"]


def test_the_datasets_own_attributes_come_first():
    tags = {"occlusion": np.array([True, False]), "out of view": np.array([False, False])}
    own = sequence(CASES["scale change"], attributes=tags)
    other = sequence(CASES["scale change"])
    found = find_attributes([own, Sequence("t", other.frames, other.boxes)])
    assert {name: sorted(s) for name, s in found.items()} == {
        "occlusion": ["s"], "scale change": ["t"]}
    assert found["occlusion"]["s"].tolist() == [True, False]
    assert found["scale change"]["t"].all()


def test_a_frame_that_nobody_noted_is_no_absence():
    frames = [np.full((60, 80, 3), 90, np.uint8)] * 20
    boxes = np.tile([20., 15., 30., 25.], (20, 1))
    boxes[5:9] = np.nan
    assert "absence" in computed(Sequence("away", frames, boxes))
    noted = np.isfinite(boxes[:, 0])
    assert "absence" not in computed(Sequence("unknown", frames, boxes, noted=noted))
