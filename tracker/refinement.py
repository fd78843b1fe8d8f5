"""How far the target reaches: a small network corrects the box that the correlation tracker tells.

    refinement = Refinement(RefinementNetwork.load())
    refinement.start(tracker, crop, features, square)   # of the first frame
    box = refinement.box(tracker, found, lost)  # after an update: the tracker's box, corrected

A filter answers where the target is, and hardly where it ends. So five maps, of AROUND times the box's
width and height, say of each place: is its colour the target's, as it is now, and as it was on the first
frame? Are its features like any of the target's on that frame, like any of what was around it then,
like those at the same place of the box? Three of them are shown as they were on the first frame too,
around the box that was given: what its owner took for the target's end. (The maps are after Lukezic et
al., D3S, CVPR 2020.) How the box is to be moved and resized by that, a CNN has learned. The maps do not
tell what the target is: what is learned on pieces of photographs holds for people and cars.

Only what is told is corrected: the tracker itself goes on from its own box, so that no error of the
network comes back in the next frame.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from kernels.crop import crop
from minideep import layers, no_grad, tensor
from minideep.models import Model
from minideep.serialization import assign, load_arrays
from tracker.boxes import centre
from tracker.colour_histogram import bin_numbers
from tracker.features import CHANNELS

GRID = 20               # places across and down
AROUND = 2.             # of the box's width and height that they are spread over
CUES = 5 + 3            # maps: now, and on the first frame
THEN = [0, 2, 3]        # of which of the five
PART, LARGEST = .5, .3  # of what the network says; what it may say at most
EVERY = 2               # frames from one question to the next: what it says changes slowly
WEIGHTS = Path(__file__).parent / "weights" / "refinement.safetensors"


class RefinementNetwork(Model):
    """Maps (N, GRID, GRID, CUES) to (N, 4): how far the true centre is from the box's, across and
    down, in widths and heights of the box, and the logarithms of the true width and height in these.

    mean and deviation (CUES,): of the maps in the training."""

    def __init__(self, dropout=0., **options):
        super().__init__(**options)
        he = {"activation": "relu", "kernel_initializer": "he_normal"}
        self.conv1 = layers.Conv2D(24, 3, 1, 1, **he)
        self.conv2 = layers.Conv2D(32, 3, 2, 1, **he)
        self.conv3 = layers.Conv2D(32, 3, 2, 1, **he)
        self.flatten = layers.Flatten()
        self.dropout = layers.Dropout(dropout)
        self.hidden = layers.Dense(64, **he)
        self.head = layers.Dense(4)
        self.mean = self.add_weight((CUES,), "zeros", "mean", trainable=False)
        self.deviation = self.add_weight((CUES,), "ones", "deviation", trainable=False)
        self.build((None, GRID, GRID, CUES))

    def build(self, input_shape):
        size = input_shape
        for layer in self._layers():
            layer.build(size)
            size = layer.compute_output_shape(size)

    def _layers(self):
        return (self.conv1, self.conv2, self.conv3, self.flatten, self.dropout, self.hidden, self.head)

    def call(self, cues, training=False):
        x = (cues - self.mean) / self.deviation
        for layer in self._layers():
            x = layer(x, training=training)
        return x

    @classmethod
    def load(cls, path=None):
        """The network with the weights in a safetensors file; None: those that come with it."""
        network = cls()
        path = WEIGHTS if path is None else Path(path)
        assign(network.named_weights(), load_arrays(path)[0], str(path))
        return network


class Refinement:
    """The network on one target; see the head of this file."""

    def __init__(self, network):
        self.network = network

    def start(self, tracker, pixels, features, square):
        """Keep what the target and what is around it look like: from the first crop (CROP, CROP, 3),
        its features (CELLS, CELLS, C), and the square (4,) of the frame that it is."""
        self.network.to(tracker.device)
        self.first = learned(features, square, tracker.box)     # (Q, CHANNELS)
        self.colours = tracker.histogram.likelihood
        self.told = np.zeros(4)
        self.then = self._maps(tracker, pixels, features, square, tracker.box)[..., THEN]

    def box(self, tracker, found, lost):
        """The tracker's box (4,) after an update, corrected by PART of what the network says; while the
        target is lost, as it is."""
        box = tracker.box
        if lost:
            self.told = np.zeros(4)
            return box
        if tracker.age % EVERY:                 # frames in which nothing is learned
            cues = tensor(self.cues(tracker, found, box)[None], device=tracker.device)
            with no_grad():
                told = self.network(cues).numpy()[0]
            self.told = PART * np.clip(told, -LARGEST, LARGEST)
        middle, size = centre(box) + self.told[:2] * box[2:], box[2:] * np.exp(self.told[2:])
        return np.concatenate([middle - size / 2, size])

    def cues(self, tracker, found, box):
        """The maps (GRID, GRID, CUES) of a box (4,), in pixels of the frame, in what was searched."""
        side = found.side * found.scale
        square = np.array([*(found.centre - side / 2), side, side])
        now = self._maps(tracker, found.crops[found.best], found.features, square, box)
        return np.concatenate([now, self.then], -1)

    def _maps(self, tracker, pixels, features, square, box):
        """The five of a crop: (GRID, GRID, 5)."""
        bins = bin_numbers(pixels)
        likely = np.stack([tracker.histogram.likelihood.take(bins), self.colours.take(bins)], -1)
        now, first = learned(features, square, box), self.first         # (Q, CHANNELS)
        alike = [(now @ first[INSIDE].T).max(1), (now @ first[~INSIDE].T).max(1), np.vecdot(now, first)]
        maps = np.column_stack([view(likely, square, box), *alike])
        return maps.reshape(GRID, GRID, -1)


def _inside():
    """Which of the places are in the box: (Q,) of bool, Q = GRID²."""
    near = np.abs((np.arange(GRID) + .5) / GRID - .5) < .5 / AROUND
    return np.outer(near, near).ravel()


INSIDE = _inside()


def view(maps, square, box):
    """Maps (n, n, C) of a square (4,) of the frame, at the places around a box (4,): (Q, C)."""
    size = AROUND * box[2:]
    place = np.concatenate([centre(box) - size / 2 - square[:2], size]) * len(maps) / square[2]
    seen = crop(maps[None], place[None].astype(np.float32), (GRID, GRID))
    return seen.reshape(GRID * GRID, -1)


def learned(features, square, box):
    """The CNN's part of features (n, n, C), at the places around a box, of length 1: (Q, CHANNELS)."""
    seen = view(features[..., :CHANNELS], square, box)
    return seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12)
