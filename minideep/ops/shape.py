"""Ops that move numbers about. Each one's derivative is another of them."""

import itertools
import math

import numpy as np

from kernels import memory
from kernels.backend import array_module as module
from minideep.autograd import op
from minideep.tensor import Tensor

__all__ = """broadcast_to concatenate expand_dims flip gather getitem index_add pad reshape scatter
split squeeze stack sum_to swapaxes take transpose""".split()


def axis_of(axis, ndim):
    """`axis`, counted from the start; an error where there is no such axis."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} does not exist in a tensor of {ndim} dimensions")
    return axis % ndim


@op
def reshape(x, *, shape):
    return x.reshape(shape)


reshape.vjp(x=lambda g, x_shape: reshape(g, shape=x_shape))


@op
def transpose(x, *, axes=None):
    return x.transpose(axes)


def _inverse(axes):
    return None if axes is None else tuple(sorted(range(len(axes)), key=[
        a % len(axes) for a in axes].__getitem__))


transpose.vjp(x=lambda g, axes: transpose(g, axes=_inverse(axes)))


def swapaxes(x, a, b):
    axes = list(range(x.ndim))
    a, b = axis_of(a, x.ndim), axis_of(b, x.ndim)
    axes[a], axes[b] = axes[b], axes[a]
    return transpose(x, axes=tuple(axes))


def expand_dims(x, axis):
    """A new axis of length 1 at `axis`, counted in the result."""
    shape = list(x.shape)
    shape.insert(axis_of(axis, x.ndim + 1), 1)
    return reshape(x, shape=tuple(shape))


def squeeze(x, axis=None):
    """Without the axes of length 1: all of them, or one, which must have that length."""
    if axis is None:
        return reshape(x, shape=tuple(n for n in x.shape if n != 1))
    axis = axis_of(axis, x.ndim)
    if x.shape[axis] != 1:
        raise ValueError(f"axis {axis} has length {x.shape[axis]}; only an axis of length 1 can be "
                         "squeezed away")
    return reshape(x, shape=x.shape[:axis] + x.shape[axis + 1:])


@op
def broadcast_to(x, *, shape):
    return module(x).broadcast_to(x, shape)


@op
def sum_to(x, *, shape):
    """Sum over axes until the shape is `shape`: what broadcasting from `shape` comes back to."""
    if x.shape == tuple(shape):
        return x  # (a sum over no axes would be a copy)
    lead = x.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(x.shape) if i < lead or shape[i - lead] == 1 != n)
    return x.sum(axis=axes, keepdims=True).reshape(shape)


broadcast_to.vjp(x=lambda g, x_shape: sum_to(g, shape=x_shape))
sum_to.vjp(x=lambda g, x_shape: broadcast_to(g, shape=x_shape))


# --------------------------------------------------------------------------------------- indexing

def _plain(index):
    """The index with tensors replaced by their arrays."""
    if isinstance(index, tuple):
        return tuple(_plain(i) for i in index)
    return index.data if isinstance(index, Tensor) else index


@op
def getitem(x, *, index):
    """x[index] for any index that NumPy knows: slices, integers, arrays, masks, None, ..."""
    return x[_plain(index)]


@op
def index_add(g, *, index, shape):
    """Zeros of `shape` with g added at [index]; where the index repeats, the values add up."""
    xp, index = module(g), _plain(index)
    if xp is np and math.prod(shape) * g.dtype.itemsize > memory.SMALL:
        y = memory.empty(shape, g.dtype)
        y[...] = 0
    else:
        y = xp.zeros(shape, dtype=g.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is Ellipsis or isinstance(i, (int, slice, np.integer)) for i in parts):
        y[index] = g
    else:
        xp.add.at(y, index, g)
    return y


getitem.vjp(x=lambda g, x_shape, index: index_add(g, index=index, shape=x_shape))
index_add.vjp(g=lambda g, index: getitem(g, index=index))


def take(x, indices, axis):
    """The slices of x at `indices` (integers of any shape) along `axis`."""
    return getitem(x, index=(slice(None),) * axis_of(axis, x.ndim) + (_plain(indices),))


def _along(index, axis, shape):
    """The full index that picks x[..., index[...], ...] along `axis`."""
    index = _plain(index)
    xp, axis = module(index), axis_of(axis, len(shape))
    if index.ndim != len(shape):
        raise ValueError(f"gather and scatter want an index of {len(shape)} dimensions, as the "
                         f"tensor has; got one of shape {index.shape}")
    grids = [xp.arange(n).reshape([-1 if i == d else 1 for i in range(index.ndim)])
             for d, n in enumerate(index.shape)]
    grids[axis] = index
    return tuple(grids)


def gather(x, index, axis):
    """y[..., i, ...] = x[..., index[..., i, ...], ...], the index running along `axis`."""
    return getitem(x, index=_along(index, axis, x.shape))


def scatter(values, index, axis, length):
    """The adjoint of gather: zeros, of size `length` along `axis`, with `values` added at index."""
    shape = list(values.shape)
    shape[axis] = length
    return index_add(values, index=_along(index, axis, shape), shape=tuple(shape))


def flip(x, axis):
    return getitem(x, index=(slice(None),) * axis_of(axis, x.ndim) + (slice(None, None, -1),))


# ---------------------------------------------------------------------------------------- joining

@op
def _concatenate(*xs, axis, cuts):
    return module(*xs).concatenate(xs, axis=axis)


_concatenate.vjp(xs=lambda g, i, axis, cuts: getitem(
    g, index=(slice(None),) * axis + (slice(cuts[i], cuts[i + 1]),)))


def concatenate(xs, axis=0):
    """Tensors joined along an axis that they have."""
    xs = list(xs)
    if not xs:
        raise ValueError("concatenate() wants at least one tensor")
    axis = axis_of(axis, xs[0].ndim)
    cuts = (0, *itertools.accumulate(x.shape[axis] for x in xs))
    return _concatenate(*xs, axis=axis, cuts=cuts)


def stack(xs, axis=0):
    """Tensors of one shape joined along a new axis."""
    xs = list(xs)
    if len({x.shape for x in xs}) != 1:
        raise ValueError(f"stack() wants tensors of one shape; got {[x.shape for x in xs]}")
    return concatenate([expand_dims(x, axis) for x in xs], axis)


def split(x, parts, axis=0):
    """A list of tensors: `parts` equal ones (an integer), or cut at the given positions (a list)."""
    n = x.shape[axis]
    if isinstance(parts, int):
        if parts < 1 or n % parts:
            raise ValueError(f"axis {axis} of length {n} does not split into {parts} equal parts")
        parts = range(n // parts, n, n // parts) if n else [0] * (parts - 1)
    cuts = [0, *parts, n]
    lead = (slice(None),) * (axis % x.ndim)
    return [getitem(x, index=lead + (slice(a, b),)) for a, b in zip(cuts, cuts[1:])]


@op
def pad(x, *, width, value=0.0):
    """x with `value` around it. width: ((before, after), ...) for each axis."""
    if len(width) != x.ndim or any(n < 0 for pair in width for n in pair):
        raise ValueError(f"pad() wants a pair of numbers >= 0 for each of {x.ndim} axes; got {width}")
    return module(x).pad(x, width, constant_values=value)


pad.vjp(x=lambda g, x_shape, width: getitem(g, index=tuple(
    slice(before, before + n) for n, (before, _) in zip(x_shape, width))))


