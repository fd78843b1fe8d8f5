"""All groups at once, for NumPy and CuPy alike."""

from kernels.backend import array_module
from kernels.ladder import rung
from kernels.normalization import moments, normalize, normalize_grad


@rung(moments, device="any", why="vector operations instead of Python loops")
def array(x, groups):
    n, p, c = x.shape
    x = x.reshape(n, p, groups, c // groups)  # (N, P, G, K)
    return array_module(x).stack([x.mean(axis=(1, 3)), x.var(axis=(1, 3))])


@rung(normalize, device="any", why="vector operations instead of Python loops")
def array(x, moments, gamma, beta, epsilon):  # noqa: F811
    mean, root = _by_channel(x, moments, epsilon)
    y = x - mean
    y *= gamma / root
    y += beta
    return y


@rung(normalize_grad, device="any", why="vector operations instead of Python loops")
def array(g, x, moments, gamma, epsilon):  # noqa: F811
    n, p, c = x.shape
    groups = moments.shape[2]
    mean, root = _by_channel(x, moments, epsilon)
    inner = (x - mean) / root  # before gamma and beta
    outer = g * gamma  # and its gradient

    def mean_of_groups(values):
        values = values.reshape(n, p, groups, c // groups).mean(axis=(1, 3))  # (N, G)
        return values.repeat(c // groups, axis=1)[:, None]

    dx = (outer - mean_of_groups(outer) - inner * mean_of_groups(outer * inner)) / root
    return dx, (g * inner).sum(axis=(0, 1)), g.sum(axis=(0, 1))


def _by_channel(x, moments, epsilon):
    """Mean and root of the variance for each channel: (N, 1, C) each."""
    size = x.shape[2] // moments.shape[2]
    mean, variance = moments.repeat(size, axis=2)[:, :, None]
    return mean, array_module(x).sqrt(variance + epsilon)
