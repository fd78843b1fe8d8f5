"""A tracker that is one recurrent network: look, compare, remember, point.

    tracker = RecurrentTracker.load()
    tracker.init(frame, (x, y, w, h))
    state = tracker.update(next_frame)

For each frame the network gets square crops of the first frame (once), of the last frame and of
this one, each around the target with a margin. One small CNN looks at all of them. The target's
features, as in the first frame at three sizes and as in the last frame, slide over this frame's
features as the kernels of a convolution (a correlation: Bertinetto et al., SiamFC, 2016); where and
at what size they agree, the target is. Dense layers and two LSTMs, which remember how it moved and
looked, correct that to a box and say whether the target is there at all (Gordon et al., Re3, 2018).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from minideep import layers, no_grad, ops, tensor
from minideep.device import current_device
from minideep.initializers import RandomNormal
from minideep.serialization import assign, load_arrays
from tracker import State
from tracker.boxes import as_tuple, centre, check_box, check_frame, check_started
from tracker.motion import Motion, MotionNetwork
from tracker.threads import blas_on_one_thread

CROP = 64                       # pixels of a crop's side
CELLS = 16                      # of the CNN's map, whose stride is 4
TARGET = 6                      # of which the target takes so many, across and down
MARGIN = CELLS / TARGET         # a crop is so many times as wide and as high as the target's box
PLACES = CELLS - TARGET + 1     # shifts of the target in whole cells, each way
REACH = (PLACES - 1) / 2 / TARGET   # the farthest of them, in sizes of the target: 5/6
SCALES = (.78, 1., 1.28)        # sizes of the target, relative to the last box, that are looked for
GRAY = 127.                     # subtracted from pixels: what lies outside of the frame (0) is gray
WEIGHTS = Path(__file__).parent / "weights" / "recurrent.safetensors"


# ------------------------------------------------------------------------------- the network


class Network(layers.Layer):
    """CNN, correlation, dense layers, LSTMs and heads; about 330,000 weights.

        template = network.template(crops)                          # of the first frame
        state = network.start(n)
        corners, presence, places, state = network((template, last, now), state)

    crops (N, CROP, CROP, 3), from `normalise`; those of the template are one such array for each of
    SCALES, cut around the box divided by the scale. corners (N, 4): x1, y1, x2, y2 as parts of the
    crop, 0 to 1, times 10 (did not move: about 3.1, 3.1, 6.9, 6.9). presence (N,): the logit of
    "the target is visible". places (N, PLACES², len(SCALES)): the logarithm of the probability of
    each shift and size of the target.
    """

    CHANNELS, GROUPS, DENSE, UNITS = 32, 8, 128, 64

    def __init__(self, **options):
        super().__init__(**options)
        relu = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
        still = {"kernel_initializer": RandomNormal(stddev=.01)}    # heads that start near zero
        self.conv1 = layers.Conv2D(32, 7, strides=4, **relu)        # -> (N, 16, 16, 32)
        self.conv2 = layers.Conv2D(self.CHANNELS, 3, **relu)
        self.conv3 = layers.Conv2D(self.CHANNELS, 3, **relu)
        self.embedding = layers.Conv2D(self.CHANNELS, 1)            # what is compared

        self.look1 = layers.Conv2D(32, 3, **relu)                   # -> (N, 11, 11, 32)
        self.look2 = layers.Conv2D(32, 3, **relu)
        self.place = layers.Conv2D(len(SCALES) + 4, 1, **still)     # logits, and 4 edges
        self.look3 = layers.Conv2D(16, 3, strides=2, **relu)        # -> (N, 6, 6, 16)
        self.pair1 = layers.Conv2D(24, 3, strides=2, **relu)        # -> (N, 8, 8, 24)
        self.pair2 = layers.Conv2D(32, 3, strides=2, **relu)        # -> (N, 4, 4, 32)

        self.dense = layers.Dense(self.DENSE, activation="relu", kernel_initializer="he_normal")
        self.lstm1 = layers.LSTMCell(self.UNITS)
        self.lstm2 = layers.LSTMCell(self.UNITS)
        self.box = layers.Dense(4, **still)
        self.presence = layers.Dense(1, **still)

    def build(self, input_shape):
        self.prior = self.add_weight((PLACES ** 2, len(SCALES)), "zeros", "prior")
        self.gain = self.add_weight((), "ones", "gain")                 # of the correlation

    def features(self, crops):
        """The CNN's map and the vectors that are compared, (N, CELLS, CELLS, CHANNELS) each."""
        x = self.conv3(self.conv2(self.conv1(crops)))
        e = self.embedding(x)
        return x, e / ops.sqrt((e * e).mean(axis=-1, keepdims=True) + .05)

    def template(self, crops):
        """The target's part of the features, at each of SCALES: (N, TARGET, TARGET, CHANNELS)."""
        embedded = self.features(ops.concatenate(crops))[1]
        return ops.split(middle(embedded, TARGET), len(SCALES))

    def start(self, n):
        """The state before the first step: h and c of both LSTMs, (n, UNITS) each."""
        zeros = np.zeros((n, self.UNITS), "float32")
        return [[tensor(zeros, device=self.conv1.kernel.device) for _ in "hc"] for _ in range(2)]

    def call(self, crops, state):
        template, last, now = crops
        n = now.shape[0]
        maps, embedded = self.features(ops.concatenate([last, now]))
        templates = [middle(embedded[:n], TARGET), *template]
        agreement = correlate(embedded[n:], templates)          # (N, 11, 11, CHANNELS) each
        grouped = [mean_groups(a, self.GROUPS) for a in agreement]       # (N, 11, 11, GROUPS)

        # Where: a probability for each shift and size, and the box as expected under it.
        view = ops.concatenate([*grouped, middle(maps[n:], PLACES)], axis=-1)
        view = self.look2(self.look1(view))                             # (N, 11, 11, 32)
        votes = self.place(view).reshape(n, PLACES ** 2, len(SCALES) + 4)
        last_match, *matches = [g.mean(axis=-1).reshape(n, PLACES ** 2, 1) for g in grouped]
        match = 12 * self.gain * (ops.concatenate(matches, axis=-1) + last_match)
        logits = votes[:, :, :len(SCALES)] + match + self.prior         # (N, 121, 3)
        places = ops.log_softmax(logits.reshape(n, -1)).reshape(logits.shape)
        chance = ops.exp(places)
        boxes = tensor(HYPOTHESES, device=now.device)                   # (121, 3, 4)
        corners = ((chance[..., None] * boxes).sum(axis=(1, 2))
                   + (chance.sum(axis=2)[..., None] * votes[:, :, len(SCALES):]).sum(axis=1))

        # How that has to be corrected, and whether it is the target, by what was seen before.
        pair = self.pair2(self.pair1(ops.concatenate([maps[:n], maps[n:]], axis=-1)))
        x = ops.concatenate([self.look3(view).reshape(n, -1), pair.reshape(n, -1)], axis=-1)
        x = self.dense(x)                                               # (N, DENSE)
        h1, state1 = self.lstm1(x, state[0])
        h2, state2 = self.lstm2(ops.concatenate([x, h1], axis=-1), state[1])
        x = ops.concatenate([x, h2], axis=-1)                           # (N, DENSE + UNITS)
        corners = 10 * (.5 + (corners + self.box(x)) / MARGIN)
        return corners, self.presence(x)[:, 0], places, [state1, state2]

    def build_now(self):
        """Make all weights, which layers else do when they are first called. Returns itself."""
        crops = normalise(np.zeros((1, CROP, CROP, 3)))
        with no_grad():
            self((self.template([tensor(crops)] * len(SCALES)), crops, crops), self.start(1))
        return self


def middle(x, size):
    """The central size x size cells of maps (N, H, W, C); of two middles the upper left."""
    top = (x.shape[1] - size) // 2
    return x[:, top:top + size, top:top + size]


def correlate(x, templates):
    """Each template (N, k, k, C) slid over its own map x (N, H, W, C), each channel for itself: a
    list of (N, H-k+1, W-k+1, C).

    It is a depthwise convolution of one image that has all maps as its channels."""
    n, h, w, c = x.shape
    k = templates[0].shape[1]
    image = x.transpose(1, 2, 0, 3).reshape(1, h, w, n * c)
    found = []
    for template in templates:
        kernel = template.transpose(1, 2, 0, 3).reshape(k, k, 1, n * c)
        y = ops.conv2d(image, kernel, groups=n * c)                     # (1, h', w', n·c)
        found.append(y.reshape(h - k + 1, w - k + 1, n, c).transpose(2, 0, 1, 3))
    return found


def mean_groups(x, groups):
    """Neighbouring channels of a correlation (N, H, W, C) made one: (N, H, W, groups), each the
    mean over the template of the products, and so about 1 where it fits."""
    each = x.shape[3] // groups
    mean = np.repeat(np.eye(groups, dtype="float32"), each, axis=0) / (TARGET ** 2 * each)
    return x @ tensor(mean.astype("float32"), device=x.device)          # (C, groups)


def _hypotheses():
    steps = np.linspace(-REACH, REACH, PLACES)
    y, x = (a.reshape(-1, 1) for a in np.meshgrid(steps, steps, indexing="ij"))     # (121, 1)
    half = np.array(SCALES) / 2
    return np.stack([x - half, y - half, x + half, y + half], -1).astype("float32")


HYPOTHESES = _hypotheses()  # (PLACES², len(SCALES), 4): corners, in units of the last box's size


def around(boxes):
    """The region x, y, w, h that is cropped around each box (..., 4)."""
    boxes = np.asarray(boxes, np.float64)
    size = boxes[..., 2:] * MARGIN
    return np.concatenate([boxes[..., :2] + (boxes[..., 2:] - size) / 2, size], -1)


def template_regions(boxes):
    """The regions around boxes (..., 4) in which the target looks as large as SCALES say."""
    boxes = np.asarray(boxes, np.float64)
    centre = boxes[..., :2] + boxes[..., 2:] / 2
    sizes = [boxes[..., 2:] / scale for scale in SCALES]
    return [around(np.concatenate([centre - size / 2, size], -1)) for size in sizes]


def expected(places):
    """The mean of `places` (N, PLACES², len(SCALES)): the target's shift (N, 2) in sizes of the
    last box, and the logarithm of its size (N,) relative to that."""
    chance = np.exp(np.asarray(places, np.float64))
    shifts = HYPOTHESES[:, 1, :2] + .5                                  # (PLACES², 2)
    return chance.sum(2) @ shifts, chance.sum(1) @ np.log(SCALES)


def spread(places):
    """The standard deviations (3,) of `places` (1, PLACES², len(SCALES)), as expected() has their
    means: of the shift across and down, and of the logarithm of the size."""
    chance = np.exp(np.asarray(places[0], np.float64))
    values = HYPOTHESES[:, 1, :2] + np.float64(.5), np.log(SCALES)[:, None]
    parts = chance.sum(1) / chance.sum(), chance.sum(0) / chance.sum()
    # of the differences from the mean: that of squares less that square may come out below 0
    return np.sqrt(np.concatenate([part @ (v - part @ v) ** 2 for part, v in zip(parts, values)]))


def to_boxes(corners, regions):
    """The network's corners (N, 4) as boxes in the frames that the regions (N, 4) were cut from."""
    corners = np.asarray(corners, np.float64) / 10
    size = regions[:, 2:]
    return np.concatenate([regions[:, :2] + corners[:, :2] * size,
                           (corners[:, 2:] - corners[:, :2]) * size], -1)


def normalise(pixels):
    """Pixels 0 to 255 as the network wants them: gray is 0."""
    return (pixels.astype("float32") - GRAY) / 64


# ------------------------------------------------------------------------------- the tracker


class RecurrentTracker:
    """Follows one target with a Network; see the head of this file.

    The correlation is tied to the first frame; the dense layers and LSTMs, which correct it, have
    seen clips of 16 frames, and over hundreds their small errors would add up. So the box goes half
    of the way (TRUST) from the one to the other. Its size follows slowly, by the part EASE of each
    change, and rests while the network doubts that it sees the target. The memory starts afresh
    every RESET frames, from what it was after the first one (Gordon et al., Re3, 2018). All is
    computed on minideep's current device.

    motion: a tracker.motion.MotionNetwork, for State.predicted, or None. While the target is lost it
    is looked for where it is predicted."""

    TRUST, EASE, RESET = .5, .15, 32
    DOUBT = .5                  # of confidence: the size rests below it
    LOST, FOUND = .3, .5        # of confidence: lost below the one until above the other

    def __init__(self, network, *, motion=None):
        self.network = network
        self.device = current_device()
        network.to(self.device)
        self.foresight = None if motion is None else Motion(motion)
        self.box = None

    @classmethod
    def load(cls, path=None, **options):
        """A tracker with the weights in a safetensors file; None: those that come with it.
        options: of the constructor, to have it otherwise."""
        network = Network().build_now()
        path = WEIGHTS if path is None else Path(path)
        assign(network.named_weights(), load_arrays(path)[0], str(path))
        if "motion" not in options:
            options["motion"] = MotionNetwork.load("recurrent")
        return cls(network, **options)

    @blas_on_one_thread
    def init(self, frame, box):
        """Start on `frame` (H, W, 3) uint8 BGR with the target at `box`: x, y, w, h in pixels."""
        check_frame(frame)
        self.box = self.first_box = check_box(box, frame)
        self.age, self.lost, self.frame_size = 0, False, frame.shape[:2]
        self.motion = np.zeros(2)           # from the box to where the next update looks, in pixels
        with no_grad():
            self.template = self.network.template([self._look(frame, region) for region in
                                                   template_regions(self.box)])
            self.state = self.network.start(1)
            self.last = self._look(frame, around(self.box))
        if self.foresight is not None:
            self.foresight.start(self)

    @blas_on_one_thread
    def update(self, frame):
        """The target's State in the next frame. RuntimeError before init()."""
        check_started(self.box)
        check_frame(frame, self.frame_size)
        self.box = np.concatenate([self.box[:2] + self.motion, self.box[2:]])
        region = around(self.box)
        with no_grad():
            crops = self.template, self.last, self._look(frame, region)
            corners, presence, places, self.state = self.network(crops, self.state)
            self.confidence = float(ops.sigmoid(presence).numpy()[0])
            corrected = to_boxes(corners.numpy(), region[None])[0]
            self.places = places.numpy()
            self.box = self._settle(*expected(self.places), corrected, self.confidence, frame)
            self.last = self._look(frame, around(self.box))     # what comes next is compared to it
        self.lost = self.confidence < (self.FOUND if self.lost else self.LOST)
        self.age += 1
        if self.age == 1:
            self.first_state = self.state
        elif self.age % self.RESET == 0:
            self.state = self.first_state
        return State(as_tuple(self.box), self.confidence, self.lost, *self._predict(frame))

    def _predict(self, frame):
        """State.predicted and State.reach; moves the next search while the target is lost."""
        if self.foresight is None:
            return None, None
        guess = self.foresight.step(self)
        predicted = guess.box(self.box, frame)
        self.motion = centre(predicted) - centre(self.box) if self.lost else np.zeros(2)
        return as_tuple(predicted), tuple(guess.reach.tolist())

    def observed(self):
        """What the motion network is told of the last search: how far `places` spread across, down
        and in size, their largest probability, and the confidence."""
        return *spread(self.places), float(np.exp(self.places.max())), self.confidence

    def _look(self, frame, region):
        return look(frame, region, self.device)

    def _settle(self, shift, growth, corrected, confidence, frame):
        """The new box: its centre in the frame, its size from 1/5 to 5 times the first box's, at
        least 2 pixels and at most the frame."""
        limits = np.array(frame.shape[1::-1], np.float64)
        size = self.box[2:]
        centre = self.box[:2] + size / 2 + shift[0] * size
        centre += self.TRUST * (corrected[:2] + corrected[2:] / 2 - centre)
        centre = np.clip(centre, 0, limits)
        if confidence > self.DOUBT:
            change = np.log(np.maximum(corrected[2:], 1) / size)        # (2,), of width and height
            change = growth[0] + self.TRUST * (change - growth[0])
            size = size * np.exp(self.EASE * change)
        size = np.clip(size, self.first_box[2:] / 5, self.first_box[2:] * 5)
        size = np.minimum(np.maximum(size, 2), limits)
        return np.concatenate([centre - size / 2, size])


def look(frame, region, device):
    """The region x, y, w, h of a frame as a crop (1, CROP, CROP, 3) for the network.

    Where the crop has half as many pixels as the region or fewer, pixels are first averaged in
    blocks, for else most of them would not be looked at. Gray lies outside of the frame."""
    x, y, w, h = region
    height, width = frame.shape[:2]
    by, bx = max(int(h / CROP), 1), max(int(w / CROP), 1)      # the blocks
    # The part of the frame that is looked at, (1, h', w', 3): a block more on each side, and a
    # pixel at least where the region lies outside.
    left, right = int(np.clip(x - bx, 0, width - 1)), int(np.clip(x + w + 2 * bx, 1, width))
    top, bottom = int(np.clip(y - by, 0, height - 1)), int(np.clip(y + h + 2 * by, 1, height))
    part = tensor(frame[None, top:bottom, left:right], device=device).astype("float32") - GRAY
    by, bx = min(by, bottom - top), min(bx, right - left)
    if max(by, bx) > 1:
        part = ops.avg_pool2d(part, (by, bx))
    box = [(x - left) / bx, (y - top) / by, w / bx, h / by]
    return ops.crop(part, tensor([box], dtype="float32", device=device), CROP) / 64
