"""What the target does next: an LSTM that watches what a tracker sees of it.

    motion = Motion(MotionNetwork.load("correlation"))      # or "recurrent"
    motion.start(tracker)               # after tracker.init()
    guess = motion.step(tracker)        # after each of its updates: a Guess

In every frame the LSTM is told how the box moved and grew and how sure the tracker is of what it saw
(INPUTS numbers, see signals()). It says where the target's centre will be in the next frame, as a
Laplace distribution across and one down, how it will grow, and how likely the target is there at
all. Each tracker has weights of its own, trained on what it did on training sequences and rendered
scenes, with blockers in front, behind which targets move on. After Dai et al., LTMU (CVPR 2020).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minideep import layers, no_grad, ops, tensor
from minideep.models import Model
from minideep.serialization import assign, load_arrays
from tracker.boxes import centre

INPUTS, UNITS = 10, 32
TRACKERS = ("correlation", "recurrent")     # whose motion networks can be trained
SURE = .8               # the part of the centres that a Guess's reach holds: of frames in which the
                        # box was on the target, of the training


class MotionNetwork(Model):
    """Signals (N, T, INPUTS) and a state to means (N, T, 2) and log-scales (N, T, 2) of the next
    displacement in sizes of the target, growths (N, T), logits of "it is there" (N, T), and the
    state after. reach: times a scale, it is half the width of the region that holds the next
    centre in SURE of the frames."""

    def __init__(self, **options):
        super().__init__(**options)
        self.lstm = layers.LSTM(UNITS, return_sequences=True, return_state=True)
        self.head = layers.Dense(6, kernel_initializer="zeros")
        self.reach = self.add_weight((), "ones", "reach", trainable=False)
        self.build((None, None, INPUTS))

    def build(self, input_shape):
        self.lstm.build(input_shape)
        self.head.build((None, None, UNITS + INPUTS))

    def call(self, x, state=None):
        h, *state = self.lstm(x, initial_state=state)               # (N, T, UNITS)
        y = self.head(ops.concatenate([h, x], axis=-1))             # (N, T, 6)
        return y[..., :2], y[..., 2:4] - 2., y[..., 4], y[..., 5], state

    @classmethod
    def load(cls, tracker, path=None):
        """The network with the weights in a safetensors file; None: those that come with it, for
        that of TRACKERS."""
        network = cls()
        path = weights_of(tracker) if path is None else Path(path)
        assign(network.named_weights(), load_arrays(path)[0], str(path))
        return network


def weights_of(tracker):
    """The file that comes with it, for that of TRACKERS."""
    return Path(__file__).parent / "weights" / f"{tracker}_motion.safetensors"


@dataclass(frozen=True)
class Guess:
    """Of the next frame."""

    shift: np.ndarray       # (2,) of the centre against the box's now, dx, dy in pixels
    reach: np.ndarray       # (2,) pixels: SURE that the centre is within, across and down
    growth: float           # of the size, a factor
    visible: float          # how likely the target is in the box now, 0 to 1

    def box(self, box, frame):
        """The box (4,) of the next frame, after `box` in this one; its centre stays in the frame."""
        ahead = np.clip(centre(box) + self.shift, 0, frame.shape[1::-1])
        size = box[2:] * self.growth
        return np.concatenate([ahead - size / 2, size])


class Motion:
    """The network on one target; see the head of this file."""

    def __init__(self, network):
        self.network = network

    def start(self, tracker):
        self.network.to(tracker.device)
        self.state, self.last, self.lost = None, pose(tracker), 0

    def step(self, tracker):
        """The Guess after an update of the tracker."""
        x, self.last, self.lost = signals(tracker, self.last, self.lost)
        with no_grad():
            mean, scale, growth, visible, self.state = self.network(
                tensor(x[None, None], device=tracker.device), self.state)
        size = self.last[1]
        return Guess(mean.numpy()[0, 0] * size,
                     np.exp(scale.numpy()[0, 0]) * float(self.network.reach.numpy()) * size,
                     math.exp(float(np.clip(growth.numpy()[0, 0], -.1, .1))),
                     float(ops.sigmoid(visible).numpy()[0, 0]))


def pose(tracker):
    """Of a tracker: its box's centre (2,), in pixels, and size √(w·h)."""
    return centre(tracker.box), tracker.box[2:].prod() ** .5


def signals(tracker, last, lost):
    """((INPUTS,) float32, pose, frames that the target is lost) after an update; last, lost: the
    pose and the frames after the update before.

    The box's displacement in sizes of the target and the logarithm of its growth; the five numbers
    that the tracker's observed() says; is the target said to be lost, and how long already."""
    lost = lost + 1 if tracker.lost else 0
    middle, size = pose(tracker)
    moved = np.clip((middle - last[0]) / size, -2, 2)
    x = [*moved, math.log(size / last[1]), *tracker.observed(), float(tracker.lost), math.log1p(lost) / 3]
    return np.array(x, np.float32), (middle, size), lost
