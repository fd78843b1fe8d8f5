"""Checks on the arrays of a graph: finite numbers, no change in place, and who made them."""

import functools
import itertools
import math
import os
import sys

import numpy as np

from kernels import backend

COPIED = 2**14  # bytes: up to so many a copy is taken sooner than sums


def check_finite(array, what, where, inputs=()):
    """FloatingPointError if `array` holds a NaN or infinity; names the first of `inputs`, pairs of
    (name, array), that already did."""
    if _is_finite(array):
        return
    kind = "NaN" if bool(backend.array_module(array).isnan(array).any()) else "infinity"
    already = next((f", whose input {name} was already not finite"
                    for name, x in inputs if not _is_finite(x)), "")
    where = where or "a line not noted; run the forward pass under detect_anomaly() too"
    raise FloatingPointError(f"{kind} in {what}{already}, made at {where}")


def _is_finite(x):
    kind = getattr(getattr(x, "dtype", None), "kind", "")
    return kind not in ("f", "c") or bool(backend.array_module(x).isfinite(x).all())


def user_line():
    """file:line of the innermost frame outside this package."""
    here, frame = os.path.dirname(__file__) + os.sep, sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(here):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def fingerprint(array, full=False):
    """What changes when a NumPy array does (or a list, an index): of every element up to 64k of
    them, of an even sample beyond unless `full`."""
    if type(array) is list:
        return repr(array)
    if array.nbytes <= COPIED:
        return array.tobytes()
    array = array.T if array.flags.f_contiguous else array
    if array.size > 65536 and not full:
        step = _step(array.size)
        if array.flags.c_contiguous:
            array = array.reshape(-1)[::step]
        else:
            array = array[np.unravel_index(np.arange(0, array.size, step), array.shape)]
    if array.nbytes <= COPIED:
        return array.tobytes()
    # Eight bytes at a time, the sums down the columns of two tables, of 251 and 241 columns. Every
    # change of one number changes both; to hide, several have to make up for each other in both.
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words, sums = bits[:bits.size // 8 * 8].view(np.uint64), []
    for width in (251, 241):
        whole = words.size // width * width
        sums += [np.add.reduce(words[:whole].reshape(-1, width), axis=0).tobytes(),
                 bits[whole * 8:].tobytes()]
    return tuple(sums)


@functools.lru_cache(maxsize=None)
def _step(n):
    """From sample to sample of n numbers: for 250 in all or a few more, each of which is a line of
    far memory. It has no small factor: of 32 channels, say, all are met."""
    return next(step for step in itertools.count(n // 260) if math.gcd(step, 2 * 3 * 5 * 7) == 1)


def seed_gradient(y, g):
    """The gradient that the way back starts with, checked against the output `y`."""
    if not y.requires_grad:
        raise RuntimeError("this tensor has no gradient to send back: nothing that it was computed "
                           "from has requires_grad=True (or it was computed under no_grad)")
    if g is None:
        if y.data.size != 1:
            raise ValueError(f"backward() of a tensor of shape {y.shape} needs a gradient of that "
                             "shape; only a scalar can do without: y.sum().backward()")
        return Tensor(backend.array_module(y.data).ones_like(y.data))
    if not isinstance(g, Tensor):
        g = tensor(g, dtype=y.dtype, device=y.device)
    if g.shape != y.shape:
        raise ValueError(f"a gradient of shape {g.shape} was given for a tensor of shape {y.shape}")
    return g


from minideep.tensor import Tensor, tensor  # noqa: E402  (tensors are checked here, and check here)
