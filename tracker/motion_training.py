"""Training of the motion network: roll-outs of a tracker in, weights out.

    train_command(data, output, "correlation")      # what `python -m tracker train motion` runs

The tracker is run over the sequences of data/train, as they are and with blockers pasted in, forwards
and backwards, and over rendered scenes; what its motion network would have been told, and where the
target went, is a roll-out. The network is trained on pieces of these (tracker.motion).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

import minideep
from minideep import no_grad, ops, optimizers, tensor
from minideep.serialization import assign
from tracker.boxes import centre, iou
from tracker.motion import INPUTS, SURE, TRACKERS, MotionNetwork, pose, signals, weights_of
from tracker.rollouts import photographs, train_on_rollouts, ways
from tracker.training import check_data

FARTHEST = 1.5          # sizes of the target: further away is no further for the loss
WINDOW, BATCH = 48, 24  # frames, and windows, of a training step
RATE, CLIP = 4e-3, 1.   # Adam's learning rate at first, the largest gradient norm
SCENES, LENGTH = 60, 60     # rendered scenes, and frames of each
BLOCKED = 2             # times that each sequence is rolled out with blockers, and as often backwards


# ------------------------------------------------------------------------------- roll-outs


def roll_out(tracker, frames, boxes, sight):
    """What a tracker does on frames whose true boxes (n, 4) are known, from the first one on.

    sight (n,): the part of the target that is to be seen, nan where that is not known.
    -> {"x": (n - 1, INPUTS) signals, "shift": (n - 1, 2) from the box's centre to the true one of the
    next frame, in sizes, "growth": (n - 1,), "there": (n - 1,) 1 where the box is on the target, 0
    where it is on nothing of it; nan where that is not known}, of the frames 1 to n - 1."""
    frames = iter(frames)
    tracker.init(next(frames), boxes[0])
    last, lost, rows, said = pose(tracker), 0, [], []
    for frame in frames:
        tracker.update(frame)
        x, last, lost = signals(tracker, last, lost)
        rows.append(x)
        said.append(tracker.box)
    said = np.array(said)
    size = np.sqrt(said[:, 2:].prod(1))
    shift, growth = np.full((len(said), 2), np.nan), np.full(len(said), np.nan)
    shift[:-1] = (centre(boxes[2:]) - centre(said[:-1])) / size[:-1, None]
    growth[:-1] = np.log(np.sqrt(boxes[2:, 2:].prod(1)) / size[:-1])
    overlap, seen = np.nan_to_num(iou(said, boxes[1:])), sight[1:]
    away = np.isfinite(seen) & ((overlap < .05) | (seen < .1))
    there = np.where((overlap > .5) & (seen > .5), 1., np.where(away, 0., np.nan))
    return {"x": np.array(rows), "shift": shift, "growth": growth, "there": there}


def rendered(number, photos):
    """Scene `number`: frames (n, SIDE, SIDE, 3), boxes (n, 4) in them, how much is visible (n,)."""
    from tracker.synthetic import SIDE, Scene
    rng = np.random.default_rng([7, number])
    scene = Scene(rng, photos, range(LENGTH), .9)
    camera, looks = scene.path[0], []
    for t in range(LENGTH):                     # the camera follows the target, late
        camera = camera + .3 * (scene.path[t] - camera)
        looks.append(scene.look(t, np.round(camera - SIDE / 2), covered=t > 0))
    frames, boxes, seen = zip(*looks)
    return frames, np.array(boxes, float), np.array(seen, float)


def passes(data):
    """{name: function that gives frames, boxes, sight} of all that is rolled out over."""
    from tracker.occlusions import cases
    folders, found = check_data(data), {}
    for way, sequences in ways(folders["train"]):
        for number, (kind, sequence, _, sight) in enumerate(cases(sequences, BLOCKED)):
            if sequence.present[0]:
                found[f"{way}{kind}-{sequence.name}-{number}"] = (
                    lambda s=sequence, sight=sight: (s.frames, s.boxes, sight))
    photos = photographs(folders["photos"], every=10)
    found.update({f"scene-{n:02d}": lambda n=n: rendered(n, photos()) for n in range(SCENES)})
    return found


# ------------------------------------------------------------------------------- training


def batch_of(rng, rolls):
    """BATCH windows of roll-outs, mirrored and turned at random: x (N, T, INPUTS), shift (N, T, 2),
    growth (N, T), there (N, T); nan beyond the end."""
    x = np.zeros((BATCH, WINDOW, INPUTS), np.float32)
    shift = np.full((BATCH, WINDOW, 2), np.nan, np.float32)
    growth, there = (np.full((BATCH, WINDOW), np.nan, np.float32) for _ in range(2))
    lengths = np.array([len(r["x"]) for r in rolls], float)
    for i, number in enumerate(rng.choice(len(rolls), BATCH, p=lengths / lengths.sum())):
        roll = rolls[number]
        start = rng.integers(0, max(len(roll["x"]) - WINDOW // 2, 1))
        part = {key: value[start:start + WINDOW] for key, value in roll.items()}
        n, axes, signs = len(part["x"]), rng.permutation(2), rng.choice([-1, 1], 2)
        x[i, :n] = part["x"]
        x[i, :n, :2] = part["x"][:, axes] * signs
        shift[i, :n] = part["shift"][:, axes] * signs
        growth[i, :n], there[i, :n] = part["growth"], part["there"]
    return x, shift, growth, there


def motion_loss(network, x, shift, growth, there):
    """The mean over the frames that are known of: Laplace's negative log-likelihood of the
    displacement, 10·smooth L1 of the growth, the cross-entropy of "it is there"."""
    mean, scale, grown, visible, _ = network(tensor(x))
    known = np.isfinite(shift).all(-1)
    weight = tensor((known / max(known.sum(), 1)).astype("float32"))
    target = tensor(np.clip(np.nan_to_num(shift), -FARTHEST, FARTHEST).astype("float32"))
    likelihood = (ops.abs(target - mean) * ops.exp(-scale) + scale).sum(axis=-1)
    error = grown - tensor(np.clip(np.nan_to_num(growth), -.3, .3).astype("float32"))
    loss = ((likelihood + 10 * (ops.sqrt(error * error + 1e-4) - .01)) * weight).sum()
    told = np.isfinite(there)
    truth = np.nan_to_num(there).astype("float32")
    # log(1 + e^v) - truth·v, weighed so that both kinds count the same
    part = truth[told].mean() if told.any() else .5
    each = np.where(told, np.where(truth > .5, .5 / max(part, .05), .5 / max(1 - part, .05)), 0)
    entropy = ops.softplus(visible) - tensor(truth) * visible
    return loss + (entropy * tensor((each / max(told.sum(), 1)).astype("float32"))).sum()


def fit(rolls, seed=0, steps=800, report=None):
    """A MotionNetwork trained on roll-outs; its reach is what SURE of their frames on target need."""
    minideep.seed(seed)
    network, rolls = MotionNetwork(), [sensible(roll) for roll in rolls]
    optimizer = optimizers.Adam(optimizers.schedules.CosineDecay(RATE, steps, alpha=.02),
                                global_clipnorm=CLIP)
    for step in range(steps):
        batch = batch_of(np.random.default_rng([seed, step]), rolls)
        loss = motion_loss(network, *batch)
        loss.backward()
        optimizer.step([w for w in network.parameters() if w.requires_grad])
        if report:
            report(step + 1, loss.item())
    needed = np.concatenate([reaches(network, roll) for roll in rolls])
    assign({"reach": network.reach}, {"reach": np.array(np.quantile(needed, SURE), np.float32)})
    return network


def sensible(roll):
    """A roll-out without the displacements in frames in which the tracker follows something else
    and does not know it: nothing in the signals tells of the target there."""
    shift = roll["shift"].copy()
    shift[(roll["there"] == 0) & (roll["x"][:, 8] == 0)] = np.nan
    return {**roll, "shift": shift}


def reaches(network, roll):
    """How far, in scales of the network's Laplace, the truth was: the larger of both axes (m,).
    Of the frames in which the box is on the target."""
    with no_grad():
        mean, scale, *_ = network(tensor(roll["x"][None]))
    known = np.isfinite(roll["shift"]).all(1) & (roll["there"] == 1)
    far = np.abs(roll["shift"] - mean.numpy()[0]) / np.exp(scale.numpy()[0])
    return far[known].max(1)


def without_motion(tracker):
    """That of TRACKERS which predicts nothing yet. ValueError for another one."""
    if tracker == "correlation":
        from tracker.correlation import CorrelationTracker
        return CorrelationTracker.load(motion=None, refine=None)
    if tracker == "recurrent":
        from tracker.recurrent import RecurrentTracker
        return RecurrentTracker.load(motion=None)
    raise ValueError(f"a motion network is trained for {' or '.join(TRACKERS)}, not {tracker!r}")


def train_command(data, output, tracker="correlation", steps=800, seed=0, resume=False, json=None):
    """`python -m tracker train motion`: roll that of TRACKERS out, which takes minutes, then train,
    which takes less; writes TRACKER_motion.safetensors and its card TRACKER_motion.json into the
    folder `output`. What else a card says that is there already (results, weaknesses) stays, to be
    measured anew.

    Each roll-out is kept in output/TRACKER_rollouts; with resume those that are there are not made
    again, and the weights are the same to the bit as without an interruption."""
    follower = without_motion(tracker)
    return train_on_rollouts(
        data, Path(output) / weights_of(tracker).name, Path(output) / f"{tracker}_rollouts",
        passes(data), lambda *seen: roll_out(follower, *seen), fit, steps, seed, resume, json, {
            "about": "Weights of tracker.motion.MotionNetwork, trained from random numbers by minideep "
                     f"alone on what the {tracker} tracker did.",
            "command": f"python -m tracker train motion DATA --tracker {tracker} --steps {steps} "
                       f"--seed {seed}",
            "data": {"rendered scenes": SCENES}})
