"""Things that move before a camera that stands still."""

import numpy as np
import pytest

from tracker.boxes import iou
from tracker.moving import MovingThings
from tracker.multi import MultiTracker
from tracker.scenes import render

cv2 = pytest.importorskip("cv2")


def still_scene(empty=15):
    """Frames without, then with two bright targets on something darker; their boxes."""
    scene = render(6, 30, (320, 240), 2, unit=44, speed=.08, camera=0, light=0)
    rng = np.random.default_rng(0)
    scene.background //= 2
    for actor in scene.actors:
        actor.sprite.texture = rng.integers(150, 256, actor.sprite.texture.shape, np.uint8)
    background = scene._backdrop(0)
    noise = [np.clip(background + rng.normal(0, 2, background.shape), 0, 255).astype(np.uint8)
             for _ in range(empty)]
    return noise, list(scene), scene.boxes


def test_what_moves_is_found_and_nothing_else():
    empty, frames, boxes = still_scene()
    detect = MovingThings()
    assert sum(len(detect(frame)[0]) for frame in empty) == 0
    seen = 0
    for frame, truth in zip(frames, boxes):
        found, scores = detect(frame)
        assert len(found) == len(scores) <= 2 and ((0 < scores) & (scores <= 1)).all()
        overlap = iou(found[:, None], truth[None]).max(1, initial=0)
        assert (overlap > .3).all()             # where they look like what is behind, a part
        seen += (overlap > .6).sum()
    assert seen > .8 * 2 * len(frames)


def test_tracks_start_without_boxes():
    empty, frames, boxes = still_scene(5)
    tracker = MultiTracker(detect=MovingThings())
    tracker.init(empty[0])
    for frame in [*empty[1:], *frames]:
        states = tracker.update(frame)
    assert [number for number, _ in states] == [1, 2]
    overlap = iou(np.array([s.box for _, s in states])[:, None], boxes[-1][None])
    assert (overlap.max(1) > .6).all()


def test_a_change_of_the_whole_picture_is_no_thing():
    empty, _, _ = still_scene()
    detect = MovingThings()
    for frame in empty:
        detect(frame)
    assert len(detect(255 - empty[0])[0]) == 0
