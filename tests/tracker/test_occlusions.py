"""Lost and found: blockers really hide the target, events are counted as the rules say, and the
tracker says that its target is lost and finds it again."""

from dataclasses import replace

import numpy as np
import pytest

from tracker import occlusions, synthetic
from tracker.boxes import iou
from tracker.correlation import CorrelationTracker
from tracker.evaluate import Track
from tracker.occlusions import Score, block, covered, in_sight, real_events
from tracker.sequences import Sequence

cv2 = pytest.importorskip("cv2")
BACKGROUND = synthetic.procedural_photo(np.random.default_rng(3), 400)[:300]
PIECE = cv2.resize(synthetic.procedural_photo(np.random.default_rng(8), 100), (44, 36))


def moving(n, step=(1., .5), start=(60., 70.)):
    """A textured box over a textured background as a Sequence."""
    frames, boxes = [], []
    for t in range(n):
        x, y = int(start[0] + step[0] * t), int(start[1] + step[1] * t)
        frame = BACKGROUND.copy()
        frame[y:y + 36, x:x + 44] = PIECE
        frames.append(frame)
        boxes.append((x, y, 44, 36))
    return Sequence("moving", frames, np.array(boxes, float))


def test_blockers_hide_the_target_in_their_events_and_nowhere_else():
    sequence = moving(120)
    blocked, events, sight = block(sequence, seed=1)
    assert events and (blocked.boxes == sequence.boxes).all() and len(blocked) == 120
    inside = np.zeros(120, bool)
    near = np.zeros(120, bool)
    for first, back in events:
        assert occlusions.SHORTEST - 5 < back - first <= occlusions.LONGEST
        inside[first:back] = True
        near[first - occlusions.SLIDE:back + occlusions.SLIDE] = True
    for i, frame in enumerate(blocked.frames):
        x, y, w, h = (int(v) for v in sequence.boxes[i])
        same = (frame[y:y + h, x:x + w] == PIECE).all(-1).mean()    # of the target's pixels
        assert same < .05 if inside[i] else True
        assert abs(same - sight[i]) < .12, (i, same, sight[i])
        if not near[i]:
            assert (frame == sequence.frames[i]).all() and sight[i] == 1
    assert sight[inside].max() == 0
    again = block(sequence, seed=1)
    assert again[1] == events and (again[0].frames[events[0][0]] == blocked.frames[events[0][0]]).all()
    assert block(sequence, seed=2)[1] != events


def test_there_is_no_event_where_the_target_is_absent_or_fills_the_frame():
    sequence = moving(60)
    boxes = sequence.boxes.copy()
    boxes[20:55] = np.nan
    assert block(Sequence("gone", sequence.frames, boxes))[1] == []
    boxes[:] = (10, 10, 380, 280)
    assert block(Sequence("large", sequence.frames, boxes))[1] == []


def test_the_covered_part():
    assert covered(np.array([0, 0, 10, 10.]), np.array([5, 5, 10, 10.])) == .25
    assert covered(np.array([0, 0, 10, 10.]), np.array([20, 5, 10, 10.])) == 0


def test_real_events():
    boxes = np.tile([5., 5., 9., 9.], (40, 1))
    boxes[[3, 4]] = np.nan              # too short
    boxes[10:16] = np.nan
    boxes[35:] = np.nan                 # does not come back
    frames = [BACKGROUND] * 40
    assert real_events(Sequence("a", frames, boxes)) == [(10, 16), (35, 40)]
    whole = np.tile([5., 5., 9., 9.], (90, 1))
    assert real_events(Sequence("Jogging-1", [BACKGROUND] * 90, whole)) == [(70, 77)]
    assert real_events(Sequence("Jogging-1", frames, whole[:40])) == []


def judged(lost, good, events, n=100, noted=1):
    """The Score of a track that is on the target in the frames `good` and lost in those `lost`;
    noted: every how many-th frame."""
    truth = np.tile([50., 50., 20., 20.], (n, 1))
    boxes = np.tile([200., 50., 20., 20.], (n, 1))
    boxes[good] = truth[good]
    said = np.zeros(n, bool)
    said[lost] = True
    sight = np.ones(n)
    for first, back in events:
        sight[first:back] = 0
    sight[np.arange(n) % noted > 0] = np.nan
    track = Track(0, boxes, np.ones(n), np.ones(n), (400, 300), said)
    return Score.of(track, Sequence("s", [None] * n, truth), events, sight)


def test_scores():
    every = np.arange(100)
    on = (every < 40) | (every > 62)
    perfect = judged(slice(41, 62), on, [(40, 60)])
    assert perfect.said == [1] and perfect.found == [3] and perfect.alarms == 0
    assert perfect.frames == 99 and perfect.auc > .9
    late = judged(slice(51, 62), on, [(40, 60)])
    assert np.isnan(late.said[0])
    never = judged(slice(41, 100), every < 40, [(40, 60)])
    assert never.said == [1] and np.isnan(never.found[0]) and never.alarms == 0
    drifted = judged(slice(41, 62), every < 20, [(40, 60)])
    assert drifted.unheld == 1 and drifted.said == [] and drifted.found == []
    short = judged([], every != 64, [(40, 60)])     # on it for 4 frames only at first
    assert short.found == [5]
    silly = judged(slice(10, 20), every > -1, [(40, 60)])
    assert silly.alarms == 10 and np.isnan(silly.said[0])
    right = judged(slice(11, 20), every < 10, [])   # it had really lost it
    assert right.alarms == 0
    into = judged(slice(35, 60), every > -1, [(40, 60)])
    assert into.alarms == 5 and into.said == [0]


def test_frames_that_nobody_noted_are_not_judged():
    every = np.arange(100)
    silly = judged(slice(10, 21), every > -1, [(40, 60)], noted=2)
    assert silly.alarms == 6 and silly.frames == 49
    assert silly.found == [] and len(silly.said) == 1   # "for 5 frames in a row" cannot be seen
    sequence = moving(30)
    sequence = replace(sequence, noted=np.arange(30) % 10 == 0,
                       boxes=np.where(np.arange(30)[:, None] % 20 == 0, sequence.boxes, np.nan))
    sight = in_sight(sequence)
    assert sight[[0, 10, 20]].tolist() == [1, 0, 1] and np.isnan(sight).sum() == 27


def test_the_tracker_says_lost_and_finds_again():
    """Behind a blocker, with a target that meanwhile moves on."""
    sequence = moving(75)
    frames = [frame.copy() for frame in sequence.frames]
    for t in range(30, 45):
        frames[t][40:200, 60:190] = (90, 120, 100)
    tracker, states = CorrelationTracker(gate=True, redetect=True), []
    tracker.init(frames[0], sequence.boxes[0])
    for frame in frames[1:]:
        states.append(tracker.update(frame))
    lost = np.array([False, *(s.lost for s in states)])
    overlap = iou(np.array([sequence.boxes[0], *(s.box for s in states)]), sequence.boxes)
    assert not lost[:30].any() and lost[30:40].any()
    assert not lost[50:].any() and overlap[50:].min() > .5
