"""What is drawn can be seen where it should be, and nowhere else."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tracker import State
from tracker.correlation import CorrelationTracker
from tracker.draw import (
    FOUND,
    LOST,
    PALETTE,
    TRAIL,
    ContactSheet,
    annotate,
    annotate_many,
    inside_width,
    legible_scale,
    show_inside,
    trail_of,
)

pytest.importorskip("cv2")
GREY = np.full((120, 160, 3), 128, np.uint8)


def state(box, confidence=0.5, lost=False):
    return State(tuple(map(float, box)), confidence, lost)


def near(image, colour):
    return (np.abs(image.astype(int) - colour) < 40).all(-1)


@pytest.mark.parametrize("scale", [1, 3, 0.5])
def test_the_box_is_drawn_at_its_place_on_a_copy(scale):
    frame = GREY.copy()
    image = annotate(frame, state((60, 50, 40, 30)), 7, scale=scale)
    assert (frame == 128).all()
    assert image.shape == (120 * scale, 160 * scale, 3) and image.dtype == np.uint8
    green = near(image, FOUND)
    edges = {"left": (60, 65), "right": (100, 65), "bottom": (80, 80), "top right": (99, 50)}
    for name, (x, y) in edges.items():
        x, y = round(x * scale), round(y * scale)
        assert green[max(y - 2, 0):y + 3, x - 2:x + 3].any(), name
    assert not green[round(66 * scale), round(80 * scale)]      # the inside is left as it was


def test_a_lost_target_is_red():
    image = annotate(GREY, state((60, 50, 40, 30), lost=True), 7)
    assert near(image, LOST).sum() > 100 and not near(image, FOUND).any()
    nowhere = annotate(GREY, state([np.nan] * 4, lost=True), 7)
    assert near(nowhere, LOST).sum() > 50


def test_while_it_is_lost_the_predicted_box_is_dashed():
    hidden = replace(state((5, 60, 10, 10), lost=True), predicted=(60, 50, 80, 60))
    row = annotate(GREY, hidden, 7)[50, 62:138]
    assert near(row, TRAIL).sum() > 20 and (row < 60).all(-1).sum() > 20
    for other in (replace(hidden, lost=False), replace(hidden, predicted=None)):
        assert not near(annotate(GREY, other, 7)[50, 62:138], TRAIL).any()


def test_the_true_box_is_dashed():
    image = annotate(GREY, state((5, 60, 10, 10)), 7, truth=(60, 50, 80, 60))
    row = image[50, 62:138].astype(int)
    assert (row > 200).all(-1).sum() > 20 and (row < 60).all(-1).sum() > 20
    same = annotate(GREY, state((5, 60, 10, 10)), 7, truth=[np.nan] * 4)
    assert (same == annotate(GREY, state((5, 60, 10, 10)), 7)).all()


def test_the_trail_joins_the_centres():
    states = [state((x, 90, 10, 10)) for x in range(10, 100, 10)]
    states.insert(4, state((0, 0, 10, 10), lost=True))
    trail = trail_of(states, length=5)
    assert trail == [(x + 5.0, 95.0) for x in (50, 60, 70, 80, 90)]
    image = annotate(GREY, state((140, 20, 10, 10)), 0, trail=trail)
    assert near(image, TRAIL)[94:97, 56:94].any(0).all()


@pytest.mark.parametrize("box", [(-50, -50, 20, 20), (1e9, -1e9, 1e9, 1e9), (150, 110, 100, 100)])
def test_boxes_outside_of_the_frame_do_no_harm(box):
    assert annotate(GREY, state(box), 123456).shape == GREY.shape


def test_frame_numbers_are_legible_and_differ():
    corner = [annotate(GREY, state((60, 50, 40, 30)), n)[:30, :50] for n in (3, 8)]
    assert (corner[0] != corner[1]).any()
    assert corner[0].max() > 240 and corner[0].min() < 60      # light ink on a dark plate


@pytest.mark.parametrize("size, scale", [((64, 48), 8), ((320, 240), 2), ((640, 480), 1),
                                         ((240, 320), 2), ((4000, 3000), 1), ((1, 1), 480)])
def test_small_frames_are_enlarged(size, scale):
    assert legible_scale(size) == scale


@pytest.mark.parametrize("frames, tiles", [(1, 1), (3, 3), (12, 12), (13, 12), (500, 12)])
def test_a_contact_sheet_spreads_over_the_video(frames, tiles):
    sheet = ContactSheet(tiles=12, columns=4, width=80)
    for i in range(frames):
        sheet.add(i, 160, partial(annotate, GREY, state((60, 50, 40, 30)), i))
    rows, columns = -(-tiles // 4), min(tiles, 4)
    assert sheet.image().shape == (rows * 64, columns * 84, 3)
    numbers = [number for number, _ in sheet._kept]
    assert numbers[0] == 0 and numbers[-1] > 0.9 * (frames - 1) - 1
    assert len(numbers) < 96        # memory is bounded however long the video


def test_an_empty_contact_sheet_is_an_error():
    with pytest.raises(ValueError, match="at least one frame"):
        ContactSheet().image()


def test_several_targets_have_colours_and_numbers_of_their_own():
    states = [(1, state((20, 50, 30, 30))), (2, state((100, 50, 30, 30))),
              (11, state((60, 90, 20, 20), lost=True))]
    image = annotate_many(GREY, states, 3, {1: [(10, 20), (60, 20)]})
    assert near(image[50:81, 18:24], PALETTE[0]).any() and near(image[50:81, 98:104], PALETTE[1]).any()
    assert not near(image[:, 90:], PALETTE[0]).any()
    assert near(image[88:112, 58:82], LOST).sum() > 20
    assert near(image[18:23, 20:55], PALETTE[0]).any()          # the trail


def test_inside_shows_crop_response_and_curves():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (120, 160, 3)).astype(np.uint8)
    tracker = CorrelationTracker()
    tracker.init(frame, (60, 40, 30, 30))
    states = [state((60, 40, 30, 30), 1)]
    plain = annotate(frame, states[0], 0, scale=3)
    before = show_inside(plain, tracker.found, states, [30])
    states += [tracker.update(frame) for _ in range(3)]
    image = show_inside(plain, tracker.found, states, [30] * 4)
    assert image.shape == before.shape == (360, 480 + inside_width(360), 3)
    assert (image[:, :480] == plain).all()
    side = inside_width(360) // 2
    assert image[40:side - 10, 490:470 + side].std() > 40       # noise, as the frame
    green = image[:side, -side:, 1]                             # viridis: the higher, the greener
    third = side // 3
    assert green[third:-third, third:-third].max() > 180 > 110 > green[-third:, -third:].mean()
    curves = image[side:, 480:]
    assert near(curves, FOUND).any() and not near(curves, LOST).any()
    three = show_inside(plain, tracker.found, states, [30] * 4, [1, 0, 0, 0])[side:, 480:]
    assert near(three[-len(three) // 3:], FOUND).any() and (three != curves).any()
    states[-1] = state((60, 40, 30, 30), 0, lost=True)
    assert near(show_inside(plain, tracker.found, states, [30] * 4)[side:, 480:], LOST).any()
