"""One step of an optimizer on one array of weights, in place.

Adam (Kingma & Ba 2014, arXiv:1412.6980, in the order at the end of their section 2), at step t:

    m += (1 - β₁)·(g - m)
    v += (1 - β₂)·(g² - v)
    w -= rate · m / (√v + ε),   rate = learning rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ)
"""

import math

import numpy as np

from kernels.backend import is_array
from kernels.ladder import ladder


@ladder
def adam(w, g, m, v, learning_rate, step, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """Change w, m and v in place by the gradient g; returns (w, m, v), the same arrays.

    All of one shape. m and v are the running means of g and g², zeros before step 1.
    """
    if isinstance(g, np.generic):  # what NumPy makes of an array without axes times a number
        g = np.asarray(g)
    for name, value in {"w": w, "g": g, "m": m, "v": v}.items():
        if not is_array(value):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
        if value.dtype.kind != "f":
            raise TypeError(f"{name} must hold floating point numbers, got {value.dtype}")
        if value.shape != w.shape:
            raise ValueError(f"{name} must have the shape of w, {w.shape}, got {value.shape}")
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    rate = learning_rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return w, g, m, v, rate, beta_1, beta_2, epsilon


# The rungs, from the formula upward.
from kernels.optimizer import formula, array, compiled, cuda_raw  # noqa: E402, F401, I001
