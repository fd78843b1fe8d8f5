"""Training of the detector of the demo's objects: crops with drawn or found boxes in, weights out.

    train(data, output)         # what `python -m tracker train detector` runs

Nobody drew boxes to train on, beside those of the bundled clip of the cup. The pedestrians are
found: before a camera that stands still, a pixel's median over time is the background, what differs
from it is somebody, and by where the feet are one can tell how tall one person is; what is of
another size (a group, half of someone) is neither a person nor none. All are cut out along their
outlines too, and pasted before photographs and other frames, which makes groups with exact boxes.
Crop i of seed k is the same on every machine, and a run that was interrupted goes on as if it had
not been.
"""
from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minideep import ops, optimizers, tensor
from minideep.data import DataLoader
from minideep.serialization import load_arrays
from tracker import synthetic
from tracker.boxes import centre
from tracker.correlation_training import SIDE, relit, sources
from tracker.demo import CLIPS, read_notes
from tracker.files import write_json
from tracker.object_detector import CLASSES, GRAY, STRIDE, UNIT, ObjectNetwork
from tracker.opencv import import_cv2
from tracker.sequences import VideoFrames
from tracker.trainer import Trainer
from tracker.training_log import TrainingLog, curve

WALKERS = "opencv_vtest.avi"    # in DATA/clips: OpenCV's sample video
WALKERS_END, WALKERS_EVERY = 465, 3     # frames of it; the bundled clip is its frames 515 to 704
CUP_END = 125           # frames of the bundled clip of the cup; those after are to judge by
RIM = 40                # pixels around the cup's box that show what is behind it
DIFFERENT = 28          # levels from the background, of somebody
CELLS = SIDE // STRIDE  # of a crop, each way
SIZES = 26, 80          # pixels: an object's larger side, where the network is to find it
DOUBTFUL = 18, 115      # beyond SIZES up to here: whether it finds it or not is all the same
CENTRE = .1             # deviation of the hill around a centre, in sizes of the object
CROPS = 12              # a step
RATE = 2e-3             # Adam's learning rate at its highest
WARM_UP = 100           # steps to get there
CLIP = 5.               # the largest gradient norm
PERSON, CUP = range(len(CLASSES))


# ------------------------------------------------------------------------------- what is to find


class Picture(NamedTuple):
    """A frame, its boxes (B, 4), the objects' classes (B,), and regions (R, 4) of which nobody
    knows what they show."""
    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    unknown: np.ndarray


class Sprite(NamedTuple):
    """An object cut out: class, picture (h, w, 3), opacity (h, w) of 0 to 1."""
    kind: int
    image: np.ndarray
    mask: np.ndarray


def find_walkers(frames):
    """Pictures and Sprites of people in frames before a camera that stands still."""
    cv2 = import_cv2()
    background = np.median(np.stack(frames[::3]), 0).astype(np.uint8)
    regions, outlines = [], []          # frame's number, x, y, w, h, pixels; (h, w) bool
    for number, frame in enumerate(frames):
        change = cv2.GaussianBlur(cv2.absdiff(frame, background), (0, 0), 1).max(2)
        mask = (change > DIFFERENT).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 1), np.uint8))   # belts, necks
        mask = cv2.erode(mask, np.ones((3, 3), np.uint8))       # which the blur had made wider
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        for k, (x, y, w, h, pixels) in enumerate(stats):
            if k > 0 and pixels >= 40:          # 0 is the background
                regions.append((number, x, y, w, h, pixels))
                outlines.append(labels[y:y + h, x:x + w] == k)
    regions = np.array(regions, float).reshape(-1, 6)
    alone = one_person(regions[:, 1:5], regions[:, 5])
    pictures, sprites = [], []
    for number, frame in enumerate(frames):
        here = regions[:, 0] == number
        boxes = regions[here & alone, 1:5]
        pictures.append(Picture(frame, boxes, np.full(len(boxes), PERSON),
                                regions[here & ~alone, 1:5]))
        for k in np.flatnonzero(here & alone):
            x, y, w, h = regions[k, 1:5].astype(int)
            mask = cv2.GaussianBlur(outlines[k].astype(np.float32), (0, 0), .8)
            sprites.append(Sprite(PERSON, frame[y:y + h, x:x + w], mask))
    return pictures, sprites


def one_person(boxes, pixels):
    """Which regions (B, 4) of so many pixels (B,) are one whole person: upright, solid, and as tall
    as others whose feet are there. A straight line says how tall, fitted to those that fit it."""
    x, y, w, h = boxes.T
    upright = (h > 1.6 * w) & (h < 4.5 * w) & (pixels > .35 * w * h) & (h > 24)
    fits, feet = upright, y + h
    for _ in range(5 if upright.sum() > 10 else 0):
        tall = np.polyval(np.polyfit(feet[fits], h[fits], 1), feet)
        fits = upright & (np.abs(h - tall) < .2 * tall)
    return fits


def find_cups(frames, notes):
    """Pictures and Sprites of the frames of which the cup's box (4,) is noted."""
    cv2 = import_cv2()
    pictures, sprites = [], []
    for frame, box in zip(frames, notes):
        if np.isfinite(box).all():
            pictures.append(Picture(frame, box[None], np.array([CUP]), np.empty((0, 4))))
            x, y, w, h = box.astype(int)
            around = frame[max(y - RIM, 0):y + h + RIM, max(x - RIM, 0):x + w + RIM]
            inside = min(x, RIM), min(y, RIM), w, h
            mask = np.zeros(around.shape[:2], np.uint8)
            cv2.setRNGSeed(0)           # its first guess is random
            cv2.grabCut(around, mask, inside, None, None, 2, cv2.GC_INIT_WITH_RECT)
            x, y = inside[:2]
            mask = (mask[y:y + h, x:x + w] % 2).astype(np.float32)  # 1, 3: (probably) in front
            sprites.append(Sprite(CUP, around[y:y + h, x:x + w], cv2.GaussianBlur(mask, (0, 0), 1)))
    return pictures, sprites


# ------------------------------------------------------------------------------- crops


class Crops:
    """Crop i, out of the pictures and videos in a folder, as a data set:

        crop (SIDE, SIDE, 3) uint8 BGR, and the targets that `draw_targets` makes.

    data/photos/*.jpg: what has none of the objects (or few: nobody looked); data/clips/WALKERS; and
    the bundled clip of the cup. The crops `first` to `end`; they depend on the seed and their
    number alone. Raises FileNotFoundError where photos or video are missing."""

    def __init__(self, data, seed, first, end):
        photos, video = check_data(data)
        self.seed, self.first, self.end = seed, first, end
        self.photos = synthetic.load_photos(photos)
        self.walkers, people = find_walkers(
            list(islice(VideoFrames(video), 0, WALKERS_END, WALKERS_EVERY)))
        cups = list(islice(VideoFrames(CLIPS / "cup.webm"), CUP_END))
        self.cups, cups = find_cups(cups, read_notes(CLIPS / "cup.boxes.txt", 200))
        self.sprites = people, cups

    def __len__(self):
        return self.end - self.first

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.first + index])
        kind, pasted = rng.random(), 0
        if kind < .45:
            crop, boxes, classes, unknown = cut_picture(rng, pick(rng, self.walkers))
            pasted = rng.integers(1, 3) if rng.random() < .4 else 0
        elif kind < .65:
            crop, boxes, classes, unknown = cut_picture(rng, pick(rng, self.cups))
        else:
            photo = pick(rng, self.photos)
            scale = SIDE / min(photo.shape[:2]) * math.exp(rng.uniform(-.2, .8))
            middle = rng.uniform(.25, .75, 2) * photo.shape[1::-1]
            crop, boxes, classes, unknown = cut(
                Picture(photo, np.empty((0, 4)), np.empty(0, int), np.empty((0, 4))), middle, scale)
            pasted = rng.integers(1, 5) if rng.random() < .65 else 0
        for _ in range(pasted):
            sprite = pick(rng, self.sprites[rng.random() < .3])
            box = paste(rng, crop, sprite)
            hidden = covered(boxes, box) > .4
            unknown = np.concatenate([unknown, boxes[hidden]])
            boxes = np.concatenate([boxes[~hidden], box[None]])
            classes = np.append(classes[~hidden], sprite.kind)
        if rng.random() < .5:
            crop = crop[:, ::-1]
            for some in (boxes, unknown):
                some[:, 0] = SIDE - some[:, 0] - some[:, 2]
        return relit(rng, crop), *draw_targets(boxes, classes, unknown)


def check_data(data):
    """The folder of photos and the video of walkers in a folder; FileNotFoundError without."""
    photos, video = Path(data) / "photos", Path(data) / "clips" / WALKERS
    for path, what in ((photos, "pictures without the objects"),
                       (video, "OpenCV's sample video vtest.avi, of which the bundled "
                               "clip of pedestrians is a piece")):
        if not path.exists():
            raise FileNotFoundError(f"no training data in {data}: expected {path}, {what}")
    return photos, video


def pick(rng, things):
    return things[rng.integers(len(things))]


def cut_picture(rng, picture):
    """A crop of it around one of its objects, at a size at which that is to be found; sometimes
    around anything."""
    height, width = picture.image.shape[:2]
    if len(picture.boxes) and rng.random() < .7:
        box = pick(rng, picture.boxes)
        size = math.exp(rng.uniform(*np.log(SIZES)))
        scale = size / box[2:].max()
        middle = centre(box) + rng.uniform(-.4, .4, 2) * SIDE / scale
    else:
        scale = math.exp(rng.uniform(math.log(.2), math.log(1.2)))
        middle = rng.uniform(0, 1, 2) * (width, height)
    return cut(picture, middle, scale)


def cut(picture, middle, scale):
    """The SIDE x SIDE pixels around a place of a picture enlarged by `scale`, gray beyond its
    border; and the boxes, classes and unknown regions in that crop's pixels."""
    cv2 = import_cv2()
    corner = np.floor(middle * scale - SIDE / 2) / scale
    low = np.clip(np.floor(corner).astype(int) - 2, 0, None)
    high = np.ceil(corner + SIDE / scale).astype(int) + 2
    part = picture.image[low[1]:max(high[1], 0), low[0]:max(high[0], 0)]
    crop = np.full((SIDE, SIDE, 3), int(GRAY), np.uint8)
    if part.size:
        if scale < .5:              # averaged first: linear interpolation would leave pixels out
            factor = int(1 / scale)
            size = (part.shape[1] // factor, part.shape[0] // factor)
            part = cv2.resize(part[:size[1] * factor, :size[0] * factor], size,
                              interpolation=cv2.INTER_AREA)
        else:
            factor = 1
        s = scale * factor
        shift = (low - corner) * scale + .5 * s - .5
        crop = cv2.warpAffine(part, np.array([[s, 0, shift[0]], [0, s, shift[1]]]), (SIDE, SIDE),
                              dst=crop, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)

    def moved(boxes):
        return (boxes - [*corner, 0, 0]) * scale

    return crop, moved(picture.boxes), picture.classes, moved(picture.unknown)


def paste(rng, crop, sprite):
    """Put an object into a crop, in place, somewhere, turned, in other light -> its box (4,)."""
    cv2 = import_cv2()
    h, w = sprite.mask.shape
    scale = min(math.exp(rng.uniform(*np.log(SIZES))) / max(h, w), 1.5)
    factor = max(int(1 / scale), 1)
    small = (max(w // factor, 1), max(h // factor, 1))
    image = cv2.resize(sprite.image, small, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(sprite.mask, small, interpolation=cv2.INTER_AREA)
    angle = rng.normal(0, .04 if sprite.kind == PERSON else .3)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turn = turn * scale * np.array([w, h]) / small
    if rng.random() < .5:
        turn[:, 0] = -turn[:, 0]
    place = rng.uniform(0, SIDE, 2)
    matrix = np.column_stack([turn, place - turn @ (np.array(small) / 2)])
    mask = cv2.warpAffine(mask, matrix, (SIDE, SIDE))
    image = cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    gain, shift = np.exp(rng.normal(0, [.15] + [.04] * 3)), rng.normal(0, 10)
    image = np.clip(image * (gain[0] * gain[1:]) + shift, 0, 255)
    crop[:] = (crop + mask[..., None] * (image - crop)).astype(np.uint8)
    y, x = np.nonzero(sprite.mask > .5)
    outline = np.stack([x, y]) + .5 - [[w / 2], [h / 2]]
    outline = (turn * small / np.array([w, h])) @ outline + place[:, None]      # (2, pixels)
    low, high = outline.min(1) - scale / 2, outline.max(1) + scale / 2
    return np.concatenate([low, high - low])


def covered(boxes, by):
    """The part of each box (B, 4) that another covers (B,)."""
    low, high = np.maximum(boxes[:, :2], by[:2]), np.minimum(boxes[:, :2] + boxes[:, 2:],
                                                              by[:2] + by[2:])
    return np.maximum(high - low, 0).prod(1) / boxes[:, 2:].prod(1)


def draw_targets(boxes, classes, unknown):
    """What the network should say of a crop with these boxes (B, 4) in pixels:

        hills (CELLS, CELLS, classes): 1 where a centre is, less around it;
        weight (CELLS, CELLS, 1): 0 where all answers are the same;
        places (CELLS, CELLS, 4): the box, as the network tells it, and
        near (CELLS, CELLS, 1): 1 where it is to be told. All float32."""
    hills = np.zeros((CELLS, CELLS, len(CLASSES)), np.float32)
    weight = np.ones((CELLS, CELLS, 1), np.float32)
    places, near = np.zeros((CELLS, CELLS, 4), np.float32), np.zeros((CELLS, CELLS, 1), np.float32)
    cells = (np.arange(CELLS) + .5) * STRIDE
    large = boxes[:, 2:].max(1, initial=0)
    middling = (large >= SIZES[0] * .95) & (large <= SIZES[1] * 1.05)
    doubtful = ~middling & (large >= DOUBTFUL[0]) & (large <= DOUBTFUL[1])
    for x, y, w, h in np.concatenate([unknown, boxes[doubtful]]):
        inside = ((cells[:, None] > y) & (cells[:, None] < y + h) & (cells > x) & (cells < x + w))
        weight[inside] = 0
    for (x, y, w, h), c in zip(boxes[middling], classes[middling]):
        across, down = cells - (x + w / 2), cells - (y + h / 2)
        hill = np.exp(-.5 * (across / max(CENTRE * w, 3)) ** 2
                      - .5 * (down / max(CENTRE * h, 3))[:, None] ** 2)
        i, j = int((y + h / 2) // STRIDE), int((x + w / 2) // STRIDE)
        if 0 <= i < CELLS and 0 <= j < CELLS:
            hill[i, j] = 1
            weight[i, j] = 1
        closest = (hill > .4) & (hill >= hills.max(2))
        places[closest] = np.stack(np.broadcast_arrays(
            -across / STRIDE, -down[:, None] / STRIDE, math.log(w / UNIT), math.log(h / UNIT)),
            -1)[closest]
        near[closest] = 1
        hills[..., c] = np.maximum(hills[..., c], hill)
    return hills, weight, places, near


# ------------------------------------------------------------------------------- the loss


def detection_loss(answer, hills, weight, places, near):
    """The loss of an answer (N, h, w, 2 + 4) given its targets, see draw_targets; a scalar Tensor
    and {name: number} to print.

    The focal loss with hills (Law and Deng, CornerNet, 2018), over the number of centres,
        -(1 - p)² log p at centres, -(1 - hill)⁴ p² log(1 - p) elsewhere,
    and the mean L1 of the boxes."""
    logits, box = answer[..., :len(CLASSES)], answer[..., len(CLASSES):]
    there = (hills == 1).astype(np.float32) * weight
    elsewhere = (1 - hills) ** 4 * weight * (hills < 1)
    p = ops.sigmoid(logits)
    focal = (tensor(there) * ops.square(1 - p) * ops.softplus(-logits)
             + tensor(elsewhere) * ops.square(p) * ops.softplus(logits)).sum()
    error = (ops.abs(box - tensor(places)) * tensor(near)).sum()
    focal, error = focal / max(there.sum(), 1), error / max(4 * near.sum(), 1)
    return focal + 2 * error, {"focal": focal.item(), "box": error.item()}


# ------------------------------------------------------------------------------- the loop


class DetectorTrainer(Trainer):
    """Of tracker.object_detector.ObjectNetwork."""

    FILE = "object_detector.safetensors"

    def __init__(self, seed, steps):
        super().__init__(seed, steps)
        self.network = ObjectNetwork()
        rate = optimizers.schedules.CosineDecay(
            0., max(steps - WARM_UP, 1), alpha=.01, warmup_target=RATE, warmup_steps=WARM_UP)
        self.optimizer = optimizers.Adam(rate, global_clipnorm=CLIP)

    def step_on(self, batch):
        """One step; returns what detection_loss has to say."""
        crops, *targets = batch
        loss, figures = detection_loss(self.network(tensor(crops.astype(np.float32))), *targets)
        loss.backward()
        self.optimizer.step(self.network.parameters())
        self.step += 1
        return figures


def train(data, output, steps=3000, seed=0, resume=False, save_every=120, report=None):
    """Train from scratch, or go on from output/checkpoint.safetensors -> its Trainer.

    data: a folder with photos/ and clips/, see Crops. A checkpoint is written every `save_every`
    seconds and at the end, so that an interruption costs no more than that. report(trainer,
    figures) is called after each step.
    Raises FileNotFoundError for missing data or, with resume, a missing checkpoint."""
    check_data(data)
    trainer = DetectorTrainer.begin(output, resume, seed, steps)
    crops = Crops(data, trainer.seed, trainer.step * CROPS, trainer.steps * CROPS)
    return trainer.run(DataLoader(crops, CROPS, prefetch=4), output, save_every, report)


def model_card(data, output):
    """What is to be known about the weights that a finished training left in `output`; results and
    weaknesses are for whoever measures them."""
    arrays, about = load_arrays(Path(output) / "object_detector.safetensors")
    checkpoint = load_arrays(Path(output) / "checkpoint.safetensors")[1]
    return {
        "about": "Weights of tracker.object_detector.ObjectNetwork, trained from random numbers by "
                 "minideep alone.",
        "classes": CLASSES,
        "weights": int(sum(a.size for a in arrays.values())),
        "command": f"python -m tracker train detector DATA --steps {about['step']} "
                   f"--seed {checkpoint['seed']}",
        "steps": about["step"], "seed": checkpoint["seed"], "crops": about["step"] * CROPS,
        "data": {
            "person": f"frames 0 to {WALKERS_END - 1} of OpenCV's vtest.avi (Apache-2.0), boxes "
                      "found by subtraction of the background",
            "cup": f"the noted frames before {CUP_END} of the bundled clip cup.webm (Apache-2.0)",
            "photos": "DATA/photos, as backgrounds and as what holds no object",
            "photos by source": sources(data)["photos"]},
        "curve": curve(output, ("focal", "box"))}


def train_command(data, output, steps=3000, seed=0, resume=False, json=None):
    """`python -m tracker train detector`: `train` with a progress bar, a log in output/log.csv and,
    when all is done, a model card in output/object_detector.json."""
    output = Path(output)
    with TrainingLog(output) as log:
        trainer = train(data, output, steps, seed, resume, report=log)
    write_json(output / "object_detector.json", model_card(data, output))
    return log.result(trainer, output / "object_detector.safetensors", json)
