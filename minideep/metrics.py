"""Metrics: what is reported of a prediction, averaged over all samples seen since `reset`.

A metric's function takes (y_true, y_pred) as losses do and returns values per sample; any loss
function or name is one too. "accuracy" chooses by shapes as Keras does: y_pred (N, 1), or (N,), is
binary, labels of fewer dimensions or with a last axis of 1 are class numbers, the rest is one-hot.
"""

import numpy as np

from minideep import losses
from minideep.config import Configurable
from minideep.mode import no_grad
from minideep.tensor import Tensor

__all__ = """BinaryAccuracy CategoricalAccuracy Mean Metric SparseCategoricalAccuracy accuracy
binary_accuracy categorical_accuracy get sparse_categorical_accuracy""".split()


class Mean:
    """A running weighted mean, in double precision."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.total = self.weight = 0.0

    def update(self, values, weights=1.0):
        values = np.asarray(values, dtype=np.float64)
        weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), values.shape)
        self.total += float((values * weights).sum())
        self.weight += float(weights.sum())

    def result(self):
        """The mean so far; 0.0 before the first value, as in Keras."""
        return self.total / self.weight if self.weight else 0.0


def binary_accuracy(y_true, y_pred, threshold=0.5):
    """(N, ..., C) -> (N, ...): the share of outputs on the label's side of the threshold."""
    y_true, y_pred = losses.as_pair(y_true, y_pred)
    return (y_true == (y_pred > threshold)).mean(axis=-1)


def categorical_accuracy(y_true, y_pred):
    """y_true one-hot (N, ..., C) -> (N, ...): 1 where the largest prediction is the label's."""
    y_true, y_pred = losses.as_pair(y_true, y_pred)
    return y_true.argmax(axis=-1) == y_pred.argmax(axis=-1)


def sparse_categorical_accuracy(y_true, y_pred):
    """y_true (N, ...) or (N, ..., 1), class numbers; y_pred (N, ..., C) -> (N, ...)."""
    best = y_pred.argmax(axis=-1)
    labels = y_true if y_true.shape == best.shape else y_true.reshape(y_true.shape[:-1])
    if labels.shape != best.shape:
        raise ValueError(f"class numbers of shape {y_true.shape} for predictions {y_pred.shape}")
    return labels == best


def accuracy(y_true, y_pred):
    """Binary, sparse categorical or categorical accuracy, by the shapes (see above)."""
    if y_pred.ndim == 1:  # one number a sample, not classes along the only axis
        y_pred = y_pred.reshape(-1, 1)
    if y_pred.shape[-1] == 1:
        return binary_accuracy(y_true, y_pred)
    if y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
        return sparse_categorical_accuracy(y_true, y_pred)
    return categorical_accuracy(y_true, y_pred)


class Metric(Configurable):
    """The mean of a function over samples. A subclass has it as `function`."""

    def __init__(self, function=None, name=None, **options):
        self.function = function or self.function
        self.name, self.options, self.mean = name or self.function.__name__, options, Mean()

    def update(self, y_true, y_pred, mask=None):
        """mask: of the shape of the values, (N, ...); where it is False they do not count."""
        y_pred = y_pred if isinstance(y_pred, Tensor) else Tensor(np.asarray(y_pred))
        y_true = y_true if isinstance(y_true, Tensor) else Tensor(np.asarray(y_true))
        with no_grad():
            values = self.function(y_true.to(y_pred.device), y_pred.detach(), **self.options)
        weights = 1.0 if mask is None else losses.weights_like(values, mask, "mask").numpy()
        self.mean.update(values.numpy(), weights)

    def reset(self):
        self.mean.reset()

    def result(self):
        return self.mean.result()


class BinaryAccuracy(Metric):
    function = staticmethod(binary_accuracy)

    def __init__(self, name="binary_accuracy", threshold=0.5):
        super().__init__(name=name, threshold=threshold)


class CategoricalAccuracy(Metric):
    function = staticmethod(categorical_accuracy)

    def __init__(self, name="categorical_accuracy"):
        super().__init__(name=name)


class SparseCategoricalAccuracy(Metric):
    function = staticmethod(sparse_categorical_accuracy)

    def __init__(self, name="sparse_categorical_accuracy"):
        super().__init__(name=name)


_functions = {"acc": accuracy, **{f.__name__: f for f in (
    accuracy, binary_accuracy, categorical_accuracy, sparse_categorical_accuracy)}}


def get(metric):
    """A new or the given Metric, from "accuracy", another function's name, a loss's name or class
    ("mse"), or a function (y_true, y_pred) -> values per sample. Its name is the string given."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str) and metric in _functions:
        return Metric(_functions[metric], name=metric)
    if isinstance(metric, str):
        try:
            return Metric(losses.get(metric).function, name=metric)
        except ValueError as error:
            raise ValueError(f"there is no metric {metric!r}; there are {sorted(_functions)}, and "
                             f"of losses: {error}") from None
    if isinstance(metric, losses.Loss):
        return Metric(metric.function, name=metric.name, **metric.options)
    if callable(metric):
        return Metric(metric)
    raise TypeError(f"a metric is a name, a function or a minideep.metrics.Metric; got {metric!r}")
