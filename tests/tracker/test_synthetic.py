"""Rendered and real clips: boxes are where the target's pixels are, and a seed fixes everything."""

import numpy as np
import pytest

import kernels
from tracker import synthetic
from tracker.sequences import Sequence
from tracker.synthetic import SIDE, UNIT

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(5)
    return [synthetic.procedural_photo(rng) for _ in range(6)]


def pixel_box(bright):
    """x, y, w, h around the True pixels of a mask."""
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]])


def white_sprite(rng, color=255):
    sprite = synthetic.cut_out(rng, np.full((100, 100, 3), color, np.uint8))
    sprite.texture[...] = color
    return sprite


def test_outline_fills_the_unit_box():
    for seed in range(20):
        shape = synthetic.outline(np.random.default_rng(seed))
        np.testing.assert_allclose(shape.min(0), -.5, atol=1e-6)
        np.testing.assert_allclose(shape.max(0), .5, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_pixels_lie_in_the_exact_box(seed):
    rng = np.random.default_rng(seed)
    canvas = np.zeros((200, 200, 3), np.uint8)
    sprite = white_sprite(rng)
    pose = synthetic.pose_matrix(rng.uniform(80, 120, 2), rng.uniform(40, 90, 2), rng.uniform(0, 6))
    where, alpha = synthetic.draw(canvas, sprite, pose)
    box, found = synthetic.bounds(sprite, pose), pixel_box(canvas[:, :, 0] > 127)
    # the mask has 40 pixels for the sprite's whole size: one of them is 1 to 2 pixels here
    np.testing.assert_allclose(found[:2], box[:2], atol=1.5)
    np.testing.assert_allclose(found[:2] + found[2:], box[:2] + box[2:], atol=1.5)
    area = synthetic.area(sprite.shape) * abs(np.linalg.det(pose[:, :2]))
    assert abs(alpha.sum() / area - 1) < .04
    assert canvas[where].sum() == canvas.sum()          # nothing is drawn elsewhere


def test_a_sprite_outside_draws_nothing():
    canvas = np.zeros((50, 50, 3), np.uint8)
    sprite = white_sprite(np.random.default_rng(0))
    pose = synthetic.pose_matrix((200, 20), (30, 30), 0)
    assert synthetic.draw(canvas, sprite, pose) == (None, None)
    assert not canvas.any()


def test_half_outside_is_cut_at_the_border():
    canvas = np.zeros((60, 60, 3), np.uint8)
    sprite = white_sprite(np.random.default_rng(0))
    synthetic.draw(canvas, sprite, synthetic.pose_matrix((60, 30), (40, 40), 0))
    x, _, w, _ = pixel_box(canvas[:, :, 0] > 127)
    assert abs(x - 40) <= 2 and x + w == 60


def test_clip_boxes_and_visibility_agree_with_the_pixels(monkeypatch):
    """A white target among black ones on black: what is white is what can be seen of it."""
    black = [np.zeros((120, 120, 3), np.uint8)]
    real = synthetic.cut_out
    compared = covered = 0
    for seed in range(12):
        made = []

        def cut_out(rng, photo, made=made):
            sprite = real(rng, photo)
            sprite.texture[...] = 0 if made else 255        # the target is made first
            made.append(sprite)
            return sprite

        monkeypatch.setattr(synthetic, "cut_out", cut_out)
        clip = synthetic.render_clip(np.random.default_rng(seed), black, [0, 9, 10, 11, 12], 1.)
        for i in range(5):
            white = clip.frames[i, :, :, 0] > 50
            x, y, w, h = clip.boxes[i] - [*clip.origins[i], 0, 0]
            x0, y0, x1, y1 = int(x) - 3, int(y) - 3, int(x + w) + 4, int(y + h) + 4
            if clip.visible[i] > .99 and min(x0, y0) >= 0 and max(x1, y1) < SIDE:
                near = white[y0:y1, x0:x1]
                if near[0].any() or near[-1].any() or near[:, 0].any() or near[:, -1].any():
                    continue                # the target's double, white as well, touches it
                found = pixel_box(near) + [x0, y0, 0, 0]
                np.testing.assert_allclose(found, [x, y, w, h], atol=1.5)
                compared += 1
            covered += clip.visible[i] < .7
    assert compared >= 10 and covered >= 3


def test_same_seed_same_clip(photos):
    a, b, c = (synthetic.augment(rng, synthetic.render_clip(rng, photos, [0, 4, 5]))
               for rng in map(np.random.default_rng, (3, 3, 4)))
    assert np.array_equal(a.frames, b.frames) and np.array_equal(a.boxes, b.boxes)
    assert np.array_equal(a.origins, b.origins) and np.array_equal(a.visible, b.visible)
    assert not np.array_equal(a.frames, c.frames)


def test_first_frame_is_uncovered_and_target_near_the_middle(photos):
    for seed in range(10):
        clip = synthetic.render_clip(np.random.default_rng(seed), photos, [0, 20, 21], 1.)
        assert clip.visible[0] > .9
        middle = clip.boxes[:, :2] + clip.boxes[:, 2:] / 2 - clip.origins
        assert (np.abs(middle - SIDE / 2) < 20).all()
        assert (clip.boxes[:, 2:] > UNIT / 3).all() and (clip.boxes[:, 2:] < UNIT * 5).all()


def boxed_sequence(size=(300, 200), target=(40, 24), n=12, factor=1):
    """A gray video in which a white rectangle moves; some frames in the middle have no box."""
    frames, boxes = [], []
    for t in range(n):
        frame = np.full((size[1] * factor, size[0] * factor, 3), 60, np.uint8)
        x, y, w, h = np.array([100 + 3 * t, 80 + 2 * t, *target]) * factor
        frame[y:y + h, x:x + w] = 250
        frames.append(frame)
        boxes.append([x, y, w, h] if t not in (5, 6) else [np.nan] * 4)
    return Sequence("white", frames, np.array(boxes, float))


@pytest.mark.parametrize("factor", [1, 5])       # 5: shrunk before it is warped
@pytest.mark.parametrize("seed", range(6))
def test_real_clip_puts_the_box_where_the_target_is(seed, factor):
    rng = np.random.default_rng(seed)
    clip = synthetic.real_clip(rng, boxed_sequence(factor=factor), unroll=3)
    assert clip.frames.shape == (5, SIDE, SIDE, 3)
    if seed % 2:
        clip = synthetic.augment(rng, clip)
    for frame, box, origin, seen in zip(clip.frames, clip.boxes, clip.origins, clip.visible):
        if not seen:
            continue
        x, y, w, h = box - [*origin, 0, 0]
        low, high = float(frame[2, 2].mean()), float(frame[int(y + h / 2), int(x + w / 2)].mean())
        bright = cv2.GaussianBlur(frame, (0, 0), 1).mean(2) > (low + high) / 2
        np.testing.assert_allclose(pixel_box(bright), [x, y, w, h], atol=2)


def test_real_clip_of_a_short_sequence_stands_still():
    clip = synthetic.real_clip(np.random.default_rng(0), boxed_sequence(n=3), unroll=8)
    assert clip.frames.shape[0] == 10


def test_mirroring_keeps_motion_consistent():
    """Mirrored or not, a box moves in the plane as its pixels do (origins and boxes together)."""
    for seed in range(4):
        clip = synthetic.real_clip(np.random.default_rng(seed), boxed_sequence(n=5), unroll=2)
        before = clip.boxes.copy()
        clip = synthetic.augment(np.random.default_rng(seed), clip)
        step, old = np.diff(clip.boxes[:, 0]), np.diff(before[:, 0])
        width = np.diff(before[:, 2])
        assert np.allclose(step, old, atol=1e-3) or np.allclose(step, -old - width, atol=1e-3)


def test_cut_is_the_kernels_crop():
    frame = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    box = np.array([[10.3, 7.8, 50.5, 61.2]])
    ours = synthetic.cut(frame, box[0], 32)
    reference = kernels.crop(frame[None].astype("float32"), box, 32)[0]
    assert np.abs(ours - reference).max() < 6           # OpenCV weighs by 1/32 pixels
    assert np.abs(ours - reference).mean() < 1.5


def test_load_photos(tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), np.full((300, 400, 3), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((200, 300, 3), 200, np.uint8))
    (tmp_path / "SOURCES.txt").write_text("not a photo")
    photos = synthetic.load_photos(tmp_path)
    assert [p.shape for p in photos] == [(100, 150, 3), (150, 200, 3)]      # halved
    with pytest.raises(ValueError, match="no photo"):
        (tmp_path / "empty").mkdir()
        synthetic.load_photos(tmp_path / "empty")
