"""Clips to learn tracking from: scenes rendered out of photographs, and boxed real sequences.

A `Clip` is a few small frames around one target, with the exact box and visibility in each:

    clip = render_clip(rng, photos, times=[0, 20, 21, 22])        # or real_clip(rng, sequence, ...)
    clip.frames   (T, SIDE, SIDE, 3) uint8 BGR
    clip.origins  (T, 2)  where each frame's top-left pixel lies in the clip's own plane
    clip.boxes    (T, 4)  x, y, w, h in that plane, in pixels; the target measures about UNIT pixels
    clip.visible  (T,)    the part of the target that is neither covered nor outside, 0 to 1

The idea: a network that should follow anything must see many things move. A photo is the
background, and pieces cut out of other photos move over it: the target, look-alikes and strangers
behind it, and occluders in front. Position, angle, size and light do random walks, so the true box
is known to a fraction of a pixel. Everything is decided by the `rng` passed in, so that the same
seed gives the same clip. After Gordon et al., Re3 (2018), and Held et al., GOTURN (2016).
"""
from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.opencv import import_cv2
from tracker.sequences import Sequence, find_sequences

SIDE = 96       # pixels of a clip's frames; the target lies near the middle
UNIT = 24       # the target's width and height there, about
GRAY = 127      # what lies outside of a frame
PATCH = 40      # a sprite's texture, in pixels


@dataclass
class Clip:
    frames: np.ndarray      # (T, SIDE, SIDE, 3) uint8
    origins: np.ndarray     # (T, 2) float32
    boxes: np.ndarray       # (T, 4) float32
    visible: np.ndarray     # (T,) float32


# ------------------------------------------------------------------------------- photographs


def load_photos(folder):
    """All JPEG and PNG photos of a folder at half their size, the sprites' scale: BGR arrays.

    Raises ValueError where none can be read."""
    cv2 = import_cv2()
    paths = sorted(path for path in Path(folder).iterdir()
                   if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = [cv2.imread(str(p), cv2.IMREAD_REDUCED_COLOR_2) for p in paths]
    photos = [p for p in photos if p is not None and min(p.shape[:2]) >= 64]
    if not photos:
        raise ValueError(f"no photo in {folder}: expected .jpg or .png files of 128 pixels or more")
    return photos


def procedural_photo(rng, size=200):
    """A picture made of noise of many scales with hard-edged shapes on it (size, size, 3) uint8.

    What stands in for a photograph where none is given."""
    cv2 = import_cv2()
    picture = np.zeros((size, size, 3), np.float32)
    for cells in (3, 6, 12, 25, 50, 100):       # 1/f noise, as natural pictures have
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        noise = .5 * noise + .5 * noise.mean(2, keepdims=True)
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) / cells ** .5
    picture = np.clip(rng.uniform(60, 190, 3) + rng.uniform(25, 60) * picture, 0, 255)
    picture = picture.astype(np.uint8)
    for _ in range(rng.integers(4, 16)):
        points = (outline(rng) * rng.uniform(10, 60, 2) + rng.uniform(0, size, 2)).astype(np.int32)
        cv2.fillPoly(picture, [points], rng.integers(0, 256, 3).tolist(), cv2.LINE_AA)
    return picture


# ------------------------------------------------------------------------------- sprites


def outline(rng, points=24):
    """A random star-shaped outline (points, 2) whose bounds are exactly [-.5, .5] x [-.5, .5]."""
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False) + rng.uniform(0, 2 * np.pi)
    power = rng.choice([2., 2.5, 4., 10.])      # an ellipse ... nearly a rectangle
    c, s = np.cos(theta), np.sin(theta)
    radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    k = np.array([[2], [3], [5]])
    bumps = rng.uniform(-.25, .25, (3, 1)) * rng.random()
    radius = radius * (1 + bumps * np.cos(k * theta + rng.uniform(0, 6.3, (3, 1)))).prod(0)
    shape = np.stack([radius * c, radius * s], 1)
    low, high = shape.min(0), shape.max(0)
    return ((shape - low) / (high - low) - .5).astype(np.float32)


@dataclass
class Sprite:
    """A cut-out of a photo: texture (P, P, 3) and soft mask (P, P), and its outline."""
    texture: np.ndarray
    mask: np.ndarray
    shape: np.ndarray


def cut_out(rng, photo, side=PATCH):
    """A textured piece of the photo (the most textured of three tries), as a Sprite with a texture
    of side x side pixels."""
    cv2 = import_cv2()
    height, width = photo.shape[:2]
    best, best_contrast = None, -1.
    for _ in range(3):
        w = int(rng.uniform(.15, .6) * width)
        h = int(rng.uniform(.15, .6) * height)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        piece = photo[y:y + h, x:x + w]
        contrast = piece[::4, ::4].std()
        if contrast > best_contrast:
            best, best_contrast = piece, contrast
        if contrast > 30:
            break
    texture = cv2.resize(best, (side, side), interpolation=cv2.INTER_AREA)
    shape = outline(rng)
    # fillPoly also fills the border pixels: drawn four times as large, that is little
    mask = np.zeros((4 * side, 4 * side), np.uint8)
    corners = ((shape + .5) * 4 * side - .5) * 16       # pixel centres, in 1/16 pixels
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255, cv2.LINE_8, 4)
    mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    return Sprite(texture, mask, shape)


def pose_matrix(center, size, angle):
    """The map (2, 3) of unit coordinates [-.5, .5]² to pixels: turn, stretch, shift."""
    c, s = np.cos(angle), np.sin(angle)
    w, h = size
    return np.array([[c * w, -s * h, center[0]], [s * w, c * h, center[1]]])


def bounds(sprite, pose):
    """x, y, w, h around the sprite's outline under that pose: the exact box."""
    points = sprite.shape @ pose[:, :2].T + pose[:, 2]
    low, high = points.min(0), points.max(0)
    return np.array([*low, *(high - low)])


def draw(canvas, sprite, pose, gain=1.):
    """Blend the sprite onto the canvas (H, W, 3 uint8, in place).

    Returns the part of the canvas that it touches (a pair of slices) and its alpha there
    (float32), or (None, None) when it lies outside. Pixel (i, j) covers [i, i+1) x [j, j+1)."""
    cv2 = import_cv2()
    x, y, w, h = bounds(sprite, pose)
    x0, y0 = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    x1 = min(int(np.ceil(x + w)), canvas.shape[1])
    y1 = min(int(np.ceil(y + h)), canvas.shape[0])
    if x1 <= x0 or y1 <= y0:
        return None, None
    side = len(sprite.mask)
    to_pixels = pose @ np.array([[1 / side, 0, -.5], [0, 1 / side, -.5], [0, 0, 1]])
    # in pixel-centre coordinates: a centre (i) lies at i + .5
    to_pixels[:, 2] += to_pixels[:, :2] @ [.5, .5] - .5 - [x0, y0]
    extent = (x1 - x0, y1 - y0)
    texture = cv2.warpAffine(sprite.texture, to_pixels, extent, flags=cv2.INTER_LINEAR,
                             borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(sprite.mask, to_pixels, extent, flags=cv2.INTER_LINEAR)
    if gain != 1.:
        texture = cv2.convertScaleAbs(texture, alpha=gain)
    alpha = alpha.astype(np.float32) * (1 / 255)
    where = slice(y0, y1), slice(x0, x1)
    canvas[where] = cv2.blendLinear(texture, canvas[where].copy(), alpha, 1 - alpha)
    return where, alpha


# ------------------------------------------------------------------------------- scenes


@functools.cache
def _memory(steps, memory=.8):
    """The matrix (steps, steps) that makes a walk's positions out of kicks to its velocity:
    v[t] = memory v[t-1] + kick[t], v[0] = kick[0] / √(1 - memory²), x[t] = v[1] + ... + v[t]."""
    lag = np.arange(steps)[:, None] - np.arange(steps)
    velocity = np.where(lag >= 0, memory ** np.maximum(lag, 0), 0)
    velocity[:, 0] /= (1 - memory ** 2) ** .5
    velocity[0] = 0
    return np.cumsum(velocity, 0) * (1 - memory ** 2) ** .5


def walk(rng, steps, width, scale):
    """A random walk (steps, width) from 0 whose velocity, of deviation `scale`, is remembered."""
    return _memory(steps) @ rng.normal(size=(steps, width)) * scale


def log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass
class Other:
    """A sprite that is not the target."""
    sprite: Sprite
    front: bool             # does it pass in front of the target, or behind?
    path: np.ndarray        # (steps, 2): its centre
    size: np.ndarray
    angle: float


class Scene:
    """A background, a target and others, and where each of them is at every time.

    times: when it will be looked at; others come near then. occlusion: how likely each of the first
    two others passes in front."""

    def __init__(self, rng, photos, times, occlusion):
        steps = int(max(times)) + 1
        self.background, source = _pick(rng, photos), _pick(rng, photos)
        self.target = cut_out(rng, source)

        # The random walks, in units of the target's size where they are lengths.
        self.path = walk(rng, steps, 2, log_uniform(rng, .01, .25)) * UNIT
        self.angle = walk(rng, steps, 1, log_uniform(rng, .001, .06))[:, 0]
        growth = np.clip(walk(rng, steps, 2, log_uniform(rng, .002, .03)), -.7, .7)
        growth = np.clip(growth + walk(rng, steps, 1, log_uniform(rng, .002, .03)), -.7, .7)
        self.size = UNIT * np.exp(rng.normal(0, .12, 2) + growth)
        self.light = 1 + .5 * np.tanh(walk(rng, steps, 1, .02)[:, 0])
        # The camera follows, more or less: the background moves by what is left over.
        follow = 1 - rng.uniform(0, 1)
        shake = walk(rng, steps, 2, log_uniform(rng, .005, .1)) * UNIT
        self.camera = follow * self.path + shake
        self.zoom, self.turn = log_uniform(rng, .5, 1.3), rng.uniform(-.3, .3)

        self.others = [self._other(rng, photos, source, times, index < 2 and
                                   rng.random() < occlusion)
                       for index in range(rng.integers(1, 6))]
        self.middle = np.array(self.background.shape[1::-1]) / 2 + rng.normal(0, 12, 2)

    def _other(self, rng, photos, source, times, front):
        twin = rng.random() < .3            # cut from the target's own photo
        sprite = cut_out(rng, source if twin else _pick(rng, photos))
        if twin and rng.random() < .5:
            sprite = self.target            # its double
        steps = len(self.path)
        drift = walk(rng, steps, 2, log_uniform(rng, .005, .15)) * UNIT
        size = UNIT * np.exp(rng.normal(0, .35, 2))
        moment = int(times[rng.integers(len(times))])
        if front:                           # crosses the target's path, at about that moment
            hit = moment + rng.integers(-4, 5)
            speed = rng.normal(size=2) * log_uniform(rng, .01, .3) * UNIT
            where = self.path[np.clip(hit, 0, steps - 1)] + rng.normal(0, .3, 2) * UNIT
            path = where + speed * (np.arange(steps)[:, None] - hit)
        else:                               # is beside the target at that moment
            distance, theta = rng.uniform(.7, 1.8) * UNIT, rng.uniform(0, 2 * np.pi)
            beside = self.path[moment] + distance * np.array([np.cos(theta), np.sin(theta)])
            path = beside + drift - drift[moment]
        return Other(sprite, front, path, size, rng.uniform(-.6, .6))

    def look(self, t, origin, covered=True):
        """SIDE x SIDE pixels from `origin` at time t, the target's box in them, and how much of it
        is visible. covered=False leaves out what is in front."""
        frame = self._backdrop(t, origin)
        for other in self.others:
            if not other.front:
                draw(frame, other.sprite, other_pose(other, t, origin))
        pose = pose_matrix(self.path[t] - origin, self.size[t], self.angle[t])
        where, alpha = draw(frame, self.target, pose, self.light[t])
        seen = np.zeros((SIDE, SIDE), np.float32)
        if where is not None:
            seen[where] = alpha
        for other in self.others:
            if other.front and covered:
                where, alpha = draw(frame, other.sprite, other_pose(other, t, origin))
                if where is not None:
                    seen[where] *= 1 - alpha
        whole = abs(np.linalg.det(pose[:, :2])) * area(self.target.shape)
        return frame, bounds(self.target, pose), min(seen.sum() / whole, 1.)

    def _backdrop(self, t, origin):
        """The background photo as it lies there: photo = zoom·R·(x - camera) + middle."""
        cv2 = import_cv2()
        c, s = np.cos(self.turn), np.sin(self.turn)
        to_photo = self.zoom * np.array([[c, -s], [s, c]])
        shift = to_photo @ (origin + .5 - self.camera[t]) + self.middle - .5
        return cv2.warpAffine(self.background, np.column_stack([to_photo, shift]), (SIDE, SIDE),
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_REFLECT)


def render_clip(rng, photos, times, occlusion=.5):
    """A rendered clip of the frames `times` (whole numbers, from 0; the first is the template).

    photos: a list of BGR pictures. occlusion: how likely something passes in front.
    In the first frame nothing covers the target, as when a person draws its box."""
    scene = Scene(rng, photos, times, occlusion)
    frames, origins, boxes, visible = [], [], [], []
    for i, t in enumerate(times):
        origin = np.round(scene.path[t] - SIDE / 2 + rng.uniform(-10, 10, 2))
        frame, box, seen = scene.look(t, origin, covered=i > 0)
        frames.append(frame)
        origins.append(origin)
        boxes.append(box + [*origin, 0, 0])
        visible.append(seen)
    return Clip(np.stack(frames), *(np.array(a, np.float32) for a in (origins, boxes, visible)))


def other_pose(other, t, origin):
    return pose_matrix(other.path[t] - origin, other.size, other.angle)


def _pick(rng, photos):
    return photos[rng.integers(len(photos))]


def area(shape):
    """The area inside an outline (the shoelace formula)."""
    x, y = shape.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


# ------------------------------------------------------------------------------- real sequences


def load_sequences(folder):
    """Every sequence in `folder` (see tracker.sequences) with its frames in memory; frames of which
    nobody noted whether the target is there are left out."""
    return [Sequence(s.name, [frame for frame, noted in zip(s.frames, s.noted) if noted],
                     s.boxes[s.noted]) for s in find_sequences(folder)]


def real_clip(rng, sequence, unroll):
    """A clip of 2 + unroll frames of a real sequence: a template frame from anywhere in it, a
    start frame, and `unroll` frames after it (or before it: time may run backwards), warped so
    that the target's first width and height become UNIT pixels each."""
    cv2 = import_cv2()
    total = len(sequence.frames)
    present = np.flatnonzero(~np.isnan(sequence.boxes[:, 0]))
    step = int(rng.choice([1, 1, 1, 2, 3]))
    while step > 1 and step * unroll >= total:
        step -= 1
    unroll_span = min(step * unroll, total - 1)
    start = int(rng.choice(present))
    direction = 1 if rng.random() < .5 else -1
    if not 0 <= start + direction * unroll_span < total:
        direction = -direction
    times = start + direction * step * np.arange(unroll + 1)
    times = np.clip(times, 0, total - 1)        # a target at rest, where the sequence is too short
    near = present[np.abs(present - start) <= (10 if rng.random() < .3 else 120)]
    times = np.concatenate([[rng.choice(near)], times])

    truth = sequence.boxes[times]
    seen = ~np.isnan(truth[:, 0])
    for i in range(1, len(truth)):              # an absent target is taken to stand still
        if not seen[i]:
            truth[i] = truth[i - 1]
    scale = UNIT / np.maximum(truth[1, 2:], 1) * np.exp(rng.normal(0, .08, 2))     # px -> clip
    template_scale = UNIT / np.maximum(truth[0, 2:], 1)
    frames = np.empty((len(times), SIDE, SIDE, 3), np.uint8)
    origins = np.empty((len(times), 2), np.float32)
    boxes = np.empty((len(times), 4), np.float32)
    for i, t in enumerate(times):
        k = template_scale if i == 0 else scale     # the template may be of another size
        box = truth[i] * [*k, *k]
        origin = box[:2] + box[2:] / 2 - SIDE / 2 + rng.uniform(-10, 10, 2)
        frame = sequence.frames[t]
        shrink = int(min(1 / k.max(), 8))
        corner = np.zeros(2)                        # of `frame` in the whole frame, in its pixels
        if shrink >= 2:                             # average first, for else pixels are skipped
            frame, corner = _shrunk_region(frame, origin / k, SIDE / k, shrink)
            k = k * shrink
        matrix = np.array([[1 / k[0], 0, (origin[0] + .5) / k[0] - corner[0] - .5],
                           [0, 1 / k[1], (origin[1] + .5) / k[1] - corner[1] - .5]])
        frames[i] = cv2.warpAffine(frame, matrix, (SIDE, SIDE),
                                   flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                   borderMode=cv2.BORDER_CONSTANT, borderValue=(GRAY,) * 3)
        origins[i], boxes[i] = origin, box
    return Clip(frames, origins, boxes, seen.astype(np.float32))


def _shrunk_region(frame, corner, size, factor):
    """The part of the frame that is needed, averaged over factor x factor pixels; its corner."""
    height, width = frame.shape[:2]
    x0, y0 = np.clip(np.floor(corner).astype(int) - factor, 0, [width - factor, height - factor])
    x1 = int(np.clip(corner[0] + size[0] + factor, x0 + factor, width))
    y1 = int(np.clip(corner[1] + size[1] + factor, y0 + factor, height))
    w, h = (x1 - x0) // factor, (y1 - y0) // factor
    part = frame[y0:y0 + h * factor, x0:x0 + w * factor]
    cv2 = import_cv2()
    small = cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA)
    return small, np.array([x0, y0]) / factor


# ------------------------------------------------------------------------------- augmentation


def augment(rng, clip):
    """The clip mirrored (half of the time), re-coloured, blurred and with noise; in place."""
    cv2 = import_cv2()
    frames = clip.frames
    tall = frames.reshape(-1, SIDE, 3)          # (T·SIDE, SIDE, 3): what acts on single pixels
    if rng.random() < .5:                       # mirrored left to right, in the clip's plane
        tall = cv2.flip(tall, 1)
        clip.origins[:, 0] = -clip.origins[:, 0] - SIDE
        clip.boxes[:, 0] = -clip.boxes[:, 0] - clip.boxes[:, 2]
    gray = rng.random() < .15
    gains = rng.uniform(.75, 1.3) * rng.uniform(.85, 1.15, 3)
    shift = rng.uniform(-25, 25)
    table = np.arange(256)[:, None] * gains + shift                         # (256, 3)
    table = np.clip(table, 0, 255).astype(np.uint8)[None]                   # (1, 256, 3)
    blur = rng.uniform(.4, 1.6) if rng.random() < .25 else 0
    coarse = rng.uniform(1.5, 5) if rng.random() < .25 else 0               # a tiny target
    noise = rng.uniform(2, 12) if rng.random() < .25 else 0
    tall = cv2.LUT(tall, table)
    if gray:
        tall = cv2.cvtColor(cv2.cvtColor(tall, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    clip.frames = tall.reshape(frames.shape)
    for frame in clip.frames:
        if coarse:
            side = int(SIDE / coarse)
            small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
            cv2.resize(small, (SIDE, SIDE), dst=frame, interpolation=cv2.INTER_LINEAR)
        if blur:
            cv2.GaussianBlur(frame, (0, 0), blur, dst=frame)
        if noise:
            grain = rng.integers(0, 256, frame.shape, dtype=np.uint8)
            cv2.addWeighted(frame, 1, grain, noise / 74, -127.5 * noise / 74, dst=frame)
    return clip


def cut(frame, box, size, out=None):
    """The box (x, y, w, h, in the frame's pixels) of the frame, as size x size pixels, bilinear.

    The same numbers as `minideep.ops.crop` inside the frame; made by OpenCV, since training cuts
    a thousand of them a second. Beyond the frame its border is repeated."""
    cv2 = import_cv2()
    x, y, w, h = box
    matrix = np.array([[w / size, 0, x + .5 * w / size - .5],
                       [0, h / size, y + .5 * h / size - .5]])
    return cv2.warpAffine(frame, matrix, (size, size), dst=out,
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REPLICATE)
