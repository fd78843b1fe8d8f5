"""Reductions over any axes: None (all), one, or several, which negative numbers count from the end.

max and min share the gradient equally among ties; an empty axis has no maximum and is an error.
"""

import math

from kernels.backend import array_module as module
from minideep.autograd import op
from minideep.ops.elementwise import abs as _abs, exp, log, sqrt, where
from minideep.ops.shape import axis_of, broadcast_to, reshape
from minideep.tensor import Tensor, _raw

__all__ = "argmax logsumexp max mean min std sum var".split()


def _axes(axis, ndim):
    axes = range(ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    return tuple(axis_of(a, ndim) for a in axes)


def _spread(g, shape, axis):
    """A reduction's gradient, broadcast back over the reduced axes."""
    axes = _axes(axis, len(shape))
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return broadcast_to(reshape(g, shape=kept), shape=shape)


@op
def sum(x, *, axis=None, keepdims=False):
    return x.sum(axis=_axes(axis, x.ndim), keepdims=keepdims)


sum.vjp(x=lambda g, x_shape, axis: _spread(g, x_shape, axis))


def mean(x, axis=None, keepdims=False):
    n = math.prod(x.shape[a] for a in _axes(axis, x.ndim))
    return sum(x, axis, keepdims) / n if n else sum(x, axis, keepdims) * math.nan


def var(x, axis=None, keepdims=False):
    """Variance with divisor n, as in Keras and NumPy."""
    deviation = x - mean(x, axis, keepdims=True)
    return mean(deviation * deviation, axis, keepdims)


def std(x, axis=None, keepdims=False):
    return sqrt(var(x, axis, keepdims))


@op
def max(x, *, axis=None, keepdims=False):
    return x.max(axis=_axes(axis, x.ndim), keepdims=keepdims)


@op
def min(x, *, axis=None, keepdims=False):
    return x.min(axis=_axes(axis, x.ndim), keepdims=keepdims)


def _extremum_vjp(g, x, y, axis):
    axes, x, y = _axes(axis, x.ndim), _raw(x), _raw(y)
    share = x == y.reshape([1 if i in axes else n for i, n in enumerate(x.shape)])
    count = module(x).maximum(share.sum(axis=axes, keepdims=True), 1)  # 0 where x is NaN
    return _spread(g, x.shape, axis) * (share / count).astype(x.dtype)


max.vjp(x=_extremum_vjp)
min.vjp(x=_extremum_vjp)


def argmax(x, axis=None):
    """Index of the first maximum; no gradient."""
    return Tensor(module(x.data).asarray(x.data.argmax(axis=axis)))


def logsumexp(x, axis=None, keepdims=False):
    """log Σ eˣ, shifted by the maximum so that nothing overflows."""
    top = max(x.detach(), axis, keepdims=True)
    top = where(_abs(top) == math.inf, 0.0, top)  # of -inf only: log 0, and no -inf + inf
    y = log(sum(exp(x - top), axis, keepdims=True)) + top
    return y if keepdims else reshape(y, shape=sum(top, axis).shape)
