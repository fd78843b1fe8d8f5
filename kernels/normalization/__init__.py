"""Normalisation by groups: (x - mean) / sqrt(variance + epsilon) · gamma + beta.

x (N, P, C): N samples of P pixels (or steps) with C channels. The channels of a sample fall into G
groups of K = C / G neighbours; mean and variance (with divisor P·K) are those of a group with all
its pixels. gamma and beta (C,) belong to channels. All normalisations are this one:

    group      (Wu & He 2018, arXiv:1803.08494)           x (N, H·W, C), G groups
    instance                                              x (N, H·W, C), G = C
    layer      (Ba et al. 2016, arXiv:1607.06450)         x (N·..., 1, C), G = 1
    batch      (Ioffe & Szegedy 2015, arXiv:1502.03167)   x (1, N·H·W, C), G = C

`moments` is a step of its own since batch normalisation keeps running means of it, and since the
gradient needs it again.
"""

from kernels.backend import is_array
from kernels.ladder import ladder


@ladder
def moments(x, groups):
    """Mean [0] and variance [1] of each group of x (N, P, C): (2, N, G). P·K must not be 0."""
    _check("x", x, ("N", "P", "C"))
    groups = int(groups)
    if groups < 1 or x.shape[2] % groups:
        raise ValueError(
            f"{x.shape[2]} channels cannot be split into {groups} groups of equal size; groups "
            "must divide the number of channels"
        )
    if not x.shape[1] * x.shape[2]:
        raise ValueError(f"there is no mean of no numbers: x has shape {x.shape}")
    return x, groups


@ladder
def normalize(x, moments, gamma, beta, epsilon=1e-3):
    """(x - mean) / sqrt(variance + epsilon) · gamma + beta: (N, P, C). moments: as `moments`
    returns them."""
    _check_parts(x, moments, gamma=gamma, beta=beta)
    return x, moments, gamma, beta, float(epsilon)


@ladder
def normalize_grad(g, x, moments, gamma, epsilon=1e-3):
    """Gradients of Σ g·normalize(x, moments(x), gamma, beta): returns (dx, dgamma, dbeta).

    x counts wherever it occurs: in the moments too.
    """
    _check_parts(x, moments, gamma=gamma)
    _check("g", g, x.shape)
    return g, x, moments, gamma, float(epsilon)


def _check_parts(x, moments, **by_channel):
    _check("x", x, ("N", "P", "C"))
    n, _, c = x.shape
    _check("moments", moments, (2, n, "G"))
    if c % max(moments.shape[2], 1):
        raise ValueError(f"moments of {moments.shape[2]} groups do not fit {c} channels")
    for name, value in by_channel.items():
        _check(name, value, (c,))


def _check(name, value, axes):
    if not is_array(value):
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}; numpy.asarray makes it one"
        )
    if value.dtype.kind != "f":
        raise TypeError(f"{name} must hold floating point numbers, got {value.dtype}")
    fits = len(axes) == value.ndim and all(
        isinstance(axis, str) or axis == length for axis, length in zip(axes, value.shape)
    )
    if not fits:
        raise ValueError(
            f"{name} must have shape ({', '.join(map(str, axes))}), got {value.shape}"
        )


# The rungs, from the formula upward.
from kernels.normalization import formula, array, compiled, rows, cuda_raw  # noqa: E402, F401, I001
