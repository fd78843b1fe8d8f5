"""One group and one number at a time: the oracle of the other rungs."""

import math

import numpy as np

from kernels.ladder import rung
from kernels.normalization import moments, normalize, normalize_grad


@rung(moments, device="cpu", why="the definition in Python loops")
def formula(x, groups):
    result = np.empty((2, len(x), groups), x.dtype)
    for n, group, numbers in _groups(x, groups):
        values = [x[at] for at in numbers]
        mean = sum(values) / len(values)
        result[:, n, group] = mean, sum((v - mean) ** 2 for v in values) / len(values)
    return result


@rung(normalize, device="cpu", why="the definition in Python loops")
def formula(x, moments, gamma, beta, epsilon):  # noqa: F811
    y = np.empty_like(x)
    for n, group, numbers in _groups(x, moments.shape[2]):
        mean, variance = moments[:, n, group]
        for at in numbers:
            y[at] = (x[at] - mean) / math.sqrt(variance + epsilon) * gamma[at[2]] + beta[at[2]]
    return y


@rung(normalize_grad, device="cpu", why="the chain rule in Python loops")
def formula(g, x, moments, gamma, epsilon):  # noqa: F811
    dx, dgamma, dbeta = np.empty_like(x), np.zeros_like(gamma), np.zeros_like(gamma)
    for n, group, numbers in _groups(x, moments.shape[2]):
        mean, variance = moments[:, n, group]
        root = math.sqrt(variance + epsilon)
        inner = {at: (x[at] - mean) / root for at in numbers}  # before gamma and beta
        outer = {at: g[at] * gamma[at[2]] for at in numbers}  # and its gradient
        by_mean = sum(outer.values()) / len(numbers)
        by_root = sum(outer[at] * inner[at] for at in numbers) / len(numbers)
        for at in numbers:
            dx[at] = (outer[at] - by_mean - inner[at] * by_root) / root
            dgamma[at[2]] += g[at] * inner[at]
            dbeta[at[2]] += g[at]
    return dx, dgamma, dbeta


def _groups(x, groups):
    """Every group as (sample, group, the indices of its numbers)."""
    samples, pixels, channels = x.shape
    size = channels // max(groups, 1)
    for n in range(samples):
        for group in range(groups):
            own = range(group * size, (group + 1) * size)
            yield n, group, [(n, p, c) for p in range(pixels) for c in own]
