"""A tracker that learns one filter for its target while it follows it.

    tracker = CorrelationTracker.load()
    tracker.init(frame, (x, y, w, h))
    state = tracker.update(next_frame)

Each frame is looked at around the last box, every second one at two sizes. Features that a small CNN
learned, edges and colours (HOG and Lab) describe each cell of that crop; a filter, fitted to what
the target looked like so far, slides over them, a colour histogram has its say, and the highest
response is where the target is now; how it changes from one size to the other tells how much the
target has grown (see tracker.features, tracker.correlation_filter, tracker.colour_histogram,
tracker.scaling).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from kernels import memory
from kernels.patch import patch
from minideep import no_grad, tensor
from minideep.device import current_device
from tracker import State
from tracker.boxes import as_tuple, centre, check_box, check_frame, check_started
from tracker.colour_histogram import ColourHistogram
from tracker.confidence import Confidence
from tracker.correlation_filter import CorrelationFilter
from tracker.detector import Detector
from tracker.features import LEARNED_WEIGHT, STRIDE, FeatureNetwork, hand_made
from tracker.motion import Motion, MotionNetwork
from tracker.refinement import Refinement, RefinementNetwork
from tracker.scaling import Scaling
from tracker.threads import blas_on_one_thread

CROP = 160              # pixels of a crop's side
MARGIN = 4.             # which is so many times the target's size, √(w·h)
CELLS = CROP // STRIDE  # of a crop's side
COLOUR = .3             # the part that the colour histogram has in the response
GROWTH = 1.08           # the other size that is looked at, in turn larger and smaller
ANEW = 1.2              # the same while the target is lost
SMALLEST, LIMIT = 6., 5.    # of the box's shorter side in pixels; of growth against the first box
LEARN_EVERY, SOLVE_EVERY, STEPS = 2, 5, 5   # frames between samples, between fits; steps of a fit
UNSURE, DOUBT = .2, .06     # confidence: below, it may be lost; below, it is not learned from
FOUND, LEAST, EASE = .7, .3, .01    # to have found it again: at first, in the end, less each frame
SAY, PATIENCE, TRIAL = 2, 3, 3  # frames unsure until it is said to be lost; in doubt until it is
                        # looked for elsewhere; without doubt after it is found


class Look(NamedTuple):
    """A part of a frame in which the target is searched."""

    centre: np.ndarray          # (2,) x, y in pixels of the frame
    size: float                 # of the target, relative to its first box
    scales: tuple = (1.,)       # of this size, at which it is searched


@dataclass
class Found:
    """What one Look saw: for the decision, and for pictures.

    Positions in pixels of the frame; maps (CELLS, CELLS) have no motion in the middle, at
    [CELLS/2, CELLS/2]."""

    centre: np.ndarray          # (2,) x, y around which was searched
    side: float                 # of the square that was searched, at scale 1
    crops: np.ndarray           # (N, CROP, CROP, 3) of 0 to 255, one for each scale
    features: np.ndarray        # (CELLS, CELLS, C) of the crop that was chosen, windowed
    scales: tuple               # of the crops, relative to `side`
    responses: np.ndarray       # (N, CELLS, CELLS) of the filter
    colours: np.ndarray | None  # (CELLS, CELLS), the mean likelihood of the target's colours
    merged: np.ndarray          # (N, CELLS, CELLS): both together, what the peak is taken of
    heights: np.ndarray         # (N,) of the merged responses' peaks, between the cells
    best: int                   # the crop that was chosen
    growth: float               # the factor for the size that was searched
    shift: np.ndarray           # (2,) dx, dy of the peak, in pixels of the frame
    peak: float                 # the filter's response there; about 1 on the first frame
    second: float               # the highest of the filter's other maxima
    sharpness: float            # peak-to-sidelobe ratio of the merged response
    colour: float               # the histogram's score there (0 without one)

    @property
    def scale(self):
        """Of the crop that was chosen."""
        return self.scales[self.best]


class CorrelationTracker:
    """Follows one target; see the head of this file.

    network: a FeatureNetwork, or None: hand-made features alone. hand: whether HOG and Lab are used.
    scale, window, histogram, gate, redetect: False leaves that part out (`python -m tracker ablate`).
    gate: nothing is learned from frames in DOUBT. redetect: while the target is lost the box rests,
    and it is looked for in the whole frame (tracker.detector); False: the box goes on to wherever
    the response is highest.

    refine: a tracker.refinement.RefinementNetwork, which corrects the boxes that are told, or None; it
    needs the CNN and the histogram, and rests without them. `box` stays the tracker's own.

    motion: a tracker.motion.MotionNetwork, for State.predicted, or None. While the target is lost it
    is looked for where it is predicted; lead=True: always. motion_gate=True: nothing is learned
    either after frames in which the motion network did not believe in it.

    update() can be taken apart: search() looks and decides, move() goes there, learn() takes the
    sample. What the last search saw is in `found`. `motion` (dx, dy in pixels) is added to the
    centre that the next update looks around, and is then zero again.

    The networks run on minideep's current device, all else on the CPU, where the frames are.

    What a frame costs: 2 crops of 160 x 160 (one, or two, to search; one in every second frame to
    learn), and 1.2 applications of the normal equations (a fit of 5 steps in every fifth frame). One
    thread of a 3 GHz Zen 3, milliseconds of CPU time a frame while its neighbours are quiet:

        stage                       million operations              measured
        crops                       1                               .6
        CNN                         176, with Winograd 88           1.9
        HOG                         3                               .8
        Lab                         .4                              .3
        joining and windowing       .4                              .4
        transforms and responses    6                               .6
        fit                         27, over 6 MB of memory         1.0
        colour histogram            1                               .2
        peaks, confidence, motion   .1                              .7
        refined box                 7                               .3, on a Zen 5

    together 137 million operations. At 82 to 102 GFLOP/s, what such a core does, and 65 GB/s for
    the memory, that is a floor of 1.5 to 1.7 ms, of which the CNN alone is .9 to 1.1. Measured on the
    Zen 3 before there was a refined box: 6.5 to 7 for a whole frame; with `evaluate --jobs 2`, each on
    one core, 2.5 times as many frames as OpenCV's CSRT makes; in one process on two cores about twice
    as many (1.8 to 2.1)."""

    def __init__(self, network=None, *, hand=True, scale=True, window=True, histogram=True,
                 gate=True, redetect=True, motion=None, lead=False, motion_gate=False, refine=None):
        if network is None and not hand:
            raise ValueError("no features: give a network, or hand=True for HOG and Lab")
        self.network, self.hand = network, hand
        self.device = current_device()
        if network is not None:
            network.to(self.device)
        self.use_scale, self.use_histogram, self.gate = scale, histogram, gate
        self.detector = Detector() if redetect else None
        self.foresight = None if motion is None else Motion(motion)
        refines = refine is not None and network is not None and histogram
        self.refinement = Refinement(refine) if refines else None
        self.lead, self.motion_gate = lead, motion_gate
        line = np.hanning(CELLS + 2)[1:-1] if window else np.ones(CELLS)
        self.window = np.outer(line, line).astype(np.float32)[..., None]        # (n, n, 1)
        self.first = None

    @classmethod
    def load(cls, path=None, **options):
        """A tracker with the CNN's weights in a safetensors file; None: those that come with it.
        options: of the constructor, to have it otherwise."""
        if "motion" not in options:
            options["motion"] = MotionNetwork.load("correlation")
        if "refine" not in options:
            options["refine"] = RefinementNetwork.load()
        return cls(FeatureNetwork.load(path), **options)

    @blas_on_one_thread
    def init(self, frame, box):
        """Start on `frame` (H, W, 3) uint8 BGR with the target at `box`: x, y, w, h in pixels."""
        check_frame(frame)
        box, self.frame_size = check_box(box, frame), frame.shape[:2]
        self.first = np.maximum(box[2:], 2)                     # width and height
        self.centre, self.size = box[:2] + box[2:] / 2, 1.      # size: relative to the first
        self.motion, self.age, self.found = np.zeros(2), 0, None
        width, height = CROP / MARGIN * self.first / self.first.prod() ** .5    # in the crop
        square = self.squares(Look(self.centre, self.size))
        crop = cut(frame, square)[0]
        samples = self.describe(variations(crop))
        weights = [.7] + [.3 / (len(samples) - 1)] * (len(samples) - 1)
        self.filter = CorrelationFilter(samples, weights, (height / STRIDE, width / STRIDE))
        self.histogram = ColourHistogram(crop, (height, width)) if self.use_histogram else None
        self.confidence, self.scaling = Confidence(), Scaling()
        self.lost, self.unsure, self.doubts, self.trial, self.missed = False, 0, 0, 0, 0
        self.last_sure, self.believed = (self.centre, self.size), 1.
        if self.foresight is not None:
            self.foresight.start(self)
        if self.refinement is not None:
            self.refinement.start(self, crop, samples[0], square[0])

    @property
    def target_size(self):
        """√(w·h) in pixels."""
        return self.first.prod() ** .5 * self.size

    @property
    def side(self):
        """Of the square that is looked at, in pixels of the frame."""
        return MARGIN * self.target_size

    @property
    def searching(self):
        """Is the target looked for anew, the box at rest?"""
        return self.lost and self.detector is not None

    @property
    def box(self):
        """x, y, w, h in pixels."""
        size = self.first * self.size
        return np.concatenate([self.centre - size / 2, size])

    @blas_on_one_thread
    def update(self, frame):
        """The target's State in the next frame. RuntimeError before init()."""
        check_started(self.first)
        check_frame(frame, self.frame_size)
        return self.decide(frame, self.search(frame, self.next_looks(frame)))

    def next_looks(self, frame):
        """The Looks that the next frame is searched by: where the target should be, and while it is
        searched for, a few places elsewhere.

        Another size is looked at in the frames from which nothing is learned: so, for a tracker by
        itself, all of them cost about the same."""
        every, growth = (1, ANEW) if self.searching else (LEARN_EVERY, GROWTH)
        scales = (1.,)
        if self.use_scale and self.age % every == 0:
            scales = 1., growth if self.age // every % 2 == 0 else 1 / growth
        looks = [Look(self.centre + self.motion, self.size, scales)]
        if self.searching:
            looks += [Look(*place) for place in self.detector.places(self, frame)]
        return looks

    def decide(self, frame, found):
        """What next_looks() have found means: the target's State."""
        self.age += 1
        self.motion = np.zeros(2)
        if self.searching:
            found, confidence = self.detector.choose(self, found)
        else:
            found = found[0]
            confidence = self.confidence.of(found)
        self.found = found
        self.trial = max(self.trial - 1, 0)
        self.missed = self.missed + 1 if self.lost else 0
        if self.lost and confidence > max(FOUND - EASE * self.missed, LEAST):
            self.lost, self.trial = False, TRIAL + 1
        elif not self.lost:
            self.doubts = self.doubts + 1 if confidence < DOUBT else 0
            if self.doubts == PATIENCE or self.trial and self.doubts:
                self.lose(frame)
        self.unsure = self.unsure + 1 if confidence < UNSURE else 0
        if not self.searching:
            self.follow(frame, found, confidence)
        lost = self.lost or self.unsure >= SAY      # said early; searching elsewhere waits for more
        box = self.box if self.refinement is None else self.refinement.box(self, found, lost)
        return State(as_tuple(box), confidence, lost, *self.predict(frame, box))

    def predict(self, frame, box):
        """State.predicted, after the `box` (4,) that is told of this frame, and State.reach; moves the
        next search where that is wanted."""
        if self.foresight is None:
            return None, None
        guess = self.foresight.step(self)
        self.believed = guess.visible
        if self.lost or self.lead:
            self.motion = centre(guess.box(self.box, frame)) - self.centre
        return as_tuple(guess.box(box, frame)), tuple(guess.reach.tolist())

    def observed(self):
        """What the motion network is told of the last search: the four of Confidence.signals(), and
        the confidence that follows from them."""
        return *self.confidence.signals(self.found), self.confidence.of(self.found)

    def follow(self, frame, found, confidence):
        """Go to the found place; learn from it where that is not in doubt."""
        self.move(frame, found)
        sure = confidence > DOUBT and not self.trial
        sure = sure and not (self.motion_gate and self.believed < UNSURE)
        if sure:
            self.last_sure = self.centre, self.size
            self.confidence.follow(found)
        if sure or not self.gate:
            self.learn(frame)

    def lose(self, frame):
        """The target is lost: back to where it surely was, and look for it from there."""
        self.lost, self.doubts, self.trial = True, 0, 0
        if self.detector is not None:
            self.centre, self.size = self.last_sure
            self.detector.start(self, frame)

    def response(self, frame, centre, size):
        """search() at one size: what the target's filter says about any place of a frame, a Found.

        centre: x, y in pixels; size: of the target, relative to its first box. Changes nothing."""
        return self.search(frame, [Look(centre, size)])[0]

    def search(self, frame, looks):
        """What some Looks at a frame show, a Found for each. Changes nothing."""
        crops = cut(frame, np.concatenate([self.squares(look) for look in looks]))
        return self.judge(crops, self.describe(crops), looks)

    def squares(self, look):
        """What is looked at: (N, 4) x, y, w, h in pixels, one for each scale."""
        sides = self._side(look) * np.array(look.scales)[:, None]       # (N, 1)
        return np.hstack([look.centre - sides / 2, sides, sides])

    def _side(self, look):
        return MARGIN * self.first.prod() ** .5 * look.size

    def judge(self, crops, features, looks):
        """search(), when the crops (N, CROP, CROP, 3) of all looks and their features are known."""
        ends = np.cumsum([len(look.scales) for look in looks])[:-1]
        return [self._judge(*seen) for seen in
                zip(np.split(crops, ends), np.split(features, ends), looks)]

    def _judge(self, crops, features, look):
        scales, side = look.scales, self._side(look)
        responses = self.filter.respond(features)
        merged, colours = responses, None
        if self.histogram is not None:
            colours = self.histogram.respond(crops[0], CELLS)
            merged = (1 - COLOUR) * responses + COLOUR * colours
        places = [np.unravel_index(m.argmax(), m.shape) for m in merged]
        shifts, heights = zip(*map(sub_cell, merged, places))
        if self.searching:
            best = int(np.argmax([r[place] for r, place in zip(responses, places)]))
            growth = scales[best]
        else:
            best, growth = 0, self.scaling.of(heights, scales)
        place = places[best]
        return Found(
            np.array(look.centre, float), side, crops, features[best], tuple(scales),
            fft_shift(responses),
            None if colours is None else fft_shift(colours), fft_shift(merged), np.array(heights), best,
            growth, shifts[best] * side * scales[best] / CELLS,
            float(responses[best][place]), second_peak(responses[best], place),
            sharpness(merged[best], place), 0. if colours is None else float(colours[place]))

    def move(self, frame, found):
        """Take the found place as the target's."""
        height, width = frame.shape[:2]
        self.centre = np.clip(found.centre + found.shift, 0, [width, height])
        least = min(SMALLEST / self.first.min(), 1)
        most = max((np.array([width, height]) / self.first).min(), 1)
        size = self.size * found.side / self.side * found.growth
        self.size = float(np.clip(size, max(least, 1 / LIMIT), min(most, LIMIT)))
        self.scaling.follow(found.heights, found.scales)

    def learn(self, frame):
        """Let filter and histogram follow what is now at the box."""
        crops = self.sample(frame)
        self.study(crops, self.describe(crops) if len(crops) else None)

    def sample(self, frame):
        """What is learned from, in every LEARN_EVERYth frame: (1 or 0, CROP, CROP, 3)."""
        scales = (1.,) if self.age % LEARN_EVERY == 0 else ()
        return cut(frame, self.squares(Look(self.centre, self.size, scales)))

    def study(self, crops, features):
        """Learn from a sample() and its features."""
        if len(crops):
            self.filter.remember(features[0])
            if self.histogram is not None:
                self.histogram.learn(crops[0])
        if self.age % SOLVE_EVERY == 0:
            self.filter.solve(STEPS)

    def describe(self, crops):
        """Features of crops (N, CROP, CROP, 3), of 0 to 255: (N, CELLS, CELLS, C), windowed."""
        parts = []
        if self.network is not None:
            with no_grad():
                maps = self.network(tensor(crops, device=self.device)).numpy()
            parts.append((maps, LEARNED_WEIGHT * self.window))
        if self.hand:
            parts += [(maps, self.window) for maps in hand_made(crops)]
        ends = np.cumsum([0] + [maps.shape[-1] for maps, _ in parts])
        features = memory.empty((len(crops), CELLS, CELLS, ends[-1]))
        for (maps, weight), begin, end in zip(parts, ends, ends[1:]):
            np.multiply(maps, weight, out=features[..., begin:end])
        return features


def cut(frame, squares):
    """Squares (N, 4) of a frame, x, y, w, h in its pixels, as crops (N, CROP, CROP, 3)."""
    return patch(frame, squares, CROP)


def variations(crop):
    """The target's first crop, mirrored, blurred and turned: what it may look like next.

    (S, S, 3) -> (5, S, S, 3), the first as it is."""
    turned = [ndimage.rotate(crop, angle, reshape=False, order=1, mode="nearest")
              for angle in (-10, 10)]
    blurred = ndimage.gaussian_filter(crop, (1.5, 1.5, 0), mode="nearest")
    return np.stack([crop, crop[:, ::-1], blurred, *turned])


def sub_cell(response, place):
    """The peak between the cells, by parabolas through it and its neighbours (circular): its shift
    dx, dy in cells, and its height."""
    n = len(response)
    shift, height = [], float(response[place])
    for axis in (1, 0):
        line = response.take(place[1 - axis], 1 - axis)
        at = place[axis]
        before, peak, after = (float(line[(at + k) % n]) for k in (-1, 0, 1))
        slope, curve = .5 * (after - before), before - 2 * peak + after
        part = min(max(-slope / curve, -.5), .5) if curve < -1e-9 else 0.
        shift.append((at + n // 2) % n - n // 2 + part)
        height += part * (slope + .5 * curve * part)
    return np.array(shift), height


def fft_shift(maps):
    return np.fft.fftshift(maps, (-2, -1))


def second_peak(response, place, apart=3):
    """The largest response further than `apart` cells from the place."""
    rest = around(response, place)
    rest[len(rest) // 2 - apart:len(rest) // 2 + apart + 1,
         len(rest) // 2 - apart:len(rest) // 2 + apart + 1] = -np.inf
    return float(rest.max())


def sharpness(response, place):
    """Peak-to-sidelobe ratio: deviations by which the peak is above the mean (Bolme et al. 2010)."""
    return float((response[place] - response.mean()) / (response.std() + 1e-9))


def around(response, place):
    """The response with the place in its middle."""
    n = len(response) // 2
    return np.roll(response, (n - place[0], n - place[1]), (0, 1))
