"""Rendered videos: what is said of every target is what its pixels show."""

import numpy as np
import pytest

from tracker.scenes import SEEN, fold, render
from tracker.video import FrameSource

pytest.importorskip("cv2")
BLACK = [np.zeros((300, 300, 3), np.uint8)]
STILL = {"speed": 0, "growth": 0, "turn": 0, "light": 0, "camera": 0, "noise": 0}


def pixel_box(bright):
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]])


def painted(scene, target):
    """The scene with that target white and everything else black."""
    for actor in scene.actors:
        actor.sprite.texture[...] = 0
    scene.actors[scene.targets[target]].sprite.texture[...] = 255
    return scene


@pytest.mark.parametrize("target", [0, 1])
def test_boxes_and_visibility_are_those_of_the_pixels(target):
    scene = painted(render(2, 60, (240, 200), 2, occluders=2, leaving=1, unit=40, light=0, noise=0,
                           turn=.05, photos=BLACK), target)
    whole = covered = gone = 0
    for t in range(60):
        white = scene[t][..., 0] > 127
        actor = scene.actors[scene.targets[target]]
        x, y = actor.sprite.shape.T
        outline = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 * actor.size[t].prod()
        assert abs(white.sum() / outline - scene.visible[t, target]) < .06
        inside = (scene.boxes[t, target, :2] > 0).all()
        if scene.visible[t, target] > .99 and inside:
            np.testing.assert_allclose(pixel_box(white), scene.boxes[t, target], atol=2)
            whole += 1
        covered += .05 < scene.visible[t, target] < .9
        gone += scene.visible[t, target] < .01
    assert whole > 10 and covered > 2
    assert (gone >= 10) == (target == 0), "the first target leaves, the second stays"


def test_who_leaves_comes_back_and_is_absent_meanwhile():
    scene = render(1, 90, targets=2, leaving=1)
    seen = scene.visible >= SEEN
    assert seen[[0, -1]].all() and seen[:, 1].all() and 10 <= (~seen[:, 0]).sum() <= 45
    sequence = scene.sequence(0)
    assert (sequence.present == seen[:, 0]).all() and sequence.frames is scene
    assert [list(ids) for ids, _ in scene.truth()] == [
        [0, 1] if here else [1] for here in seen[:, 0]]
    np.testing.assert_array_equal(scene.truth()[3][1], scene.boxes[3])


def test_same_arguments_same_pixels():
    a, b, c = (render(seed, 4, (160, 120), unit=30) for seed in (7, 7, 8))
    assert np.array_equal(a[3], b[3]) and np.array_equal(a.boxes, b.boxes)
    assert not np.array_equal(a[3], c[3])
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert all(np.array_equal(x, a[t]) for t, x in enumerate(b))
    assert np.array_equal(a[-1], a[3])
    with pytest.raises(IndexError):
        a[4]


def test_what_is_zero_is_not_there():
    scene = render(3, 5, (160, 120), 2, unit=30, **STILL)
    assert np.array_equal(scene[0], scene[4]) and (scene.boxes == scene.boxes[0]).all()


@pytest.mark.parametrize("change, differs", [
    ({"speed": .1}, "path"), ({"growth": .05}, "size"), ({"turn": .1}, "angle")])
def test_one_thing_changes_at_a_time(change, differs):
    actor = render(3, 9, (160, 120), unit=30, **{**STILL, **change}).actors[0]
    for name in ("path", "size", "angle"):
        values = getattr(actor, name)
        assert (np.abs(values[-1] - values[0]).max() > 0) == (name == differs), name


def test_light_blur_noise_and_camera_act_on_the_frame():
    plain = render(3, 9, (160, 120), unit=30, **STILL)
    box = plain.boxes[0, 0]
    for change in ({"light": .5}, {"blur": 2.}, {"noise": 9.}, {"camera": .2}):
        other = render(3, 9, (160, 120), unit=30, **{**STILL, **change})
        assert (other.boxes[8] == plain.boxes[8]).all()
        x, y, w, h = np.rint(box + [.2 * box[2], .2 * box[3], -.4 * box[2], -.4 * box[3]]).astype(int)
        inside = (plain[8][y:y + h, x:x + w] != other[8][y:y + h, x:x + w]).any()
        assert (plain[8] != other[8]).any() and inside == ("camera" not in change), change


def test_lookalikes_are_doubles_and_no_targets():
    scene = render(3, 5, targets=2, lookalikes=3)
    others = [a for i, a in enumerate(scene.actors) if i not in scene.targets]
    assert len(others) == 3 and scene.boxes.shape == (5, 2, 4)
    assert others[0].sprite is scene.actors[scene.targets[0]].sprite


def test_targets_stay_inside():
    scene = render(3, 200, (200, 160), 3, speed=.3, unit=30)
    middle = scene.boxes[..., :2] + scene.boxes[..., 2:] / 2
    assert (middle > 0).all() and (middle < (200, 160)).all()
    np.testing.assert_allclose(fold(np.array([-1., 0, 3, 11, 21]), 0, 10), [1, 0, 3, 9, 1])


def test_a_video_of_it(tmp_path):
    scene = render(3, 6, (161, 120), unit=30)
    scene.write(tmp_path / "a.webm", fps=10)
    with FrameSource(tmp_path / "a.webm") as source:
        frames = list(source)
    assert len(frames) == 6 and np.abs(frames[5][:, :161].astype(int) - scene[5]).mean() < 12


@pytest.mark.parametrize("change", [{"frames": 0}, {"targets": 0}, {"size": (60, 300)},
                                    {"leaving": 2, "frames": 90}, {"leaving": 1, "frames": 20},
                                    {"occluders": 1, "frames": 20}])
def test_what_makes_no_scene_is_named(change):
    with pytest.raises(ValueError, match="scene needs|need a scene"):
        render(1, **change)
