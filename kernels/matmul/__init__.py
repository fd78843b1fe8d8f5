"""The product of two matrices.

    y[i,j] = Σ_k a[i,k]·b[k,j]
"""

from kernels.backend import is_array
from kernels.ladder import ladder


@ladder
def matmul(a, b):
    """a (M, K) times b (K, N): returns (M, N). Raises ValueError for shapes that do not fit."""
    for name, value in (("a", a), ("b", b)):
        if not is_array(value):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(
            f"a and b must have shapes (M, K) and (K, N), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return a, b


# The rungs, from the formula upward.
from kernels.matmul import formula, array, blocked, few_rows, stream, cuda_tf32  # noqa: E402, F401, I001
