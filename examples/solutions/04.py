"""Solutions of lesson 04."""

import numpy as np


def softsign(z):
    """z / (1 + |z|), for tensors."""
    return z / (1 + abs(z))


def gain_for(f, samples=200_000, seed=0):
    """The g with E f(√g·n)² = 1, n standard normal; by bisection, as it grows with g."""
    n = np.random.default_rng(seed).standard_normal(samples)
    low, high = 0.1, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if (f(np.sqrt(middle) * n) ** 2).mean() < 1:
            low = middle
        else:
            high = middle
    return middle
