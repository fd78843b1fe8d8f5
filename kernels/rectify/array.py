"""Vector operations, for NumPy and CuPy alike: they pass over memory three times."""

from kernels.backend import array_module
from kernels.ladder import rung
from kernels.rectify import rectify_grad


@rung(rectify_grad, device="any", why="vector operations instead of a Python loop")
def array(g, y):
    dz = array_module(g, y).where(y > 0, g, g.dtype.type(0))
    return dz, dz.sum(axis=tuple(range(g.ndim - 1)))
