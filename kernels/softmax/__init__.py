"""Softmax, its logarithm, and the two cross-entropies, with their gradients.

    softmax(x)_k = exp(x_k) / Σ_j exp(x_j)              log_softmax(x)_k = x_k - log Σ_j exp(x_j)

over the last axis, C numbers. All of them subtract the largest number first, so that nothing
overflows. The losses take logits z, the numbers before softmax or sigmoid:

    softmax_crossentropy:  -log softmax(z)_label        gradient  softmax(z) - [k = label]
    sigmoid_crossentropy:  -y log σ(z) - (1 - y) log(1 - σ(z)) = max(z, 0) - z·y + log(1 + exp(-|z|))
                                                        gradient  σ(z) - y
"""

from kernels.backend import is_array
from kernels.ladder import ladder


@ladder
def softmax(x):
    """x (..., C) -> (..., C). Raises ValueError where C is 0."""
    return (_rows("x", x),)


@ladder
def softmax_grad(g, y):
    """Gradient of Σ g·softmax(x), where y = softmax(x): y·(g - Σ_k g_k y_k)."""
    return _alike(g=g, y=_rows("y", y))


@ladder
def log_softmax(x):
    """x (..., C) -> (..., C). Raises ValueError where C is 0."""
    return (_rows("x", x),)


@ladder
def log_softmax_grad(g, y):
    """Gradient of Σ g·log_softmax(x), where y = log_softmax(x): g - exp(y)·Σ_k g_k."""
    return _alike(g=g, y=_rows("y", y))


@ladder
def softmax_crossentropy(logits, labels):
    """logits (..., C), labels (...): class numbers 0 ... C - 1, int64 -> the loss of each (...)."""
    return _rows("logits", logits), _labels(labels, logits)


@ladder
def softmax_crossentropy_grad(g, logits, labels):
    """Gradient of Σ g·softmax_crossentropy(logits, labels) for the logits; g (...)."""
    _floats("g", g)
    if g.shape != logits.shape[:-1]:
        raise ValueError(f"g must have the shape of the labels, {logits.shape[:-1]}, got {g.shape}")
    return g, _rows("logits", logits), _labels(labels, logits)


@ladder
def sigmoid_crossentropy(logits, targets):
    """Number by number: logits and targets (from 0 to 1) of one shape -> the loss, that shape."""
    return _alike(logits=logits, targets=targets)


@ladder
def sigmoid_crossentropy_grad(g, logits, targets):
    """Gradient of Σ g·sigmoid_crossentropy(logits, targets) for the logits."""
    return _alike(g=g, logits=logits, targets=targets)


def check_labels(labels, classes):
    """Raise ValueError for class numbers that are not in 0 ... classes - 1."""
    if labels.size and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(
            f"class numbers must lie in 0 ... {classes - 1}, as there are {classes} classes; got "
            f"{int(labels.min())} ... {int(labels.max())}"
        )


def _labels(labels, logits):
    if not is_array(labels) or labels.dtype != "int64":
        raise TypeError("labels must be an array of int64; labels.astype('int64') makes one")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have the shape of the logits without the last axis, {logits.shape[:-1]}, "
            f"got {labels.shape}"
        )
    check_labels(labels, logits.shape[-1])
    return labels


def _rows(name, value):
    _floats(name, value)
    if not value.ndim or not value.shape[-1]:
        raise ValueError(f"{name} needs a last axis of one number or more, got {value.shape}")
    return value


def _alike(**arrays):
    shape = next(iter(arrays.values())).shape
    for name, value in arrays.items():
        _floats(name, value)
        if value.shape != shape:
            first = next(iter(arrays))
            raise ValueError(f"{name} must have the shape of {first}, {shape}, got {value.shape}")
    return tuple(arrays.values())


def _floats(name, value):
    if not is_array(value):
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}; numpy.asarray makes it one"
        )
    if value.dtype.kind != "f":
        raise TypeError(f"{name} must hold floating point numbers, got {value.dtype}")


# The rungs, from the formula upward.
from kernels.softmax import formula, array, compiled, cuda_raw  # noqa: E402, F401, I001
