"""All weights at once, one vector operation after the other: for NumPy and CuPy alike."""

from kernels.backend import array_module
from kernels.ladder import rung
from kernels.optimizer import adam


@rung(adam, device="any", why="vector operations instead of a Python loop over weights")
def array(w, g, m, v, rate, beta_1, beta_2, epsilon):
    m += (g - m) * (1 - beta_1)
    v += (g * g - v) * (1 - beta_2)
    w -= rate * m / (array_module(w).sqrt(v) + epsilon)
    return w, m, v
