"""A small trained detector of the demo's objects: it starts tracks without a hand-drawn box.

    detect = ObjectDetector.load()              # or .load(classes=["cup"])
    boxes, scores = detect(frame)               # (D, 4) x, y, w, h in pixels; (D,), 0 to 1
    boxes, scores, classes = detect.find(frame) # the same, and (D,) numbers into CLASSES

Six convolutions look at 65 x 65 pixels around each cell of 8 x 8; a seventh says, for each class,
whether an object's centre is there, and where its box lies (Zhou et al., Objects as Points, 2019).
The same network looks at the frame at its own size, a half, a quarter and an eighth, so it has to
know objects of 26 to 80 pixels only. It knows what it was trained on, which is little: pedestrians
from a distance before one camera, and one cup (tracker.object_detector_training; how well, says
tracker.evaluate_detector).
"""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from minideep import layers, no_grad, tensor
from minideep.models import Model
from minideep.serialization import assign, load_arrays
from tracker.boxes import check_frame, iou
from tracker.opencv import import_cv2

CLASSES = ("person", "cup")
STRIDE = 8              # pixels, each way, that a cell stands for
GRAY = 128.             # pixels are (p - GRAY) / GRAY to the network, and beyond the frame 0
UNIT = 32.              # pixels: a box is foretold as the logarithm of its size in such units
LARGEST = 768           # pixels: larger frames are shrunk to that first
LEVELS, SMALLEST = 4, 48    # sizes at which a frame is looked at, each half of the one before,
#                             while its shorter side has so many pixels
SURE = .5               # the least score of a detection
OVERLAP = .5            # of two boxes of a class, from which on they are one object
WEIGHTS = Path(__file__).parent / "weights" / "object_detector.safetensors"


class ObjectNetwork(Model):
    """Crops (N, H, W, 3), BGR, 0 to 255, to (N, H/8, W/8, 2 + 4); 135,526 weights.

    The first are the logits of CLASSES, "its centre is in this cell"; the last the box's: centre x
    and y from the cell's, in cells, and the logarithms of width and height in UNITs. H and W are
    multiples of 8 (ValueError otherwise). Cell (i, j) covers the pixels [8 j, 8 j + 8) across and
    [8 i, 8 i + 8) down."""

    def __init__(self, **options):
        super().__init__(**options)
        he = {"activation": "relu", "kernel_initializer": "he_normal"}
        self.conv1 = layers.Conv2D(16, 5, 2, ((1, 2), (1, 2)), **he)
        self.conv2 = layers.Conv2D(32, 3, 2, 1, **he)
        self.conv3 = layers.Conv2D(64, 3, 2, 1, **he)
        self.conv4 = layers.Conv2D(64, 3, 1, 1, **he)
        self.conv5 = layers.Conv2D(64, 3, 1, 1, **he)
        self.conv6 = layers.Conv2D(64, 3, 1, 1, **he)
        self.head = layers.Conv2D(len(CLASSES) + 4, 1)
        self.build((None, STRIDE, STRIDE, 3))
        # most cells hold no centre: with a prior of 1 % the first steps need not learn that
        bias = np.array([math.log(.01 / .99)] * len(CLASSES) + [0] * 4, np.float32)
        assign({"bias": self.head.bias}, {"bias": bias})

    def build(self, input_shape):
        size = input_shape
        for layer in self._layers():
            layer.build(size)
            size = layer.compute_output_shape(size)

    def _layers(self):
        return (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5, self.conv6, self.head)

    def call(self, crops):
        if crops.ndim != 4 or crops.shape[3] != 3 or any(s % STRIDE for s in crops.shape[1:3]):
            raise ValueError(f"crops have to be (N, H, W, 3) with H and W multiples of {STRIDE}, "
                             f"not {crops.shape}")
        x = (crops - GRAY) * (1 / GRAY)
        for layer in self._layers():
            x = layer(x)
        return x


class ObjectDetector:
    """See the head of this file. classes: of which to tell, names in CLASSES; None: of all."""

    def __init__(self, network, classes=None):
        wrong = [name for name in classes or () if name not in CLASSES]
        if wrong or (classes is not None and not classes):
            raise ValueError(f"the detector knows {' and '.join(CLASSES)}, not "
                             f"{', '.join(map(repr, wrong)) or 'nothing'}")
        self.network = network
        self.classes = [CLASSES.index(name) for name in classes or CLASSES]

    @classmethod
    def load(cls, path=None, classes=None):
        """With the weights in a safetensors file; None: those that come with the package.
        Raises FileNotFoundError where there is none, ValueError for weights of something else."""
        network = ObjectNetwork()
        path = WEIGHTS if path is None else Path(path)
        assign(network.named_weights(), load_arrays(path)[0], str(path))
        return cls(network, classes)

    def __call__(self, frame):
        """(boxes (D, 4), scores (D,)) of what is in a frame, the surest first: a MultiTracker's
        `detect`."""
        return self.find(frame)[:2]

    def find(self, frame, least=SURE):
        """(boxes (D, 4), scores (D,), classes (D,)) with scores of `least` and more."""
        parts = [self._look(image, scale, least) for image, scale in pyramid(check_frame(frame))]
        boxes, scores, classes = (np.concatenate(part) for part in zip(*parts))
        size = np.array(frame.shape[1::-1])
        corners = np.clip([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 0, size)
        boxes = np.hstack([corners[0], corners[1] - corners[0]])
        kept = [k for c in self.classes for k in
                suppress(boxes, np.where(classes == c, scores, 0))]
        kept = np.array(sorted(kept, key=lambda k: -scores[k]), int)
        return boxes[kept], scores[kept], classes[kept]

    def _look(self, image, scale, least):
        """What is found in the frame at one size, in the frame's own pixels."""
        h, w = (-n % STRIDE for n in image.shape[:2])
        image = np.pad(image.astype(np.float32), ((0, h), (0, w), (0, 0)), constant_values=GRAY)
        with no_grad():
            answer = self.network(tensor(image[None])).numpy()[0]       # (H/8, W/8, 2 + 4)
        boxes, scores, classes = decode(answer, least)
        return boxes / scale, scores, classes


def pyramid(frame):
    """Yield the frame at LEVELS sizes: (image, its size relative to the frame's, x and y)."""
    cv2 = import_cv2()
    height, width = frame.shape[:2]
    scale = min(1., LARGEST / max(height, width))
    for _ in range(LEVELS):
        w, h = max(round(width * scale), 1), max(round(height * scale), 1)
        image = frame if scale == 1 else cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA)
        yield image, np.tile([w / width, h / height], 2)
        scale /= 2
        if min(height, width) * scale < SMALLEST:
            return


def decode(answer, least):
    """Boxes (D, 4), scores (D,) and classes (D,) out of the network's answer (h, w, 2 + 4): the
    cells whose score is `least` and no smaller than that of their eight neighbours."""
    scores = 1 / (1 + np.exp(-answer[..., :len(CLASSES)].astype(np.float64)))   # (h, w, classes)
    h, w, _ = scores.shape
    around = np.pad(scores, ((1, 1), (1, 1), (0, 0)))
    highest = np.max([around[i:i + h, j:j + w] for i in range(3) for j in range(3)], 0)
    i, j, c = np.nonzero((scores >= least) & (scores == highest))
    box = answer[i, j, len(CLASSES):].astype(np.float64)                # (D, 4)
    middle = (np.stack([j, i], 1) + .5 + box[:, :2]) * STRIDE
    size = UNIT * np.exp(np.clip(box[:, 2:], -4, 4))
    return np.hstack([middle - size / 2, size]), scores[i, j, c], c


def suppress(boxes, scores, overlap=OVERLAP):
    """The numbers of the boxes that stay, the highest score first, when each removes those of lower
    scores that overlap it more (greedy non-maximum suppression). A score or an area of 0 never
    stays."""
    order = [k for k in np.argsort(-scores, kind="stable")
             if scores[k] > 0 and (boxes[k, 2:] > 0).all()]
    kept = []
    for k in order:
        if not kept or iou(boxes[k], boxes[kept]).max() <= overlap:
            kept.append(k)
    return kept
