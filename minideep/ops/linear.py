"""Products of matrices and tensors, and the two-dimensional Fourier transform of real images."""

import builtins
import math
import string

import kernels
from kernels.backend import array_module as module, is_array
from minideep.autograd import op
from minideep.ops.elementwise import conj, mul
from minideep.ops.reduce import sum
from minideep.ops.shape import broadcast_to, expand_dims, reshape, sum_to, swapaxes
from minideep.tensor import Tensor, _raw, tensor

__all__ = "affine einsum irfft2 matmul rfft2".split()

LARGE = 2**20  # multiplications; below, choosing a kernel takes longer than it gains


@op(elementwise=True)
def _matmul(a, b):
    if a.ndim == 2 == b.ndim and a.size * b.shape[1] > LARGE:
        return kernels.matmul(a, b)
    return a @ b


def _adjoint(a):
    return conj(a).T if a.ndim == 2 else swapaxes(conj(a), -1, -2)


_matmul.vjp(a=lambda g, b: _matmul(g, _adjoint(b)), b=lambda g, a: _matmul(_adjoint(a), g))


def matmul(a, b):
    """a @ b with NumPy's rules: stacks of matrices broadcast, a vector is a row or a column."""
    if type(a) is not Tensor or type(b) is not Tensor:
        a, b = (x if isinstance(x, Tensor) else Tensor(x) if is_array(x) else tensor(x) for x in (a, b))
    m, n = a.data.ndim, b.data.ndim
    if not m or not n or a.data.shape[-1] != b.data.shape[-2 if n > 1 else 0]:
        raise ValueError(f"matmul of shapes {a.shape} and {b.shape}: the last axis of the first must "
                         "be as long as the second-last of the second")
    if n == 1:
        return sum(mul(a, b), axis=-1) if m == 1 else reshape(
            _matmul(a, expand_dims(b, 1)), shape=a.shape[:-1])
    if m == 1:
        return reshape(_matmul(expand_dims(a, 0), b), shape=b.shape[:-2] + b.shape[-1:])
    if m > 2 == n:  # one product: a stack of small ones, and of gradients, takes longer
        rows = reshape(a, shape=(math.prod(a.shape[:-1]), a.shape[-1]))
        return reshape(_matmul(rows, b), shape=a.shape[:-1] + b.shape[1:])
    return _matmul(a, b)


@op
def _affine(x, w, b):
    y = _matmul.forward(x, w)
    if y.dtype != b.dtype:
        return y + b
    y += b
    return y


_affine.vjp(x=lambda g, w: _matmul(g, _adjoint(w)),
            w=lambda g, x: _matmul(_adjoint(x), g),
            b=lambda g: sum(g, axis=0))


def affine(x, w, b):
    """x w + b as one op, which adds b where the product lies: x (..., I), w (I, K), b (K,)."""
    if x.ndim == 2:
        return _affine(x, w, b)
    rows = reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))
    return reshape(_affine(rows, w, b), shape=x.shape[:-1] + w.shape[1:])


@op
def _einsum(*xs, subscripts):
    return module(*xs).einsum(subscripts, *xs, optimize=True)


def _einsum_vjp(g, i, xs, xs_shape, subscripts):
    """The gradient of one operand is the einsum of g with the other operands; letters that only
    this operand has were summed over alone, so g is spread over them."""
    left, out = subscripts.split("->")
    terms = left.split(",")
    others = [(t, conj(x)) for j, (t, x) in enumerate(zip(terms, xs)) if j != i]
    known = set(out).union(*(t for t, _ in others))
    here = "".join(c for c in terms[i] if c in known)
    g = einsum(",".join([out] + [t for t, _ in others]) + "->" + here, g, *[x for _, x in others])
    for axis, letter in enumerate(terms[i]):
        if letter not in known:
            g = expand_dims(g, axis)
    sizes = dict(zip(here, (n for n, c in zip(g.shape, terms[i]) if c in known)))
    full = tuple(sizes.get(c, n) for c, n in zip(terms[i], xs_shape[i]))
    return sum_to(broadcast_to(g, shape=full), shape=xs_shape[i])  # sizes of 1 were broadcast


_einsum.vjp(xs=_einsum_vjp)


def einsum(subscripts, *xs):
    """NumPy's einsum. A letter twice in one operand (a diagonal) is not supported: index first."""
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise ValueError(f"einsum {subscripts!r} names {len(terms)} operands; got {len(xs)}")
    free = [c for c in string.ascii_letters if c not in subscripts]
    dots = [x.ndim - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, xs)]
    letters = "".join(free[:builtins.max(dots, default=0)])
    terms = [t.replace("...", letters[len(letters) - n:]) for t, n in zip(terms, dots)]
    if not arrow:  # implicit: letters that occur once, in alphabetical order
        every = "".join(terms)
        out = letters + "".join(sorted(c for c in set(every) if every.count(c) == 1
                                       and c not in letters))
    out = out.replace("...", letters)
    for t, x in zip(terms, xs):
        if len(t) != x.ndim or len(set(t)) != len(t):
            raise ValueError(f"einsum {subscripts!r}: the operand {t!r} has shape {x.shape}; each of "
                             "its axes needs a letter of its own")
    return _einsum(*xs, subscripts=",".join(terms) + "->" + out)


# ----------------------------------------------------------------------------- Fourier transforms

@op
def rfft2(x, *, axes=(-2, -1)):
    """2-D discrete Fourier transform of a real tensor over `axes`; the last of them is halved to
    n // 2 + 1 frequencies, since the rest are conjugates."""
    return module(x).fft.rfft2(x, axes=axes)


@op
def irfft2(x, *, shape, axes=(-2, -1)):
    """The inverse of rfft2. shape: lengths of `axes` in the result (an odd length is not to be
    guessed from the halved spectrum)."""
    return module(x).fft.irfft2(x, s=shape, axes=axes)


def _counts(like, n, axis):
    """How often each frequency of the halved axis stands for: 2, but 1 for 0 and for n / 2."""
    xp = module(_raw(like))
    weight = xp.full(n // 2 + 1, 2.0, dtype=like.dtype)
    weight[0] = 1
    if n % 2 == 0:
        weight[n // 2] = 1
    return weight.reshape([-1 if i == axis % like.ndim else 1 for i in range(like.ndim)])


def _rfft2_vjp(g, x_shape, axes):
    h, w = (x_shape[a] for a in axes)
    return irfft2(g / _counts(g, w, axes[-1]), shape=(h, w), axes=axes) * (h * w)


def _irfft2_vjp(g, shape, axes):
    h, w = shape
    spectrum = rfft2(g, axes=axes)
    return spectrum * _counts(spectrum, w, axes[-1]) / (h * w)


rfft2.vjp(x=_rfft2_vjp)
irfft2.vjp(x=_irfft2_vjp)
