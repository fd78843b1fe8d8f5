"""One weight at a time, as the formula is written."""

import math

import numpy as np

from kernels.ladder import rung
from kernels.optimizer import adam


@rung(adam, device="cpu", why="the formula, one weight at a time")
def formula(w, g, m, v, rate, beta_1, beta_2, epsilon):
    for at in np.ndindex(w.shape):
        m[at] += (1 - beta_1) * (g[at] - m[at])
        v[at] += (1 - beta_2) * (g[at] ** 2 - v[at])
        w[at] -= rate * m[at] / (math.sqrt(v[at]) + epsilon)
    return w, m, v
