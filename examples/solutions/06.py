"""Solutions of lesson 06."""

import numpy as np


def forget_bias(steps):
    """σ(b) = e^(-1/steps), so b = -log(e^(1/steps) - 1); near log(steps) for many steps."""
    return -np.log(np.expm1(1 / steps))


def gate(g, scale, limit):
    """scale·g, each row no longer than the limit."""
    g = scale * g
    norm = np.linalg.norm(g, axis=-1, keepdims=True)
    return g * np.minimum(1, limit / np.maximum(norm, 1e-300))
