"""Softmax, the cross-entropies made of it, and normalisation by groups of channels.

Each runs a kernel, forward and backward. Where the way back is recorded, it is made of other ops
instead, which can be differentiated again.
"""

import math

import kernels
from kernels.backend import array_module as module
from minideep.autograd import op
from minideep.mode import grad_enabled
from minideep.ops.elementwise import astype, exp, sigmoid, sqrt
from minideep.ops.reduce import mean, sum, var
from minideep.ops.shape import expand_dims, reshape, scatter, swapaxes
from minideep.recompute import vjp_by_recomputing
from minideep.tensor import Tensor, _raw

__all__ = """batch_norm group_norm layer_norm log_softmax sigmoid_crossentropy softmax
softmax_crossentropy""".split()


# -------------------------------------------------------------------------------- softmax and losses

@op
def _softmax(x):
    return kernels.softmax(x)


@op
def _log_softmax(x):
    return kernels.log_softmax(x)


@op
def _softmax_crossentropy(logits, *, labels):
    return kernels.softmax_crossentropy(logits, labels)


@op
def _sigmoid_crossentropy(logits, targets):
    return kernels.sigmoid_crossentropy(logits, targets)


def _softmax_vjp(g, y):
    if grad_enabled():
        return y * (g - sum(g * y, axis=-1, keepdims=True))
    return kernels.softmax_grad(_raw(g), _raw(y))


def _log_softmax_vjp(g, y):
    if grad_enabled():
        return g - exp(y) * sum(g, axis=-1, keepdims=True)
    return kernels.log_softmax_grad(_raw(g), _raw(y))


def _softmax_crossentropy_vjp(g, logits, labels):
    if not grad_enabled():
        return kernels.softmax_crossentropy_grad(_raw(g), _raw(logits), labels)
    g, index = expand_dims(g, -1), Tensor(labels[..., None])
    return g * _softmax(logits) - scatter(g, index, -1, logits.shape[-1])


def _sigmoid_crossentropy_vjp(g, logits, targets):
    if grad_enabled():
        return g * (sigmoid(logits) - targets)
    return kernels.sigmoid_crossentropy_grad(*map(_raw, (g, logits, targets)))


_softmax.vjp(x=_softmax_vjp)
_log_softmax.vjp(x=_log_softmax_vjp)
_softmax_crossentropy.vjp(logits=_softmax_crossentropy_vjp)
_sigmoid_crossentropy.vjp(
    logits=_sigmoid_crossentropy_vjp, targets=lambda g, logits: -g * logits)


def softmax(x, axis=-1):
    """eˣ / Σ eˣ along `axis`."""
    return _along(_softmax, x, axis)


def log_softmax(x, axis=-1):
    """x - log Σ eˣ along `axis`."""
    return _along(_log_softmax, x, axis)


def _along(function, x, axis):
    x = x if x.dtype.kind == "f" else astype(x, dtype="float32")
    if axis in (-1, x.ndim - 1):
        return function(x)
    return swapaxes(function(swapaxes(x, axis, -1)), axis, -1)


def softmax_crossentropy(logits, labels):
    """-log softmax(logits) at the labels: logits (..., C), labels (...), an array of class numbers
    (int64) -> (...)."""
    return _softmax_crossentropy(logits, labels=labels)


def sigmoid_crossentropy(logits, targets):
    """-y log p - (1 - y) log(1 - p) with p = sigmoid(logits), number by number, exact for all
    logits. logits and targets y of one shape."""
    return _sigmoid_crossentropy(logits, targets)


# ---------------------------------------------------------------------------- normalisation by groups

@op
def _normalize(x, gamma, beta, *, groups, epsilon, kept):
    kept["moments"] = kernels.moments(x, groups)
    return kernels.normalize(x, kept["moments"], gamma, beta, epsilon)


@_normalize.joint_vjp
def _normalize_vjp(g, y, x, gamma, beta, groups, epsilon, kept):
    if grad_enabled():
        return vjp_by_recomputing(
            lambda *a: _normalize_in_ops(*a, groups, epsilon), (x, gamma, beta), g)[0]
    arrays = kernels.normalize_grad(g.data, x.data, kept["moments"], gamma.data, epsilon)
    return [Tensor(a) for a in arrays]


def _normalize_in_ops(x, gamma, beta, groups, epsilon):
    n, p, c = x.shape
    y = reshape(x, shape=(n, p, groups, c // groups))  # (N, P, G, K)
    y = (y - mean(y, (1, 3), keepdims=True)) / sqrt(var(y, (1, 3), keepdims=True) + epsilon)
    return reshape(y, shape=x.shape) * gamma + beta


def _by_groups(x, gamma, beta, shape, groups, epsilon):
    """x seen as (N, P, C), normalised by groups; and the moments (2, N, G)."""
    x_3d = reshape(x, shape=shape)
    xp = module(x.data)
    gamma = Tensor(xp.ones(shape[2], dtype=x.dtype)) if gamma is None else gamma
    beta = Tensor(xp.zeros(shape[2], dtype=x.dtype)) if beta is None else beta
    kept = {}
    y = _normalize(x_3d, gamma, beta, groups=groups, epsilon=epsilon, kept=kept)
    return reshape(y, shape=x.shape), kept["moments"]


def batch_norm(x, gamma=None, beta=None, epsilon=1e-3):
    """Each channel, over all the rest (Ioffe & Szegedy 2015): x (..., C) -> y (..., C), and the mean
    and variance, arrays (C,) without gradient (y has that through them)."""
    shape = (1, math.prod(x.shape[:-1]), x.shape[-1])
    y, moments = _by_groups(x, gamma, beta, shape, x.shape[-1], epsilon)
    return y, moments[0, 0], moments[1, 0]


def group_norm(x, gamma=None, beta=None, groups=1, epsilon=1e-3):
    """Each of `groups` groups of channels, with all pixels, of each sample (Wu & He 2018):
    x (N, ..., C) -> (N, ..., C)."""
    shape = (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return _by_groups(x, gamma, beta, shape, groups, epsilon)[0]


def layer_norm(x, gamma=None, beta=None, epsilon=1e-3):
    """Each row by itself (Ba et al. 2016): x (..., C) -> (..., C)."""
    shape = (math.prod(x.shape[:-1]), 1, x.shape[-1])
    return _by_groups(x, gamma, beta, shape, 1, epsilon)[0]
