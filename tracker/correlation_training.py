"""Training of the correlation tracker's features: pairs of crops in, weights out.

    train(data, output)         # what `python -m tracker train correlation` runs

A pair is a template crop with the target in its middle, and a search crop that shows the same target
somewhere else, changed. A correlation filter is fitted on the template's features, cut off around
the target, and run over the search crop's; it should answer with a hill at the target and with
nothing elsewhere (tracker.differentiable_filter). The error goes back through the filter and its fit
into the CNN, so that the CNN learns what such a filter can tell apart (Valmadre et al., CFNet, 2017);
HOG and Lab take part in the fit as in the tracker, so that it learns what they lack.
Half of the pairs are pieces of photographs, moved, turned, lit otherwise and pasted elsewhere; half
are two frames of a boxed sequence. Pair i of seed k is the same on every machine, and a run that was
interrupted goes on as if it had not been.
"""
from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import numpy as np

from minideep import ops, optimizers, tensor
from minideep.data import DataLoader
from minideep.serialization import load_arrays
from tracker import synthetic
from tracker.differentiable_filter import filter_response
from tracker.features import STRIDE, FeatureNetwork, hand_made
from tracker.files import write_json
from tracker.opencv import import_cv2
from tracker.sequences import IMAGE_TYPES, VIDEO_TYPES, VideoFrames
from tracker.training import check_data
from tracker.trainer import Trainer
from tracker.training_log import TrainingLog, curve

SIDE = 160              # pixels of a crop's side
REACH = 4.              # so many target sizes, √(width·height), are in it
CELLS = SIDE // STRIDE  # of the features' map, each way
UNIT = CELLS / REACH    # cells that a target size takes: 10
SIGMA = .12 * UNIT      # of the hill that the filter should answer with, in cells
GROWTH = .06            # deviation of the logarithm of the target's growth in the search crop
TOLERANCE = .12         # a target grown by the factor e^d is worth a hill of exp(-d²/2·TOLERANCE²)
SUPPORT = 1.2           # the filter is kept on so many times the target's width and height
TRAINED_WEIGHT = .1     # of the CNN's features beside HOG and Lab; the tracker's, LEARNED_WEIGHT, was
                        # chosen afterwards
PENALTY = 1e-3          # λ, in units of the mean of Σ|X|²
PAIRS = 16              # a step
RATE = 3e-3             # Adam's learning rate at its highest
WARM_UP = 30            # steps to get there
COOL_DOWN = .4          # the last part of the steps: down to zero along a line
CLIP = 1.               # the largest gradient norm
FOLDERS = "photos", "clips", "train"    # that training data may be in
TRIES = 1000            # to find a textured target
NEAR = .3               # an answer's peak within so many target sizes of the truth is a hit


# ------------------------------------------------------------------------------- pairs


class Pairs:
    """Pair i, out of the pictures and sequences in a folder, as a data set:

        template, search (SIDE, SIDE, 3) uint8 BGR; pose (4,) float32: the target's shift in the
        search crop, x and y (in target sizes, from the middle), the logarithm of its growth, and
        the logarithm of √(width / height).

    data/photos/*.jpg and single frames of the videos data/clips/*: what pairs are rendered from;
    data/train/NAME/...: sequences as tracker.sequences reads them. The pairs `first` to `end`; they
    depend on the seed and their number alone.
    Raises FileNotFoundError where none of the folders is there, ValueError where nothing is in them."""

    def __init__(self, data, seed, first, end):
        folders = check_data(data, FOLDERS)
        self.seed, self.first, self.end = seed, first, end
        sequences = synthetic.load_sequences(folders["train"]) if folders["train"] else []
        self.sequences = [s for s in sequences if len(large_enough(s.boxes)) > 1]
        self.pictures = load_pictures(Path(data))
        if not self.sequences and not self.pictures:
            raise ValueError(f"nothing to make pairs from in {data}: no picture or video of 64 pixels "
                             "or more that can be read, no sequence with two boxes of 4 pixels or more")

    def __len__(self):
        return self.end - self.first

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.first + index])
        if self.sequences and (not self.pictures or rng.random() < .5):
            return real_pair(rng, self.sequences[rng.integers(len(self.sequences))])
        return rendered_pair(rng, self.pictures)


def load_pictures(data, every=25, most=12, longest=480):
    """The photographs in data/photos, and of each video in data/clips every 25th frame, 12 at most,
    made smaller where it is larger than 480 pixels: a list of BGR arrays."""
    cv2 = import_cv2()
    photos, clips = (sorted(folder.iterdir()) if folder.is_dir() else []
                     for folder in (data / "photos", data / "clips"))
    pictures = [cv2.imread(str(p)) for p in photos if p.suffix.lower() in IMAGE_TYPES]
    for path in clips:
        if path.suffix.lower() in VIDEO_TYPES:
            for frame in islice(VideoFrames(path), 0, every * most, every):
                scale = min(1., longest / max(frame.shape[:2]))
                pictures.append(cv2.resize(frame, None, fx=scale, fy=scale,
                                           interpolation=cv2.INTER_AREA))
    return [p for p in pictures if p is not None and min(p.shape[:2]) >= 64]


def large_enough(boxes, least=4):
    """The numbers of the boxes that are there and at least 4 pixels wide and high."""
    return np.flatnonzero(np.nan_to_num(boxes[:, 2:]).min(1) >= least)


def real_pair(rng, sequence):
    """Two frames of a boxed sequence, up to 100 apart; the crops are mirrored half of the time."""
    boxes = sequence.boxes
    usable = large_enough(boxes)
    first = rng.integers(len(usable))
    gap = int(min(100, 1 + abs(rng.normal(0, 30)))) * (1 if rng.random() < .5 else -1)
    second = np.clip(first + gap, 0, len(usable) - 1)
    if second == first:
        second = np.clip(first - gap, 0, len(usable) - 1)
    first, second = usable[first], usable[second]
    sizes = np.sqrt(boxes[[first, second], 2] * boxes[[first, second], 3])
    middles = boxes[[first, second], :2] + boxes[[first, second], 2:] / 2
    growth, shift = rng.normal(0, GROWTH), draw_shift(rng)
    per_pixel = REACH * sizes[1] * math.exp(-growth) / SIDE
    template = cut(sequence.frames[first], middles[0], np.eye(2) * REACH * sizes[0] / SIDE)
    search = cut(sequence.frames[second], middles[1] - shift * SIDE / REACH * per_pixel,
                 np.eye(2) * per_pixel)
    if rng.random() < .5:
        template, search, shift = template[:, ::-1], search[:, ::-1], shift * [-1, 1]
    if rng.random() < .25:
        search = relit(rng, search)
    _, _, w, h = boxes[first]
    return template, search, np.array([*shift, growth, .5 * math.log(w / h)], np.float32)


def rendered_pair(rng, pictures):
    """A piece of a photograph as the target, and the same moved, turned, stretched and lit
    otherwise: in its own surroundings, or (40 %) pasted before others; 15 % partly covered."""
    picture, middle, (w, h) = draw_target(rng, pictures)
    size = math.sqrt(w * h)
    template = cut(picture, middle, np.eye(2) * REACH * size / SIDE)
    angle, stretch = rng.normal(0, .12), math.exp(rng.normal(0, .06))
    growth, shift = rng.normal(0, GROWTH), draw_shift(rng)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    to_picture = turn * [stretch, 1 / stretch] * (REACH * size * math.exp(-growth) / SIDE)
    if rng.random() < .03:
        to_picture = to_picture * [-1, 1]
    place = shift * SIDE / REACH                    # of the target, in pixels from the crop's middle
    search = cut(picture, middle - to_picture @ place, to_picture)
    if rng.random() < .4:
        behind = picture if rng.random() < .4 else pick(rng, pictures)
        search = paste(rng, search, behind, to_picture, place, (w, h), REACH * size / SIDE)
    if rng.random() < .15:
        cover(rng, search, pick(rng, pictures), place)
    if rng.random() < .3:
        template = relit(rng, template)
    pose = np.array([*shift, growth, .5 * math.log(w / h)], np.float32)
    return template, relit(rng, search), pose


def pick(rng, pictures):
    return pictures[rng.integers(len(pictures))]


def draw_shift(rng):
    """Where the target is in the search crop (2,), in target sizes: half of the time near."""
    most = REACH / 2 - .8
    return rng.normal(0, .25, 2) if rng.random() < .5 else rng.uniform(-most, most, 2)


def draw_target(rng, pictures):
    """(picture, middle (2,), size (2,)): the more textured of two boxes in a picture.

    ValueError where there is no texture in many of them."""
    for _ in range(TRIES):
        picture = pick(rng, pictures)
        height, width = picture.shape[:2]
        best = 12., None                            # of contrast: plain pieces are no targets
        for _ in range(2):
            size = math.exp(rng.uniform(math.log(20), math.log(max(28, .4 * min(height, width)))))
            aspect = math.exp(rng.uniform(-.5, .5))
            w, h = size * aspect, size / aspect
            if w < .9 * width and h < .9 * height:
                x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
                piece = picture[int(y):int(y + h) + 1:2, int(x):int(x + w) + 1:2]
                contrast = piece.reshape(-1, 3).std(0).mean()
                if contrast > best[0]:
                    best = contrast, (picture, np.array([x + w / 2, y + h / 2]), (w, h))
        if best[1] is not None:
            return best[1]
    raise ValueError(f"no target can be cut from the {len(pictures)} pictures: they are plain wherever "
                     f"was looked ({TRIES} places); training wants photographs, of things")


def cut(picture, middle, to_picture):
    """A crop (SIDE, SIDE, 3): the pixel at offset o from its middle shows the picture at
    middle + to_picture @ o. Beyond the picture its border is repeated.

    Coordinates are of pixel edges: pixel (i, j) covers [i, i + 1) x [j, j + 1). Where the crop has
    half as many pixels as the region or fewer, the picture is averaged in blocks first."""
    cv2 = import_cv2()
    factor = int(math.sqrt(abs(np.linalg.det(to_picture))))
    if factor >= 2:
        reach = np.abs(to_picture).sum(1) * SIDE / 2 + factor       # of the crop, from the middle
        limit = np.array(picture.shape[1::-1])
        low = np.clip(middle - reach, 0, limit - factor).astype(int)
        high = np.clip(middle + reach, low + factor, limit).astype(int)
        w, h = (high - low) // factor
        picture = cv2.resize(picture[low[1]:low[1] + h * factor, low[0]:low[0] + w * factor],
                             (int(w), int(h)), interpolation=cv2.INTER_AREA)
        middle, to_picture = (middle - low) / factor, to_picture / factor
    corner = middle + to_picture @ np.full(2, .5 - SIDE / 2) - .5
    return cv2.warpAffine(picture, np.column_stack([to_picture, corner]), (SIDE, SIDE),
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)


def paste(rng, search, behind, to_picture, place, size, scale):
    """The target out of `search`, a soft ellipse or nearly a box, before another picture."""
    angle = rng.uniform(-.3, .3)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    where = rng.uniform(0, 1, 2) * behind.shape[1::-1]
    background = cut(behind, where, turn * rng.uniform(.6, 2) * scale)
    offset = np.arange(SIDE, dtype=np.float32) + np.float32(.5 - SIDE / 2)
    x, y = offset - np.float32(place[0]), offset[:, None] - np.float32(place[1])
    half = np.array(size) * (1.05 / 2)
    a, b = (to_picture / half[:, None]).astype(np.float32)
    u, v = np.abs(a[0] * x + a[1] * y), np.abs(b[0] * x + b[1] * y)     # (SIDE, SIDE): 1 at the edge
    for _ in range(rng.integers(1, 4)):             # u² + v², u⁴ + v⁴ or u⁸ + v⁸
        u, v = u * u, v * v
    mask = np.clip((1 - (u + v)) * np.float32(rng.uniform(1.5, 5)) + .5, 0, 1)
    return (background + mask[..., None] * (search.astype(np.float32) - background)).astype(np.uint8)


def cover(rng, search, picture, place):
    """Put a rectangle of another picture on a side of the target, in place."""
    unit = SIDE / REACH
    w, h = (unit * rng.uniform(.3, .8) * rng.uniform(.7, 1.3, 2)).astype(int) + 4
    side = rng.choice([-1, 1]) * rng.uniform(.3, .6), rng.uniform(-.5, .5)
    x, y = (SIDE / 2 + place + np.multiply(side, unit) - [w / 2, h / 2]).astype(int)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, SIDE), min(y + h, SIDE)
    if x1 > x0 and y1 > y0 and picture.shape[0] > h and picture.shape[1] > w:
        px, py = (rng.integers(0, s) for s in (picture.shape[1] - w, picture.shape[0] - h))
        search[y0:y1, x0:x1] = picture[py:py + y1 - y0, px:px + x1 - x0]


def relit(rng, crop):
    """The crop in other light and colours, out of focus, moved, coarse, noisy: each sometimes."""
    cv2 = import_cv2()
    gain, shift = np.ones(3), 0.
    if rng.random() < .6:
        gain, shift = gain * math.exp(rng.normal(0, .2)), rng.normal(0, 15)
    if rng.random() < .3:
        gain = gain * np.exp(rng.normal(0, .08, 3))
    table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)[None]
    crop = cv2.LUT(np.ascontiguousarray(crop), table)
    if rng.random() < .15:
        gray = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        amount = rng.uniform(0, 1.3)
        crop = cv2.addWeighted(crop, amount, gray, 1 - amount, 0)
    kind = rng.random()
    if kind < .15:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(.5, 1.8))
    elif kind < .3:
        length = int(rng.integers(3, 10))
        streak = np.zeros((length, length), np.float32)
        ends = rng.integers(0, length, 2).tolist()
        cv2.line(streak, (0, ends[0]), (length - 1, ends[1]), 1.)
        streak = streak.T if rng.random() < .5 else streak
        crop = cv2.filter2D(crop, -1, np.ascontiguousarray(streak / streak.sum()))
    elif kind < .45:
        small = int(SIDE * rng.uniform(.3, .8))
        crop = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if rng.random() < .3:                           # grain of deviation 1 to 8
        grain = rng.integers(0, 256, crop.shape, dtype=np.uint8)
        amount = rng.uniform(1, 8) / 73.9           # 73.9: the deviation of such bytes
        crop = cv2.addWeighted(crop, 1, grain, amount, -127.5 * amount)
    return crop


# ------------------------------------------------------------------------------- the loss


def hill(shift, sigma=SIGMA):
    """Gaussians (N, CELLS, CELLS) around cells `shift` (N, 2), x and y, counted round the edges."""
    cells = np.arange(CELLS) - CELLS // 2
    near = np.exp(-.5 * ((cells - shift[:, :, None]) / sigma) ** 2)     # (N, 2, CELLS)
    hills = near[:, 1, :, None] * near[:, 0, None, :]
    return np.roll(hills, (-(CELLS // 2),) * 2, (1, 2)).astype(np.float32)


def support(aspect, slope=4.):
    """What of the filter is kept (N, CELLS, CELLS): the target's box times SUPPORT, with soft
    edges; aspect (N,): log √(width / height). A filter over a template whose target is in the
    middle has its weights around the middle's negative."""
    cells = np.arange(CELLS)
    distance = np.abs((cells + (CELLS - 1) / 2 + CELLS / 2) % CELLS - CELLS / 2)
    half = SUPPORT * UNIT / 2 * np.exp(np.stack([aspect, -aspect], 1))[:, :, None]  # (N, 2, 1)
    inside = 1 / (1 + np.exp(np.clip(slope * (distance - half), -50, 50)))          # (N, 2, CELLS)
    return (inside[:, 1, :, None] * inside[:, 0, None, :]).astype(np.float32)


def window():
    """Hann's window (CELLS, CELLS, 1), without its zeros."""
    fade = np.hanning(CELLS + 2)[1:-1]
    return np.outer(fade, fade).astype(np.float32)[..., None]


def pair_loss(network, gain, templates, searches, poses, hand=True):
    """The loss of some pairs (see Pairs), a scalar Tensor, and {name: number} to print. hand: do HOG
    and Lab take part in the fit?

    The mean over the pairs of Σ(gain·r - hill)² / πσ², which is 1 for an answer of zeros."""
    n = len(templates)
    crops = np.concatenate([templates, searches]).astype(np.float32)
    features = network(tensor(crops))                                   # (2N, CELLS, CELLS, C)
    if hand:
        features = ops.concatenate([TRAINED_WEIGHT * features, *map(tensor, hand_made(crops))], axis=-1)
    features = features * tensor(window())
    template, search = features[:n], features[n:]
    penalty = PENALTY * np.square(template.numpy()).sum((1, 2, 3))      # = the mean of Σ|X|²
    answer = gain * filter_response(template, search, tensor(hill(np.zeros((1, 2)))[0]),
                                    tensor(penalty), support(poses[:, 3]))
    shift, growth = poses[:, :2] * UNIT, poses[:, 2]
    worth = np.exp(-.5 * (growth / TOLERANCE) ** 2).astype(np.float32)
    wanted = hill(shift) * worth[:, None, None]
    error = answer - tensor(wanted)
    loss = (error * error).sum() * (1 / (n * math.pi * SIGMA ** 2))
    best = answer.numpy().reshape(n, -1).argmax(1)
    found = np.stack([best % CELLS, best // CELLS], 1)                  # (N, 2): x, y
    found = (found + CELLS // 2) % CELLS - CELLS // 2
    hits = np.hypot(*(found - shift).T) < NEAR * UNIT
    return loss, {"loss": loss.item(), "hits": float(hits.mean())}


# ------------------------------------------------------------------------------- the loop


def learning_rate(step, steps):
    """Up, along, and down. Until the way down begins it does not depend on the number of steps, so a
    longer training begins as a shorter one does (Hägele et al. 2024)."""
    return RATE * min(1., (step + 1) / WARM_UP, (1 - step / steps) / COOL_DOWN)


class FeatureTrainer(Trainer):
    """Of tracker.features.FeatureNetwork. hand: as pair_loss has it."""

    FILE, OPTIONS = "correlation.safetensors", ("hand",)

    def __init__(self, seed, steps, hand=True):
        super().__init__(seed, steps)
        self.hand = hand
        self.network = FeatureNetwork()
        self.gain = tensor(np.array(1.5, np.float32), requires_grad=True)
        self.optimizer = optimizers.Adam(lambda step: learning_rate(step, steps),
                                         global_clipnorm=CLIP)

    @property
    def weights(self):
        return {**self.network.named_weights(), "gain": self.gain}

    def step_on(self, batch):
        """One step; returns what pair_loss has to say."""
        loss, figures = pair_loss(self.network, self.gain, *batch, hand=self.hand)
        loss.backward()
        self.optimizer.step(list(self.weights.values()))
        self.step += 1
        return figures


def train(data, output, steps=6000, seed=0, resume=False, save_every=120, report=None):
    """Train from scratch, or go on from output/checkpoint.safetensors -> its Trainer.

    data: a folder with photos/, clips/ and train/ (see Pairs). A checkpoint is written every
    `save_every` seconds and at the end, so that an interruption costs no more than that.
    report(trainer, figures) is called after each step.
    Raises FileNotFoundError for missing data or, with resume, a missing checkpoint."""
    check_data(data, FOLDERS)
    trainer = FeatureTrainer.begin(output, resume, seed, steps)
    pairs = Pairs(data, trainer.seed, trainer.step * PAIRS, trainer.steps * PAIRS)
    return trainer.run(DataLoader(pairs, PAIRS, prefetch=4), output, save_every, report)


def sources(data):
    """What the training data are, as their own notes say: {"photos": {name: how many, and from
    where}, "clips": the same, "sequences": {data set: how many, and under which licence}}.

    Read from photos/SOURCES.txt and clips/SOURCES.txt (lines "name: origin; licence", of the files
    name.* and name_*) and train/NAME/SOURCE.txt (lines "dataset: ...", "repository licence: ...")."""
    data, found = Path(data), {"photos": {}, "clips": {}}
    for folder, named in found.items():
        note = data / folder / "SOURCES.txt"
        lines = note.read_text(encoding="utf-8").splitlines() if note.is_file() else []
        for name, _, origin in (line.partition(": ") for line in lines):
            count = sum(p.stem == name or p.stem.rpartition("_")[0] == name
                        for p in (data / folder).iterdir())
            if origin and count:
                named[name] = {"files": count, "source": origin}
    sets = {}
    for note in sorted(data.glob("train/*/SOURCE.txt")):
        lines = note.read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        name = fields.get("dataset", note.parent.name)
        licence = fields.get("repository licence", "no licence in the source")
        sets.setdefault(name, {"sequences": 0, "licence": licence})["sequences"] += 1
    return {**found, "sequences": sets}


def model_card(data, output):
    """What is to be known about the weights that a finished training left in `output`; results and
    weaknesses are for whoever measures them."""
    arrays, about = load_arrays(Path(output) / "correlation.safetensors")
    checkpoint = load_arrays(Path(output) / "checkpoint.safetensors")[1]
    return {
        "about": "Weights of tracker.features.FeatureNetwork, trained from random numbers by "
                 "minideep alone, end to end through a correlation filter.",
        "weights": int(sum(a.size for a in arrays.values())),
        "command": f"python -m tracker train correlation DATA --steps {about['step']} "
                   f"--seed {checkpoint['seed']}",
        "steps": about["step"], "seed": checkpoint["seed"], "pairs": about["step"] * PAIRS,
        "data": sources(data),
        "curve": curve(output, ("loss", "hits"))}


def train_command(data, output, steps=6000, seed=0, resume=False, json=None):
    """`python -m tracker train correlation`: `train` with a progress bar, a log in output/log.csv
    and, when all is done, a model card in output/correlation.json."""
    output = Path(output)
    with TrainingLog(output) as log:
        trainer = train(data, output, steps, seed, resume, report=log)
    write_json(output / "correlation.json", model_card(data, output))
    return log.result(trainer, output / "correlation.safetensors", json)
