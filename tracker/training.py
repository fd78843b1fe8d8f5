"""Training of the recurrent tracker's network: clips in, weights out.

    train(data, output)         # what `python -m tracker train recurrent` runs

Half of the clips are rendered from photographs, half are cut from boxed sequences. The network is
unrolled over a clip as it will run on a video, first over 2 frames, then 4, 8 and 16; more and more
often the box that it said itself decides where it looks next, so that it learns to recover from its
own errors (Gordon et al., Re3, 2018). Step s of seed k sees the same clips and makes the same
random choices on every machine, and a run that was interrupted goes on as if it had not been.
"""
from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minideep import losses, optimizers, tensor
from tracker import synthetic
from tracker.opencv import import_cv2
from tracker.recurrent import (CROP, MARGIN, PLACES, REACH, SCALES, Network, around, normalise,
                               template_regions, to_boxes)
from tracker.synthetic import SIDE, UNIT
from tracker.trainer import Trainer
from tracker.training_log import TrainingLog

STAGES = ((.5, 2, 32), (.2, 4, 16), (.2, 8, 10), (.1, 16, 6))   # part of the steps, frames, clips
RATE = 1.5e-3           # Adam's learning rate at its highest; half a cosine down to 2 % of it
WARM_UP = 200           # steps to get there
CLIP = 5.               # the largest gradient norm
EMA = .998              # the weights that are kept are a running mean over some 500 steps
FEEDBACK = .8           # how many of the clips follow the network's own boxes, in the second half
WRONG = .1              # how many clips are shown with the template of another clip
GONE = .05              # how many of the frames are replaced by another clip's: the target is gone


# ------------------------------------------------------------------------------- clips


@dataclass
class Batch:
    """N clips of T = 2 + unroll frames: template, start, and the frames to find the target in."""
    frames: np.ndarray      # (N, T, SIDE, SIDE, 3) uint8
    origins: np.ndarray     # (N, T, 2): each frame's corner in its clip's plane
    boxes: np.ndarray       # (N, T, 4) in that plane
    visible: np.ndarray     # (N, T)


class Source:
    """Clips out of the photos and the sequences in a folder.

    data/photos/*.jpg: what scenes are rendered from; without it, pictures of noise and shapes.
    data/train/NAME/...: sequences as tracker.sequences reads them; without it, all is rendered.
    Raises FileNotFoundError where there is neither."""

    def __init__(self, data):
        folders = check_data(data)
        self.sequences = synthetic.load_sequences(folders["train"]) if folders["train"] else []
        if folders["photos"]:
            self.photos = synthetic.load_photos(folders["photos"])
        else:
            rng = np.random.default_rng(0)
            self.photos = [synthetic.procedural_photo(rng) for _ in range(200)]

    def batch(self, seed, step, unroll, count):
        """The clips of that step; always the same for the same numbers."""
        t = unroll + 2
        batch = Batch(np.empty((count, t, SIDE, SIDE, 3), np.uint8),
                      np.empty((count, t, 2), np.float32), np.empty((count, t, 4), np.float32),
                      np.empty((count, t), np.float32))
        for i in range(count):
            rng = np.random.default_rng([seed, step, i])
            if self.sequences and rng.random() < .5:
                sequence = self.sequences[rng.integers(len(self.sequences))]
                clip = synthetic.real_clip(rng, sequence, unroll)
            else:
                start = int(rng.integers(0, 25))
                times = [0, *range(start, start + unroll + 1)]
                clip = synthetic.render_clip(rng, self.photos, times)
            clip = synthetic.augment(rng, clip)
            batch.frames[i], batch.origins[i] = clip.frames, clip.origins
            batch.boxes[i], batch.visible[i] = clip.boxes, clip.visible
        return batch


CONTENTS = {"photos": "JPEG or PNG pictures to render from", "clips": "videos",
            "train": "folders with groundtruth_rect.txt and img/"}


def check_data(data, names=("photos", "train")):
    """{name: folder or None} of the folders that data may be in; FileNotFoundError if none is there."""
    data = Path(data)
    folders = {name: data / name if (data / name).is_dir() else None for name in names}
    if not any(folders.values()):
        expected = " or ".join(f"{data / name} ({CONTENTS[name]})" for name in names)
        raise FileNotFoundError(f"no training data in {data}: expected {expected}, or several of them")
    return folders


_source = None      # of a worker process


def _start_worker(data):
    global _source
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C is the parent's to handle
    import_cv2().setNumThreads(1)
    try:
        _source = Source(data)
    except (OSError, ValueError) as error:      # told with the first batch: here it would be lost
        _source = error


def _make_batch(*numbers):
    if isinstance(_source, Exception):
        raise _source
    return _source.batch(*numbers)


class Loader:
    """Batches of coming steps, made by other processes while this one trains."""

    def __init__(self, data, seed, steps, workers=1, ahead=4):
        context = multiprocessing.get_context("spawn")  # fork would copy locked threads and CUDA
        self.pool = ProcessPoolExecutor(workers, context, _start_worker, (str(data),))
        self.seed, self.steps, self.ahead, self.waiting = seed, steps, ahead, {}

    def __getitem__(self, step):
        for s in range(step, min(step + self.ahead, self.steps)):
            if s not in self.waiting:
                self.waiting[s] = self.pool.submit(_make_batch, self.seed, s,
                                                   *stage(s, self.steps)[:2])
        return self.waiting.pop(step).result()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=True)


def stage(step, steps):
    """(frames, clips, part of clips that follow the network's own boxes) at this step."""
    done = step / steps
    end = 0.
    for part, unroll, count in STAGES:
        end += part
        if done < end:
            break
    return unroll, count, FEEDBACK * min(1., 2 * done)


# ------------------------------------------------------------------------------- the loss


def unrolled_loss(network, batch, rng, feedback):
    """The mean loss over a batch's clips and frames, a scalar Tensor, and {name: number} to print.

    Where the target is visible: L1 of ten times the corners, 1 - generalised IoU, and the
    cross-entropy of the place; everywhere the cross-entropy of presence. So that presence means
    this target, not any, some clips see another clip's template, some frames another's frame."""
    n, t = batch.visible.shape
    neighbour, itself = np.roll(np.arange(n), 1), np.arange(n)
    wrong = rng.random(n) < WRONG
    looked = batch.boxes[:, 0] + rng.normal(0, .02, (n, 4)) * UNIT
    template = network.template([cut(batch, 0, region) for region in template_regions(looked)])
    shown = tensor(np.where(wrong, neighbour, itself))
    template = [scale[shown] for scale in template]
    shift = rng.choice([.02, .07, .2], (n, 1))      # how wrong the last boxes are
    stretch = rng.choice([.03, .1, .2], (n, 1))
    box = shaken(rng, batch.boxes[:, 1], shift, stretch)
    own = (rng.random(n) < feedback) & ~wrong
    state, total, overlaps, right = network.start(n), 0., [], []
    for k in range(2, t):
        truth = batch.boxes[:, k].astype(np.float64)
        region = around(in_sight(box, truth))
        gone = rng.random(n) < GONE
        now = cut(batch, k, region)[tensor(np.where(gone, neighbour, itself))]
        crops = template, cut(batch, k - 1, region), now
        corners, presence, places, state = network(crops, state)

        offset, size = region[:, :2], region[:, 2:]
        target = np.concatenate([truth[:, :2] - offset, truth[:, :2] + truth[:, 2:] - offset], 1)
        target = (target / np.tile(size, 2)).astype(np.float32)             # (N, 4) in 0..1
        seen = (batch.visible[:, k] > .3) & ~gone & ~wrong
        weight = tensor(seen.astype(np.float32))
        giou = losses.giou_loss(tensor(target), corners / 10)
        loss = losses.mean_absolute_error(tensor(10 * target), corners) + giou
        place, reachable = place_target(target)
        loss = loss - .3 * (tensor(place) * places).sum(axis=(1, 2)) * tensor(reachable)
        known = losses.binary_crossentropy(weight, presence, from_logits=True)
        total = total + ((loss * weight).mean() + .3 * known) / (t - 2)

        said = to_boxes(corners.detach().numpy(), region)
        overlaps.append(_iou(said, truth)[seen])
        right.append((presence.detach().numpy() > 0) == seen)
        box = np.where((own & ~gone)[:, None], limited(said, truth),
                       shaken(rng, truth, shift / 2, stretch))
    overlaps = np.concatenate(overlaps)         # empty where no clip shows its target
    return total, {"loss": total.item(), "iou": float(overlaps.mean()) if overlaps.size else 0.,
                   "presence": float(np.mean(right))}


def cut(batch, k, regions):
    """The regions (N, 4), in the clips' planes, of the clips' frames k, as the network wants."""
    regions = regions.copy()
    regions[:, :2] -= batch.origins[:, k]
    crops = np.empty((len(regions), CROP, CROP, 3), np.uint8)
    for crop, frame, region in zip(crops, batch.frames[:, k], regions):
        synthetic.cut(frame, region, CROP, crop)
    return tensor(normalise(crops))


def shaken(rng, boxes, shift, stretch):
    """Boxes as a tracker may have left them: moved, enlarged and shrunk at random.

    shift, stretch (N, 1): how much, in sizes of the box and in their logarithm. Laplace noise,
    after GOTURN's motion model, but with sizes up to .6 off: with less the network copies them."""
    n = len(boxes)
    stretched = rng.laplace(0, 1, (n, 1)) + .7 * rng.laplace(0, 1, (n, 2))
    size = boxes[:, 2:] * np.exp(np.clip(stretch * stretched, -.6, .6))
    middle = boxes[:, :2] + boxes[:, 2:] / 2 + rng.laplace(0, shift, (n, 2)) * boxes[:, 2:]
    return np.concatenate([middle - size / 2, size], 1)


def in_sight(boxes, truth, limit=.85):
    """Boxes moved towards the truth until the target's centre can be found from there."""
    middle = truth[:, :2] + truth[:, 2:] / 2
    shift = boxes[:, :2] + boxes[:, 2:] / 2 - middle
    reach = limit * boxes[:, 2:]
    return np.concatenate([middle + np.clip(shift, -reach, reach) - boxes[:, 2:] / 2, boxes[:, 2:]],
                          1)


def limited(boxes, truth):
    """Boxes whose size is kept between half and twice the true one."""
    size = np.clip(boxes[:, 2:], truth[:, 2:] / 2, truth[:, 2:] * 2)
    return np.concatenate([boxes[:, :2] + (boxes[:, 2:] - size) / 2, size], 1)


def place_target(corners, width=.7, tolerance=.13):
    """What `places` should say for true corners (N, 4) in 0..1: a hill (N, PLACES², len(SCALES))
    around the shift, of `width` cells, and the size, of `tolerance` in its logarithm; and (N,) 1.0
    where the shift is within reach."""
    shift = ((corners[:, :2] + corners[:, 2:]) / 2 - .5) * MARGIN           # (N, 2) in sizes
    size = np.log((corners[:, 2:] - corners[:, :2]) * MARGIN).mean(1)       # (N,)
    steps = np.linspace(-REACH, REACH, PLACES)
    cell = steps[1] - steps[0]
    near = np.exp(-.5 * ((steps - shift[:, :, None]) / (width * cell)) ** 2) + 1e-9
    place = (near[:, 1, :, None] * near[:, 0, None, :]).reshape(len(shift), -1, 1)
    place = place * (np.exp(-.5 * ((np.log(SCALES) - size[:, None]) / tolerance) ** 2)
                     + 1e-9)[:, None]
    reachable = (np.abs(shift) < REACH + cell / 2).all(1)
    return ((place / place.sum((1, 2), keepdims=True)).astype(np.float32),
            reachable.astype(np.float32))


def _iou(a, b):
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    both = np.maximum(high - low, 0).prod(1)
    return both / (np.maximum(a[:, 2:], 0).prod(1) + b[:, 2:].prod(1) - both + 1e-9)


# ------------------------------------------------------------------------------- the loop


class RecurrentTrainer(Trainer):
    """Of tracker.recurrent.Network."""

    FILE = "recurrent.safetensors"

    def __init__(self, seed, steps):
        super().__init__(seed, steps)
        self.network = Network().build_now()
        rate = optimizers.schedules.CosineDecay(
            0., max(steps - WARM_UP, 1), alpha=.02, warmup_target=RATE, warmup_steps=WARM_UP)
        self.optimizer = optimizers.Adam(rate, global_clipnorm=CLIP, use_ema=True, ema_momentum=EMA)

    def step_on(self, batch):
        """One step; returns what unrolled_loss has to say."""
        rng = np.random.default_rng([self.seed, self.step])
        loss, figures = unrolled_loss(self.network, batch, rng, stage(self.step, self.steps)[2])
        loss.backward()
        # a young mean must not remember the random weights that training started from
        self.optimizer.ema_momentum = min(EMA, (1 + self.step) / (10 + self.step))
        self.optimizer.step(self.network.parameters())
        self.step += 1
        return figures

    def product(self):
        """The averaged weights, to track with."""
        with self.optimizer.averaged():
            return {name: weight.data.copy() for name, weight in self.weights.items()}


def train(data, output, steps=4000, seed=0, resume=False, workers=1,
          save_every=120, report=None):
    """Train from scratch, or go on from output/checkpoint.safetensors -> its Trainer.

    data: a folder with photos/ and train/ (see Source). A checkpoint is written every `save_every`
    seconds and at the end, so that an interruption costs no more than that. report(trainer,
    figures) is called after each step.
    Raises FileNotFoundError for missing data or, with resume, a missing checkpoint."""
    check_data(data)
    trainer = RecurrentTrainer.begin(output, resume, seed, steps)
    with Loader(data, trainer.seed, trainer.steps, workers) as batches:
        rest = (batches[step] for step in range(trainer.step, trainer.steps))
        return trainer.run(rest, output, save_every, report)


def train_command(data, output, steps=4000, seed=0, resume=False, workers=1,
                  json=None):
    """`python -m tracker train recurrent`: `train` with a progress bar, and a log in output/log.csv."""
    with TrainingLog(output) as log:
        trainer = train(data, output, steps, seed, resume, workers, report=lambda trainer, figures: (
            log(trainer, {"frames": stage(trainer.step - 1, trainer.steps)[0], **figures})))
    return log.result(trainer, Path(output) / "recurrent.safetensors", json)
