"""Which dtype an op computes in, and which its gradients have.

float32 stays float32: scalars, NumPy's too, never promote; float64 comes from float64 arrays alone.
"""

import numpy as np

from kernels import backend


def as_operand(x):
    """Scalars stay Python scalars, which never promote float32; arrays become tensors."""
    if type(x) in (float, int):
        return x
    if isinstance(x, np.generic) or isinstance(x, np.ndarray) and x.ndim == 0:
        return x.item()  # asked first: np.float64 is a float too, one that promotes
    if isinstance(x, (bool, int, float, complex)):
        return x
    return Tensor(x) if backend.is_array(x) else tensor(x)


def keep_single_precision(y, arrays):
    """NumPy turns int / int and sqrt(int) into float64; here only a float64 input makes float64."""
    if isinstance(y, (np.generic, bool, int, float, complex)):
        y = np.asarray(y)
    if y.dtype.char in "dD" and not any(
            getattr(getattr(a, "dtype", None), "char", "") in ("d", "D") for a in arrays):
        y = y.astype("complex64" if y.dtype.char == "D" else "float32")
    return y


def fit(g, like, op, i):
    """The gradient, a tensor or an array, with the shape and dtype of its input: summed over what
    was broadcast, real for a real input."""
    shape, dtype = like
    if g.shape != shape:
        if not op.elementwise:
            raise RuntimeError(f"the vjp of {op.name} gave input {i} of shape {shape} a gradient "
                               f"of shape {g.shape}")
        g = ops.sum_to(g, shape)
    if g.dtype != dtype:
        g = ops.real(g) if g.dtype.kind == "c" and dtype.kind != "c" else g
        g = g if g.dtype == dtype else ops.astype(g, dtype=dtype)
    return g


from minideep.tensor import Tensor, tensor  # noqa: E402  (tensors and ops are made of each other)
from minideep import ops  # noqa: E402
