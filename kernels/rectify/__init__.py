"""The way back through a bias and ReLU, y = max(z + b, 0), which the layers before end with.

    dz = g where y > 0, else 0          db[c] = Σ dz[..., c]
"""

from kernels.backend import is_array
from kernels.ladder import ladder


@ladder
def rectify_grad(g, y):
    """g and y (..., C), of one dtype: returns (dz, db) of shapes (..., C) and (C,)."""
    for name, value in (("g", g), ("y", y)):
        if not is_array(value):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if g.shape != y.shape or not g.ndim or g.dtype != y.dtype:
        raise ValueError(
            f"g and y must have one shape (..., C) and one dtype, got {tuple(g.shape)} {g.dtype} "
            f"and {tuple(y.shape)} {y.dtype}"
        )
    return g, y


# The rungs, from the formula upward.
from kernels.rectify import formula, array, compiled  # noqa: E402, F401, I001
