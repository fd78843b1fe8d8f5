"""Losses: how wrong a prediction is, as functions and as Keras's classes and names.

A function takes (y_true, y_pred), both (N, ..., C), and returns one value per sample, (N, ...): the
mean or sum over the last axis. A class, or `get("mse")`, reduces these to the one number that
`backward()` starts from: by default their mean ("sum_over_batch_size" in Keras's words), with
sample weights and masks.

Shapes never broadcast: y_true must have y_pred's shape, or differ only by a last axis of length 1,
as labels (N,) for predictions (N, 1) do; anything else is a ValueError.
"""

import inspect

from kernels.backend import array_module
from kernels.softmax import check_labels
from minideep import ops
from minideep.config import Configurable
from minideep.tensor import Tensor, tensor

__all__ = """BinaryCrossentropy CategoricalCrossentropy FunctionLoss GIoU Huber IoU Loss MeanAbsoluteError
MeanSquaredError SmoothL1 SparseCategoricalCrossentropy binary_crossentropy
categorical_crossentropy get giou_loss huber iou_loss mean_absolute_error mean_squared_error
smooth_l1 sparse_categorical_crossentropy xywh_to_corners""".split()

EPSILON = 1e-7  # probabilities are kept this far from 0 and 1, as in Keras


def as_pair(y_true, y_pred):
    """Both as tensors of one dtype and shape on one device, or a ValueError with both shapes."""
    y_pred = y_pred if isinstance(y_pred, Tensor) else tensor(y_pred)
    if y_pred.dtype.kind != "f":
        y_pred = ops.astype(y_pred, dtype="float32")
    if not isinstance(y_true, Tensor):
        y_true = tensor(y_true, device=y_pred.device)
    if y_true.dtype != y_pred.dtype:
        y_true = ops.astype(y_true, dtype=y_pred.dtype)
    if y_true.shape + (1,) == y_pred.shape:
        y_true = ops.expand_dims(y_true, -1)
    elif y_true.shape == y_pred.shape + (1,):
        y_pred = ops.expand_dims(y_pred, -1)
    if y_true.shape != y_pred.shape:
        raise ValueError(f"y_true has shape {y_true.shape} and y_pred {y_pred.shape}; a loss wants "
                         "them equal (only a last axis of length 1 may be missing from one)")
    if not y_pred.ndim:
        raise ValueError("a loss wants y_true and y_pred of one dimension at least, not two scalars")
    return y_true, y_pred


# -------------------------------------------------------------------------------------- regression

def mean_squared_error(y_true, y_pred):
    """(N, ..., C) -> (N, ...): the mean of (y_pred - y_true)² over the last axis."""
    y_true, y_pred = as_pair(y_true, y_pred)
    return ops.square(y_pred - y_true).mean(axis=-1)


def mean_absolute_error(y_true, y_pred):
    """(N, ..., C) -> (N, ...): the mean of |y_pred - y_true| (L1); its gradient at 0 is 0."""
    y_true, y_pred = as_pair(y_true, y_pred)
    return ops.abs(y_pred - y_true).mean(axis=-1)


def huber(y_true, y_pred, delta=1.0):
    """(N, ..., C) -> (N, ...): the mean of e²/2 where |e| <= delta, else delta·(|e| - delta/2)
    (Huber 1964)."""
    y_true, y_pred = as_pair(y_true, y_pred)
    size = ops.abs(y_pred - y_true)
    inner = ops.minimum(size, float(delta))  # no square of a large error, which could overflow
    return ops.where(size <= delta, 0.5 * inner * inner, delta * (size - 0.5 * delta)).mean(axis=-1)


def smooth_l1(y_true, y_pred, beta=1.0):
    """huber / beta: slope 1 at large errors (Girshick 2015, Fast R-CNN, eq. 3)."""
    return huber(y_true, y_pred, delta=beta) / beta


# ---------------------------------------------------------------------------------- classification

def binary_crossentropy(y_true, y_pred, from_logits=False, label_smoothing=0.0):
    """(N, ..., C) -> (N, ...): the mean of -y log p - (1-y) log(1-p) over the last axis.

    y_pred: probabilities, kept 1e-7 away from 0 and 1 (where their gradient is 0, as in Keras); or
    with from_logits=True the z of p = sigmoid(z), exact for every z.
    """
    y, p = as_pair(y_true, y_pred)
    if label_smoothing:
        y = y * (1 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        return ops.sigmoid_crossentropy(p, y).mean(axis=-1)
    p = ops.clip(p, low=EPSILON, high=1 - EPSILON)
    return -(y * ops.log(p) + (1 - y) * ops.log(1 - p)).mean(axis=-1)


def categorical_crossentropy(y_true, y_pred, from_logits=False, label_smoothing=0.0):
    """(N, ..., C), y_true one-hot or a distribution -> (N, ...): -Σ y log p over the classes.

    y_pred: probabilities, divided by their sum and clipped as in Keras, or logits.
    """
    y, p = as_pair(y_true, y_pred)
    if p.shape[-1] == 1:
        raise ValueError("categorical_crossentropy of one class is always 0; use "
                         "binary_crossentropy for predictions of shape (..., 1)")
    if label_smoothing:
        y = y * (1 - label_smoothing) + label_smoothing / p.shape[-1]
    return -(y * _log_probabilities(p, from_logits)).sum(axis=-1)


def sparse_categorical_crossentropy(y_true, y_pred, from_logits=False):
    """y_true (N, ...) or (N, ..., 1), class numbers; y_pred (N, ..., C) -> (N, ...): -log p[y]."""
    p = y_pred if isinstance(y_pred, Tensor) else tensor(y_pred)
    p = p if p.dtype.kind == "f" else ops.astype(p, dtype="float32")
    y = y_true if isinstance(y_true, Tensor) else tensor(y_true, device=p.device)
    y = y.data[..., 0] if y.ndim == p.ndim and y.shape[-1] == 1 else y.data
    if y.shape != p.shape[:-1]:
        raise ValueError(f"y_true has shape {y.shape} and y_pred {p.shape}; class numbers want "
                         f"y_pred's shape without its last axis, {p.shape[:-1]} (for one-hot "
                         "labels use categorical_crossentropy)")
    if y.dtype.kind == "f" and not bool((y == y.round()).all()):
        raise ValueError("class numbers must be whole numbers, 0, 1, 2, ...; some are not")
    y = y.astype("int64")
    if from_logits:
        return ops.softmax_crossentropy(p, y)
    check_labels(y, p.shape[-1])
    log_p = _log_probabilities(p, from_logits)
    return -ops.squeeze(ops.gather(log_p, Tensor(y[..., None]), axis=-1), -1)


def _log_probabilities(p, from_logits):
    if from_logits:
        return ops.log_softmax(p)
    return ops.log(ops.clip(p / p.sum(axis=-1, keepdims=True), low=EPSILON, high=1 - EPSILON))


# ------------------------------------------------------------------------------------------- boxes

def xywh_to_corners(boxes):
    """(..., 4): x, y (top left), width, height -> x1, y1, x2, y2."""
    xy, size = boxes[..., :2], boxes[..., 2:]
    return ops.concatenate([xy, xy + size], axis=-1)


def iou_loss(y_true, y_pred):
    """Boxes (N, ..., 4) as x1, y1, x2, y2, in any unit -> (N, ...): 1 - intersection / union.

    The two corners may come in any order; boxes of no area have an IoU of 0. Where boxes do not
    touch the gradient is 0: giou_loss has one there.
    """
    intersection, union, _ = _areas(y_true, y_pred)
    return 1 - intersection / union


def giou_loss(y_true, y_pred):
    """Boxes (N, ..., 4) as x1, y1, x2, y2 -> (N, ...) in [0, 2]: 1 - IoU + (H - U) / H, where U is
    the area of the union and H that of the smallest box around both (Rezatofighi et al. 2019,
    arXiv:1902.09630, algorithm 1)."""
    intersection, union, hull = _areas(y_true, y_pred)
    return 2 - intersection / union - union / hull


def _areas(y_true, y_pred, smallest=1e-12):
    """Areas of the intersection, the union and the hull; the last two never 0, being divisors."""
    y_true, y_pred = as_pair(y_true, y_pred)
    if y_pred.shape[-1] != 4:
        raise ValueError(f"boxes are x1, y1, x2, y2 along the last axis; got shape {y_pred.shape}")

    def corners(box):
        return (ops.minimum(box[..., :2], box[..., 2:]), ops.maximum(box[..., :2], box[..., 2:]))

    def area(low, high):
        size = ops.relu(high - low)
        return size[..., 0] * size[..., 1]

    (a1, a2), (b1, b2) = corners(y_true), corners(y_pred)
    intersection = area(ops.maximum(a1, b1), ops.minimum(a2, b2))
    union = area(a1, a2) + area(b1, b2) - intersection
    hull = area(ops.minimum(a1, b1), ops.maximum(a2, b2))
    return intersection, ops.maximum(union, smallest), ops.maximum(hull, smallest)


# ----------------------------------------------------------------------------------------- classes

class Loss(Configurable):
    """A loss function reduced to one number.

    reduction: "sum_over_batch_size" (the mean of all values, weighted or not), "sum",
    "mean_with_sample_weight" (divided by the sum of the weights), or None (no reduction).
    options: the function's own, such as from_logits=True. A subclass gives its function as
    `function(y_true, y_pred, **options)`.
    """

    function = None
    reductions = ("sum_over_batch_size", "sum", "mean_with_sample_weight", None)

    def __init__(self, reduction="sum_over_batch_size", name=None, **options):
        if reduction not in self.reductions:
            raise ValueError(f"reduction={reduction!r}; it can be one of {self.reductions}")
        known = list(inspect.signature(self.function).parameters)[2:]
        for option in options:
            if option not in known:
                raise TypeError(f"{type(self).__name__} has no option {option!r}; it has "
                                f"{['reduction', 'name', *known]}")
        self.reduction, self.options = reduction, options
        self.name = name or getattr(self.function, "__name__", "loss")

    def __call__(self, y_true, y_pred, sample_weight=None, mask=None):
        """sample_weight and mask: (N,) or the shape of the values, (N, ...). What the mask leaves
        out counts neither in the sum nor in the number that divides it."""
        values = self.function(y_true, y_pred, **self.options)
        weight = None if sample_weight is None else weights_like(values, sample_weight, "sample_weight")
        if mask is not None:
            mask = weights_like(values, mask, "mask")
            values = ops.where(mask != 0, values, 0.0)  # not NaN * 0
            weight = mask if weight is None else weight * mask
        if weight is not None:
            values = values * weight
        if self.reduction is None:
            return values
        total = values.sum()
        if self.reduction == "sum":
            return total
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            count = weight.sum()
        else:
            count = values.size if mask is None else mask.sum()
        return total / (count + (count == 0)) if isinstance(count, Tensor) else total / max(count, 1)


def weights_like(values, weight, what):
    """Weights (N,), (N, ..., 1) or of the shape of `values`, as a tensor of that shape."""
    weight = weight.data if isinstance(weight, Tensor) else tensor(weight, device=values.device).data
    shape = weight.shape
    if shape == values.shape + (1,):
        shape = values.shape
    if shape != values.shape[:len(shape)]:
        raise ValueError(f"{what} has shape {weight.shape}, the loss's values {values.shape}; give "
                         "one weight for each value or for each sample")
    weight = weight.reshape(shape + (1,) * (values.ndim - len(shape))).astype(values.dtype)
    return Tensor(array_module(weight).broadcast_to(weight, values.shape))


class FunctionLoss(Loss):
    """A loss made of any function (y_true, y_pred, **options) -> values per sample."""

    def __init__(self, function, **options):
        self.function = function
        super().__init__(**options)


def _loss_class(name, function):
    return type(name, (Loss,), {"function": staticmethod(function), "__module__": __name__,
                                "__doc__": f"{function.__name__}, reduced. {function.__doc__}"})


MeanSquaredError = _loss_class("MeanSquaredError", mean_squared_error)
MeanAbsoluteError = _loss_class("MeanAbsoluteError", mean_absolute_error)
Huber = _loss_class("Huber", huber)
SmoothL1 = _loss_class("SmoothL1", smooth_l1)
BinaryCrossentropy = _loss_class("BinaryCrossentropy", binary_crossentropy)
CategoricalCrossentropy = _loss_class("CategoricalCrossentropy", categorical_crossentropy)
SparseCategoricalCrossentropy = _loss_class("SparseCategoricalCrossentropy",
                                            sparse_categorical_crossentropy)
IoU = _loss_class("IoU", iou_loss)
GIoU = _loss_class("GIoU", giou_loss)

_names = {
    "mse": MeanSquaredError, "mae": MeanAbsoluteError, "l1": MeanAbsoluteError,
    **{c.function.__name__: c for c in (
        MeanSquaredError, MeanAbsoluteError, Huber, SmoothL1, BinaryCrossentropy,
        CategoricalCrossentropy, SparseCategoricalCrossentropy, IoU, GIoU)},
}
_names.update({c.__name__: c for c in list(_names.values())})


def get(loss):
    """A Loss from Keras's name of it ("mse", "binary_crossentropy", "Huber", ...), a function
    (y_true, y_pred) -> values per sample, or a Loss (returned as it is)."""
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in _names:
            raise ValueError(f"there is no loss {loss!r}; there are {sorted(_names)}")
        return _names[loss]()
    if callable(loss):
        return FunctionLoss(loss)
    raise TypeError(f"a loss is a name, a function or a minideep.losses.Loss; got {loss!r}")
