"""What is hard about a sequence: its dataset's own attributes, or what boxes and frames tell.

Where a dataset says what its sequences are like (OTB, LaSOT and UAV123 in their att/ files, VOT by
frame in its *.tag files, GOT-10k in its labels), that is taken. For a sequence without any, these
are computed; a sequence has one, in all of its frames, when

    scale change         the box's area leaves [1/2, 2] of the first one's          (OTB's rule)
    aspect change        width / height leaves [1/2, 2] of the first one's          (LaSOT's rule)
    fast motion          the centre moves by more than half of √(w·h) from a frame to the next
    small target         √(w·h) is below 20 pixels in some frame                (OTB's 400 pixels)
    absence              the target is absent for a while after the first frame
    at the border        the box comes to within a pixel of the frame's border, or crosses it
    light change         the target's mean grey leaves [1/1.4, 1.4] of the first frame's
    like its surround    grey histograms of the box and of a ring around it as wide as half of it
                         have more than 0.75 in common: low contrast, or clutter

The last two look at twelve frames spread over the sequence; the last one takes their median.
"""

import numpy as np

from tracker.boxes import centre, clip
from tracker.sequences import pick

LOOKS = 12      # frames that are looked at
BINS = 16       # of a grey histogram


def find_attributes(sequences):
    """{attribute: {sequence's name: (n,) bool, the frames that have it}}, the most frequent first.

    Only attributes that some sequence has; sequences without it are not in its dict.
    """
    found = {}
    for sequence in sequences:
        tags = sequence.attributes or {name: np.ones(len(sequence), bool)
                                       for name in computed(sequence)}
        for name, frames in tags.items():
            if frames.any():
                found.setdefault(name, {})[sequence.name] = frames
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def computed(sequence):
    """The names of the attributes that a sequence has by the rules above."""
    start, present = int(sequence.present.argmax()), sequence.present
    boxes = sequence.boxes[present]                                     # (m, 4)
    frames = np.flatnonzero(present)
    chosen = frames[np.linspace(0, len(frames) - 1, LOOKS).round().astype(int)]
    looks = pick(sequence.frames, chosen)
    height, width = looks[chosen[0]].shape[:2]
    side = np.sqrt(boxes[:, 2:].prod(1))                                # (m,)
    steps = np.hypot(*np.diff(centre(boxes), axis=0).T)[np.diff(frames) == 1]
    inner = clip(boxes, width - 1, height - 1)
    inner = (inner[:, :2] >= 1) & np.isclose(inner[:, 2:], boxes[:, 2:])
    greys, likeness = zip(*(_look(looks[i], sequence.boxes[i]) for i in chosen))
    rules = {
        "scale change": _leaves(side ** 2, 2),
        "aspect change": _leaves(boxes[:, 2] / boxes[:, 3], 2),
        "fast motion": (steps > .5 * side[:-1][np.diff(frames) == 1]).any(),
        "small target": (side < 20).any(),
        "absence": sequence.absent[start:].any(),
        "at the border": not inner.all(),
        "light change": _leaves(np.array(greys) + 1, 1.4),
        "like its surround": np.median(likeness) > .75,
    }
    return [name for name, holds in rules.items() if holds]


def _leaves(values, factor):
    """Whether values (m,) get `factor` times larger or smaller than the first."""
    ratio = values / values[0]
    return (ratio > factor).any() or (ratio < 1 / factor).any()


def _look(frame, box):
    """The mean grey in the box, and what its histogram shares with that of the ring around it."""
    grey = frame.mean(2)
    height, width = grey.shape
    ring = np.array([box[0] - box[2] / 2, box[1] - box[3] / 2, 2 * box[2], 2 * box[3]])
    counts = []
    for region in (box, ring):
        x, y, w, h = clip(region, width, height)
        part = grey[int(y):max(int(np.ceil(y + h)), int(y) + 1),
                    int(x):max(int(np.ceil(x + w)), int(x) + 1)]
        counts.append((part.sum(), np.histogram(part, BINS, (0, 256))[0]))
    (total, inner), (_, outer) = counts
    outer = outer - inner                                               # (BINS,): the ring alone
    if not inner.sum() or not outer.sum():      # the box lies outside, or fills the frame
        return 0., 0.
    return total / inner.sum(), np.minimum(inner / inner.sum(), outer / outer.sum()).sum()
