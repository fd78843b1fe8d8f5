"""Elementwise ops with NumPy's broadcasting. Gradients are summed back over what was broadcast.

At a kink: abs, relu and clip have the gradient 0 on the kink itself (clip: 1 at its limits);
maximum and minimum share the gradient equally at a tie, as the reductions max and min do.
Gradients of complex tensors are dL/dRe + i dL/dIm, so a product's is g * conj(other).
"""

import math

from numpy import generic, ndarray

from kernels import backend
from kernels.backend import array_module as module, erf as _erf, is_array
from minideep.autograd import op
from minideep.tensor import _raw

__all__ = """abs add astype clip conj cos div elu erf exp gelu hard_sigmoid hard_swish identity
imag leaky_relu log log1p maximum minimum mul neg power real relu sigmoid sign silu sin softplus
sqrt square sub tanh to_device where""".split()


# ------------------------------------------------------------------------------------- arithmetic

@op(elementwise=True)
def add(a, b):
    return a + b


add.vjp(a=lambda g: g, b=lambda g: g)


@op(elementwise=True)
def sub(a, b):
    return a - b


sub.vjp(a=lambda g: g, b=lambda g: -g)


@op(elementwise=True)
def mul(a, b):
    return a * b


mul.vjp(a=lambda g, b: g * conj(b), b=lambda g, a: g * conj(a))


@op(elementwise=True)
def div(a, b):
    return a / b


div.vjp(a=lambda g, b: g / conj(b), b=lambda g, y, b: -g * conj(y / b))


@op
def neg(x):
    return -x


neg.vjp(x=lambda g: -g)


@op(elementwise=True)
def power(a, p):
    """a ** p for real a and p. The gradient for p is 0 where a = 0 (its limit for p > 0)."""
    return a ** p


def _power_vjp_a(g, a, p):
    if not isinstance(p, (int, float, complex)):
        at_zero = (p == 0) & (_as(a, g) == 0)
        return g * p * a ** where(at_zero, 1.0, p - 1)  # not 0 * 0**-1
    return g * conj(p * a ** (p - 1)) if p else g * 0.0


def _power_vjp_p(g, y, a):
    base = _as(a, y)
    return g * y * log(where(base == 0, 1.0, base))


power.vjp(a=_power_vjp_a, p=_power_vjp_p)


def square(x):
    return x * x


@op
def identity(x):
    return x


identity.vjp(x=lambda g: g)


# --------------------------------------------------------------------------- powers of e, and waves

@op
def exp(x):
    return module(x).exp(x)


exp.vjp(x=lambda g, y: g * conj(y))


@op
def log(x):
    return module(x).log(x)


log.vjp(x=lambda g, x: g / conj(x))


@op
def log1p(x):
    return module(x).log1p(x)


log1p.vjp(x=lambda g, x: g / conj(1 + x))


@op
def sqrt(x):
    return module(x).sqrt(x)


sqrt.vjp(x=lambda g, y: g / (2 * conj(y)))


@op
def sin(x):
    return module(x).sin(x)


@op
def cos(x):
    return module(x).cos(x)


sin.vjp(x=lambda g, x: g * conj(cos(x)))
cos.vjp(x=lambda g, x: -g * conj(sin(x)))


@op
def erf(x):
    """2/√π ∫₀ˣ exp(-t²) dt"""
    return _erf(x)


erf.vjp(x=lambda g, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))


# ----------------------------------------------------------------------- absolute values and choices

@op
def abs(x):
    """|x|, of complex numbers too. The gradient at 0 is 0."""
    return module(x).abs(x)


abs.vjp(x=lambda g, x, y: g * sign(x) if x.dtype.kind != "c" else g * x / where(y == 0, 1.0, y))


@op
def sign(x):
    return module(x).sign(x)


sign.vjp(x=lambda g: g * 0)


@op(elementwise=True)
def maximum(a, b):
    return module(a, b).maximum(a, b)


@op(elementwise=True)
def minimum(a, b):
    return module(a, b).minimum(a, b)


def _share(g, won, tied):
    """g where this side won, half of it at a tie, 0 where it lost."""
    return where(won, g, where(tied, 0.5 * g, 0.0))


maximum.vjp(a=lambda g, a, b: _share(g, _as(a, b) > b, _as(a, b) == b),
            b=lambda g, a, b: _share(g, _as(b, a) > a, _as(b, a) == a))
minimum.vjp(a=lambda g, a, b: _share(g, _as(a, b) < b, _as(a, b) == b),
            b=lambda g, a, b: _share(g, _as(b, a) < a, _as(b, a) == a))


def _as(x, like):
    """A scalar as an array, so that comparisons give arrays; others as they are."""
    if not isinstance(x, (int, float, complex)):
        return x
    xp = module(_raw(like))
    return xp.asarray(x, dtype=xp.result_type(x, like.dtype))


@op
def clip(x, *, low=None, high=None):
    """x limited to [low, high] (numbers or None). The gradient is 1 inside and at the limits."""
    return module(x).clip(x, low, high)


clip.vjp(x=lambda g, x, low, high: where(_inside(x, low, high), g, 0.0))


def _inside(x, low, high):
    x = _raw(x)
    inside = module(x).ones(x.shape, dtype=bool)
    inside = inside if low is None else inside & (x >= low)
    return inside if high is None else inside & (x <= high)


@op(elementwise=True)
def _where(condition, a, b):
    return module(condition).where(condition, a, b)


# chosen, not multiplied with 0: what comes back to a branch that was not taken may be infinite
_where.vjp(a=lambda g, condition: where(condition, g, 0.0),
           b=lambda g, condition: where(condition, 0.0, g))


def where(condition, a, b):
    """a where `condition` holds, else b. All three broadcast; the condition has no gradient."""
    condition = _raw(condition)
    # NumPy's arrays without axes are numbers, which are at home on every device
    like = next((x for x in map(_raw, (a, b))
                 if is_array(x) and (x.ndim or type(x) is not ndarray)), condition)
    xp = module(like if is_array(like) else 0)
    return _where(xp.asarray(condition, dtype=bool), a, b)


# ----------------------------------------------------------------- complex parts, dtypes and devices

@op
def _conj(x):
    return module(x).conj(x)


_conj.vjp(x=lambda g: conj(g))


def conj(x):
    """The complex conjugate; a real tensor, array or number as it is."""
    kind = getattr(getattr(x, "dtype", None), "kind", None)
    if kind == "c":
        return x.conjugate() if isinstance(x, generic) else _conj(x)
    if kind or isinstance(x, (int, float)):
        return x
    return x.conjugate() if isinstance(x, complex) else _conj(x)


@op
def real(x):
    return module(x).real(x)


@op
def imag(x):
    return module(x).imag(x)


real.vjp(x=lambda g: g + 0j)
imag.vjp(x=lambda g: g * 1j)


@op
def astype(x, *, dtype):
    return x.astype(dtype)


astype.vjp(x=lambda g: g)  # the way back gives each input a gradient of its own dtype


@op
def _to_device(x, *, device, origin):
    return backend.to_device(x, device)


_to_device.vjp(x=lambda g, device, origin: _to_device(g, device=origin, origin=device))


def to_device(x, device):
    """x on "cpu" or "cuda"; the gradient flows back to where x is."""
    return x if device == x.device else _to_device(x, device=device, origin=x.device)


# -------------------------------------------------------------------------------- nonlinearities

@op
def tanh(x):
    return module(x).tanh(x)


tanh.vjp(x=lambda g, y: g * conj(1 - y * y))


@op
def sigmoid(x):
    """1 / (1 + e⁻ˣ), as (1 + tanh(x/2)) / 2, which overflows nowhere."""
    return 0.5 * (1 + module(x).tanh(0.5 * x))


sigmoid.vjp(x=lambda g, y: g * conj(y * (1 - y)))


@op
def relu(x):
    """max(x, 0). The gradient at 0 is 0."""
    return module(x).maximum(x, 0)


relu.vjp(x=lambda g, y: g * (y > 0))  # a product: ten times faster than where(), NaN for 0 * inf


@op
def softplus(x):
    """log(1 + eˣ), without overflow."""
    return module(x).logaddexp(x, module(x).zeros_like(x))


softplus.vjp(x=lambda g, x: g * sigmoid(x))


def leaky_relu(x, negative_slope=0.2):
    """x where positive, else negative_slope·x (Keras's default slope)."""
    return where(x > 0, x, negative_slope * x)


def elu(x, alpha=1.0):
    """x where positive, else alpha·(eˣ - 1) (Clevert et al. 2015)."""
    return where(x > 0, x, alpha * (exp(where(x > 0, 0.0, x)) - 1))


def gelu(x):
    """x·Φ(x), Φ the normal distribution function (Hendrycks & Gimpel 2016), not approximated."""
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def silu(x):
    """x·sigmoid(x), also called swish."""
    return x * sigmoid(x)


def hard_sigmoid(x):
    """relu6(x + 3) / 6, the piecewise linear sigmoid."""
    return clip(x / 6 + 0.5, low=0.0, high=1.0)


def hard_swish(x):
    """x·hard_sigmoid(x) (Howard et al. 2019)."""
    return x * hard_sigmoid(x)
