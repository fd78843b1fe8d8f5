"""Solutions of lesson 04."""

import numpy as np


def softsign(z):
    """z / (1 + |z|), for tensors."""
    return z / (1 + abs(z))


def gain_for(f, samples=200_000, seed=0):
    """1 / E f(z)² for z standard normal."""
    z = np.random.default_rng(seed).standard_normal(samples)
    return float(1 / (f(z) ** 2).mean())
