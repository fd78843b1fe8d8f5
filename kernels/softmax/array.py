"""All rows at once, one vector operation after the other: for NumPy and CuPy alike."""

from kernels.backend import array_module
from kernels.ladder import rung
from kernels.recurrent import sigmoid
from kernels.softmax import (
    log_softmax,
    log_softmax_grad,
    sigmoid_crossentropy,
    sigmoid_crossentropy_grad,
    softmax,
    softmax_crossentropy,
    softmax_crossentropy_grad,
    softmax_grad,
)


@rung(softmax, device="any", why="vector operations instead of Python loops")
def array(x):
    xp = array_module(x)
    y = xp.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


@rung(softmax_grad, device="any", why="vector operations instead of Python loops")
def array(g, y):  # noqa: F811
    return y * (g - (g * y).sum(axis=-1, keepdims=True))


@rung(log_softmax, device="any", why="vector operations instead of Python loops")
def array(x):  # noqa: F811
    xp = array_module(x)
    y = x - x.max(axis=-1, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis=-1, keepdims=True))
    return y


@rung(log_softmax_grad, device="any", why="vector operations instead of Python loops")
def array(g, y):  # noqa: F811
    return g - array_module(g, y).exp(y) * g.sum(axis=-1, keepdims=True)


@rung(softmax_crossentropy, device="any", why="vector operations instead of Python loops")
def array(logits, labels):  # noqa: F811
    xp = array_module(logits, labels)
    y = log_softmax.rungs["array"](logits)
    return -xp.take_along_axis(y, labels[..., None], axis=-1)[..., 0]


@rung(softmax_crossentropy_grad, device="any", why="vector operations instead of Python loops")
def array(g, logits, labels):  # noqa: F811
    xp = array_module(g, logits, labels)
    dz = softmax.rungs["array"](logits)
    dz -= labels[..., None] == xp.arange(logits.shape[-1])
    dz *= g[..., None]
    return dz


@rung(sigmoid_crossentropy, device="any", why="vector operations instead of Python loops")
def array(logits, targets):  # noqa: F811
    xp = array_module(logits, targets)
    return xp.maximum(logits, 0) - logits * targets + xp.log1p(xp.exp(-xp.abs(logits)))


@rung(sigmoid_crossentropy_grad, device="any", why="vector operations instead of Python loops")
def array(g, logits, targets):  # noqa: F811
    return g * (sigmoid(array_module(g, logits), logits) - targets)
