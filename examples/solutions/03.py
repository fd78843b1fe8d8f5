"""Solutions of lesson 03."""

import numpy as np


def max_pool_by_reshape(x, n):
    """(H, W) -> (H/n, W/n): two axes for the place in the window, and the maximum over them."""
    return x.reshape(x.shape[0] // n, n, x.shape[1] // n, n).max(axis=(1, 3))


def soft_pool(x, n, beta):
    """Σ x·exp(βx) / Σ exp(βx) over each n x n window; the largest exponent taken out."""
    windows = x.reshape(x.shape[0] // n, n, x.shape[1] // n, n)
    weights = np.exp(beta * (windows - windows.max(axis=(1, 3), keepdims=True)))
    return (windows * weights).sum(axis=(1, 3)) / weights.sum(axis=(1, 3))
