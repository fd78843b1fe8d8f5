"""One row and one number at a time, as the formulas are written: the oracle of the other rungs."""

import math

import numpy as np

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


@rung(softmax, device="cpu", why="the definition, row by row")
def formula(x):
    y = np.empty_like(x)
    for row in np.ndindex(x.shape[:-1]):
        top = max(x[row])
        total = sum(math.exp(v - top) for v in x[row])
        y[row] = [math.exp(v - top) / total for v in x[row]]
    return y


@rung(softmax_grad, device="cpu", why="the chain rule, row by row")
def formula(g, y):  # noqa: F811
    dx = np.empty_like(y)
    for row in np.ndindex(y.shape[:-1]):
        mean = sum(a * b for a, b in zip(g[row], y[row]))
        dx[row] = [b * (a - mean) for a, b in zip(g[row], y[row])]
    return dx


@rung(log_softmax, device="cpu", why="the definition, row by row")
def formula(x):  # noqa: F811
    y = np.empty_like(x)
    for row in np.ndindex(x.shape[:-1]):
        top = max(x[row])
        total = math.log(sum(math.exp(v - top) for v in x[row]))
        y[row] = [v - top - total for v in x[row]]
    return y


@rung(log_softmax_grad, device="cpu", why="the chain rule, row by row")
def formula(g, y):  # noqa: F811
    dx = np.empty_like(y)
    for row in np.ndindex(y.shape[:-1]):
        total = sum(g[row])
        dx[row] = [a - math.exp(b) * total for a, b in zip(g[row], y[row])]
    return dx


@rung(softmax_crossentropy, device="cpu", why="the definition, row by row")
def formula(logits, labels):  # noqa: F811
    loss = np.empty(labels.shape, logits.dtype)
    for row in np.ndindex(labels.shape):
        loss[row] = -log_softmax.rungs["formula"](logits[row])[labels[row]]
    return loss


@rung(softmax_crossentropy_grad, device="cpu", why="the chain rule, row by row")
def formula(g, logits, labels):  # noqa: F811
    dz = softmax.rungs["formula"](logits)
    for row in np.ndindex(labels.shape):
        dz[row][labels[row]] -= 1
        dz[row] *= g[row]
    return dz


@rung(sigmoid_crossentropy, device="cpu", why="the definition, number by number")
def formula(logits, targets):  # noqa: F811
    loss = np.empty_like(logits)
    for at in np.ndindex(logits.shape):
        z, y = logits[at], targets[at]
        loss[at] = max(z, 0.0) - z * y + math.log1p(math.exp(-abs(z)))
    return loss


@rung(sigmoid_crossentropy_grad, device="cpu", why="the chain rule, number by number")
def formula(g, logits, targets):  # noqa: F811
    dz = np.empty_like(logits)
    for at in np.ndindex(logits.shape):
        dz[at] = g[at] * (sigmoid(np, logits[at]) - targets[at])
    return dz
