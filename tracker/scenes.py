"""Whole videos of textured targets, rendered: where every target is, and how much of it is seen.

    scene = render(seed=3, frames=120, size=(480, 360), targets=4, occluders=2, leaving=1)
    scene[7]            (H, W, 3) uint8 BGR, frame 7; scene is a sequence of frames
    scene.boxes         (frames, targets, 4)  x, y, w, h in pixels, exact, also where out of view
    scene.visible       (frames, targets)     the part neither covered nor outside, 0 to 1
    scene.truth()       as tracker.mot_metrics and read_mot have it
    scene.sequence(0)   the first target's, as `evaluate` and `occlusions` take it

The idea is that of tracker.synthetic, which has the sprites: pieces of photos (or of pictures made of
noise) move over another one, by random walks, so that all is known of them. Here the camera shows
all of it, and what may happen is chosen. The same arguments give the same pixels.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker.opencv import import_cv2
from tracker.sequences import Sequence
from tracker.synthetic import (
    Sprite,
    area,
    bounds,
    cut_out,
    draw,
    pose_matrix,
    procedural_photo,
    walk,
)
from tracker.video import VideoWriter

TEXTURE = 96            # pixels of a sprite's side
SEEN = .25              # from which part on a target counts as being there
WAY_OUT = 10            # frames that a leaving target takes, each way


@dataclass
class Actor:
    """A sprite, and where it is in every frame: path (n, 2) of its centre, size (n, 2) in pixels,
    angle (n,) in radians."""
    sprite: Sprite
    path: np.ndarray
    size: np.ndarray
    angle: np.ndarray

    def pose(self, t):
        return pose_matrix(self.path[t], self.size[t], self.angle[t])


class Scene:
    """What render() gives: a sequence of frames, rendered when they are asked for.

    actors: from back to front; targets: which of them are targets. camera (n, 2): how far the
    background has moved. light (n,): factor. blur: deviation in pixels, and noise in gray levels."""

    def __init__(self, name, background, actors, targets, size, camera, light, blur, noise):
        self.name, self.background, self.actors, self.targets = name, background, actors, targets
        self.size, self.camera, self.light, self.blur, self.noise = size, camera, light, blur, noise
        self._visible = None
        self.boxes = np.array([[bounds(actors[k].sprite, actors[k].pose(t)) for k in targets]
                               for t in range(len(self))])

    def __len__(self):
        return len(self.light)

    def __getitem__(self, index):
        t = range(len(self))[index]
        cv2 = import_cv2()
        frame = self._backdrop(t)
        self._act(t, frame)
        if self.light[t] != 1:
            frame = cv2.convertScaleAbs(frame, alpha=float(self.light[t]))
        if self.blur:
            frame = cv2.GaussianBlur(frame, (0, 0), self.blur)
        if self.noise:
            grain = np.random.default_rng(t).normal(0, self.noise, frame.shape)
            frame = np.clip(np.rint(frame + grain), 0, 255).astype(np.uint8)
        return frame

    def __iter__(self):
        return (self[t] for t in range(len(self)))

    def fingerprint(self):
        """What decides the pixels, for the cache of evaluations."""
        return f"rendered {self.name}"

    @property
    def visible(self):
        """(n, k): the part of each target that is neither covered nor outside, 0 to 1."""
        if self._visible is None:
            canvas = np.zeros((*self.size[::-1], 3), np.uint8)
            self._visible = np.array([self._act(t, canvas) for t in range(len(self))])
        return self._visible

    def truth(self, least=SEEN):
        """[(ids, boxes)] of the targets of which at least that part is seen, frame by frame."""
        return [(np.flatnonzero(seen >= least), boxes[seen >= least])
                for seen, boxes in zip(self.visible, self.boxes)]

    def sequence(self, target=0, least=SEEN):
        """One target's Sequence; absent (nan) where less than that part of it is seen."""
        seen = self.visible[:, target, None] >= least
        return Sequence(f"{self.name}-{target}", self, np.where(seen, self.boxes[:, target], np.nan))

    def write(self, path, fps=25):
        """The frames as a video NAME.webm."""
        with VideoWriter(path, fps, self.size) as video:
            for frame in self:
                video.write(frame)

    def _backdrop(self, t):
        """The part of the background before which the camera stands."""
        cv2 = import_cv2()
        middle = np.array(self.background.shape[1::-1]) / 2 - np.array(self.size) / 2
        shift = middle - self.camera[t]
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
        return cv2.warpAffine(self.background, matrix, tuple(self.size),
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_REFLECT)

    def _act(self, t, frame):
        """Draw all actors on the frame; -> (k,) the part of each target that is seen."""
        seen = np.zeros((len(self.targets), *frame.shape[:2]), np.float32)
        for number, actor in enumerate(self.actors):
            where, alpha = draw(frame, actor.sprite, actor.pose(t))
            if where is None:
                continue
            seen[(slice(None), *where)] *= 1 - alpha
            if number in self.targets:
                seen[self.targets.index(number)][where] = alpha
        whole = [abs(np.linalg.det(self.actors[k].pose(t)[:, :2])) * area(self.actors[k].sprite.shape)
                 for k in self.targets]
        return np.minimum(seen.sum((1, 2)) / whole, 1)


def render(seed, frames=100, size=(480, 360), targets=1, *, unit=56., speed=.05, growth=.01,
           turn=.01, light=.1, camera=.02, blur=0., noise=2., occluders=0, lookalikes=0, leaving=0,
           photos=None):
    """A Scene with so many targets, each about `unit` pixels large, which keep inside of the frame.

    seed: decides every random choice. size: width, height in pixels.
    speed, camera: sizes of the target that it, and the background, move in a frame; growth: relative
    change of size and turn: radians, a frame; light: relative change over the whole scene; all are
    deviations of random walks, and 0 means none.
    occluders: things that cross a target's way in front of it. lookalikes: doubles of targets that
    move among them. leaving: how many of the targets leave the frame for a while (they need 60 frames
    to do so). photos: BGR pictures for background and textures; None: pictures made of noise.
    Raises ValueError for numbers that make no scene."""
    width, height = size
    if frames < 1 or targets < 1 or min(width, height) < 2 * unit or not 0 <= leaving <= targets:
        raise ValueError("a scene needs frames and targets, sides of at least two targets' size, and "
                         f"no more leaving than there are; got frames={frames}, targets={targets}, "
                         f"size={size}, unit={unit:g}, leaving={leaving}")
    if (leaving or occluders) and frames < 60:
        raise ValueError("leaving targets and occluders need a scene of 60 frames or more, not "
                         f"{frames}")
    arguments = dict(locals())
    name = " ".join(f"{key}={value}" for key, value in arguments.items() if key != "photos")
    rng = np.random.default_rng(seed)
    pictures = photos or [procedural_photo(rng) for _ in range(4)]
    background = pictures[rng.integers(len(pictures))] if photos else procedural_photo(
        rng, int(max(size) * 1.2))
    if min(background.shape[:2]) < min(size):               # a photo too small for the frame
        factor = max(width / background.shape[1], height / background.shape[0])
        background = import_cv2().resize(background, None, fx=factor, fy=factor)

    def actor(sprite, path, at_first):
        size_ = at_first * np.exp(np.clip(walk(rng, frames, 1, growth), -.6, .6))
        return Actor(sprite, path, size_, walk(rng, frames, 1, turn)[:, 0])

    def roam(start):
        """A way from there that turns back where the frame ends."""
        drift = rng.normal(size=2) * speed * unit * np.arange(frames)[:, None] * .5
        return fold(start + drift + walk(rng, frames, 2, speed * unit), unit / 2,
                    np.array(size) - unit / 2)

    starts = spread(rng, targets + lookalikes, size, unit)
    sizes = unit * np.exp(rng.normal(0, .12, (targets, 2)))
    aims = []
    for k in range(targets):
        path = roam(starts[k])
        if k < leaving:
            path = path + _out_and_back(rng, path, size, unit)
        aims.append(actor(cut_out(rng, pictures[rng.integers(len(pictures))], TEXTURE), path, sizes[k]))
    doubles = [actor(aims[k % targets].sprite, roam(starts[targets + k]), sizes[k % targets])
               for k in range(lookalikes)]
    front = []
    for _ in range(occluders):
        moment = int(rng.integers(frames // 4, frames - frames // 5))
        way = rng.normal(size=2)
        way *= max(4 * unit / moment, rng.uniform(.02, .1) * unit) / np.hypot(*way)
        met = aims[rng.integers(targets)].path[moment]
        path = met + way * (np.arange(frames)[:, None] - moment)
        front.append(actor(cut_out(rng, pictures[rng.integers(len(pictures))], TEXTURE), path,
                           unit * rng.uniform(1.2, 1.7, 2)))
    actors = [*doubles, *aims, *front]
    brightness = 1 + light * np.tanh(walk(rng, frames, 1, .1)[:, 0]) if light else np.ones(frames)
    return Scene(name, background, actors, list(range(lookalikes, lookalikes + targets)), tuple(size),
                 walk(rng, frames, 2, camera * unit), brightness, blur, noise)


def fold(x, low, high):
    """x as seen in mirrors at low and high: what leaves there comes back. (..., 2) -> (..., 2)"""
    span = high - low
    return low + span - np.abs((x - low) % (2 * span) - span)


def spread(rng, count, size, unit):
    """So many places in the frame, as far from each other as a few tries allow: (count, 2)."""
    tries = rng.uniform(unit * .7, np.array(size) - unit * .7, (50, count, 2))
    apart = np.hypot(*np.moveaxis(tries[:, :, None] - tries[:, None], -1, 0))
    apart[:, np.arange(count), np.arange(count)] = np.inf
    return tries[apart.min((1, 2)).argmax()]


def _out_and_back(rng, path, size, unit):
    """What to add to a path so that it leaves by the nearer side for 10 to 25 frames: (n, 2)."""
    n = len(path)
    away = int(rng.integers(10, min(26, n - 2 * WAY_OUT - 25)))
    first = int(rng.integers(15, n - away - 2 * WAY_OUT - 10))
    out = np.interp(np.arange(n), [first, first + WAY_OUT, first + WAY_OUT + away,
                                   first + 2 * WAY_OUT + away], [0, 1, 1, 0])
    right = path[first, 0] > size[0] / 2
    edge = size[0] + unit if right else -unit
    goal = np.column_stack([edge - path[:, 0], np.zeros(n)])
    return out[:, None] * goal
