"""Training of the refinement network: boxes around targets in, and how far they are off, weights out.

    train_command(data, output)             # what `python -m tracker train refinement` runs

The correlation tracker is run over the sequences of data/train, forwards and backwards, and over
rendered scenes. From each frame in which it holds its target the network learns three times: from the
tracker's own box, and from two that are drawn around it and around the true one (tracker.refinement).
"""
from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

import minideep
from minideep import losses, optimizers, tensor
from minideep.serialization import assign
from tracker.boxes import centre, iou
from tracker.refinement import CUES, GRID, WEIGHTS, RefinementNetwork
from tracker.rollouts import photographs, train_on_rollouts, ways
from tracker.scenes import render
from tracker.training import check_data

BATCH, RATE, DECAY, DROPOUT = 64, 1e-3, 1e-2, .3
SCENES, LENGTH = 200, 60    # rendered scenes, and frames of each
LONGEST = 300               # frames of a real sequence, each way
HELD, SEEN = .25, .7        # IoU and visible part from which on a frame is learned from
MOVED, GROWN, STRETCHED = .1, .12, .06      # deviations of drawn boxes: sizes, logarithms
FARTHEST = .5               # what the network is asked to say at most
EDGE = .1                   # up to which an error counts by its square


# ------------------------------------------------------------------------------- roll-outs


def roll_out(tracker, name, frames, boxes, sight):
    """Run the tracker, from the first frame on, over frames whose true boxes (n, 4) are known.

    name: by which boxes are drawn; sight (n,): the part of the target that is to be seen.
    -> {"cues": (M, GRID, GRID, CUES) float16, "correction": (M, 4) from a box to the true one, as
    RefinementNetwork says it}."""
    rng, frames = np.random.default_rng(zlib.crc32(name.encode())), iter(frames)
    tracker.init(next(frames), boxes[0])
    cues, corrections = [np.empty((0, GRID, GRID, CUES))], [np.empty((0, 4))]
    for truth, seen, frame in zip(boxes[1:], sight[1:], frames):
        lost = tracker.update(frame).lost
        if lost or not seen >= SEEN or not iou(tracker.box, truth) >= HELD:
            continue
        for box in (tracker.box, drawn(rng, truth), drawn(rng, tracker.box)):
            cues.append(tracker.refinement.cues(tracker, tracker.found, box)[None])
            corrections.append(correction(box, truth)[None])
    return {"cues": np.concatenate(cues).astype(np.float16),
            "correction": np.concatenate(corrections).astype(np.float32)}


def drawn(rng, box):
    """A box like this one (4,)."""
    size = box[2:] * np.exp(rng.normal(0, GROWN) + rng.normal(0, STRETCHED) * np.array([1, -1]))
    return np.concatenate([centre(box) + rng.normal(0, MOVED, 2) * box[2:] - size / 2, size])


def correction(box, truth):
    """(4,) from a box to the true one: of the centre, in its sizes, and of the sizes' logarithms."""
    moved = (centre(truth) - centre(box)) / box[2:]
    return np.clip([*moved, *np.log(truth[2:] / box[2:])], -FARTHEST, FARTHEST)


def rendered(number, photos):
    """Scene `number`, with what may go on in it drawn by lot, as roll_out() takes it."""
    rng = np.random.default_rng([11, number])
    scene = render(int(rng.integers(2**31)), LENGTH, (360, 270), unit=rng.uniform(36, 72),
                   growth=rng.uniform(0, .02), turn=rng.uniform(0, .03), light=rng.uniform(0, .3),
                   blur=rng.choice([0, 0, .7, 1.2]), noise=rng.uniform(1, 6), occluders=1,
                   lookalikes=int(rng.integers(2)),
                   photos=[photos[k] for k in rng.choice(len(photos), 8)])
    return scene.name, scene, scene.boxes[:, 0], scene.visible[:, 0]


def passes(data):
    """{name: function that gives what roll_out() takes} of all that is rolled out over."""
    folders, found = check_data(data), {}
    for way, sequences in ways(folders["train"]):
        for s in sequences:
            if s.present[0]:
                found[f"real-{way}{s.name}"] = lambda s=s: (
                    s.name, s.frames, s.boxes[:LONGEST], s.present[:LONGEST].astype(float))
    photos = photographs(folders["photos"])
    found.update({f"scene-{n:03d}": lambda n=n: rendered(n, photos()) for n in range(SCENES)})
    return found


# ------------------------------------------------------------------------------- training


def batch_of(rng, rolls):
    """BATCH of the roll-outs' boxes, mirrored and turned by lot: cues (N, GRID, GRID, CUES), corrections
    (N, 4). Every roll-out is drawn as often as any other; of real and rendered ones, where there are
    both, half of each."""
    cues, corrections = [], []
    for number in range(BATCH):
        kind = rolls[number % len(rolls)]
        roll = kind[rng.integers(len(kind))]
        k = rng.integers(len(roll["cues"]))
        seen, told = roll["cues"][k], roll["correction"][k]
        if rng.random() < .5:
            seen, told = seen[:, ::-1], told * [-1, 1, 1, 1]
        if rng.random() < .3:
            seen, told = seen[::-1], told * [1, -1, 1, 1]
        if rng.random() < .3:
            seen, told = seen.swapaxes(0, 1), told[[1, 0, 3, 2]]
        cues.append(seen)
        corrections.append(told)
    return np.array(cues, np.float32), np.array(corrections, np.float32)


def fit(rolls, seed=0, steps=3000, report=None):
    """A RefinementNetwork trained on roll-outs, two lists of them: real ones, rendered ones."""
    minideep.seed(seed)
    rolls = [kind for kind in ([r for r in some if len(r["cues"])] for some in rolls) if kind]
    if not rolls:
        raise ValueError("no roll-out has a frame to learn from, in which the tracker holds its target: "
                         "give more data, or longer sequences")
    network = RefinementNetwork(DROPOUT)
    every = np.concatenate([r["cues"].astype(np.float32).mean((1, 2)) for kind in rolls for r in kind])
    spread = np.concatenate([r["cues"].astype(np.float32).reshape(-1, CUES)[::97]
                             for kind in rolls for r in kind])
    assign({"mean": network.mean, "deviation": network.deviation},
           {"mean": every.mean(0), "deviation": np.maximum(spread.std(0), 1e-3)})
    optimizer = optimizers.AdamW(optimizers.schedules.CosineDecay(RATE, steps), weight_decay=DECAY)
    loss_of = losses.SmoothL1(beta=EDGE)
    for step in range(steps):
        cues, corrections = batch_of(np.random.default_rng([seed, step]), rolls)
        loss = loss_of(corrections, network(tensor(cues), training=True))
        loss.backward()
        optimizer.step([w for w in network.parameters() if w.requires_grad])
        if report:
            report(step + 1, loss.item())
    return network


def train_command(data, output, steps=3000, seed=0, resume=False, json=None):
    """`python -m tracker train refinement`: roll the correlation tracker out, which takes minutes, then
    train, which takes less; writes refinement.safetensors and its card refinement.json into the folder
    `output`. See tracker.rollouts for `resume` and errors."""
    from tracker.correlation import CorrelationTracker
    follower = CorrelationTracker.load(motion=None, refine=RefinementNetwork())
    work = passes(data)
    real = sum(name.startswith("real-") for name in work)
    return train_on_rollouts(
        data, Path(output) / WEIGHTS.name, Path(output) / "refinement_rollouts", work,
        lambda *seen: roll_out(follower, *seen),
        lambda rolls, *rest: fit([rolls[:real], rolls[real:]], *rest), steps, seed, resume, json, {
            "about": "Weights of tracker.refinement.RefinementNetwork, trained from random numbers by "
                     "minideep alone on boxes around the correlation tracker's targets.",
            "command": f"python -m tracker train refinement DATA --steps {steps} --seed {seed}",
            "data": {"rendered scenes": SCENES}}, rows="boxes")
