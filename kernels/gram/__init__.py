"""A memory of samples acts on a filter: what ridge regression over many samples repeats.

With K samples of C channels, each given by its spectrum at Q frequencies, and a filter's spectrum
f, the responses are s_k[q] = Σ_c conj(x[k,q,c])·f[q,c], and their weighted sum carried back is

    g[q,c] = Σ_k a[k]·x[k,q,c]·s_k[q]

which is Σ_k a_k·X_k·X_kᴴ f, the Gram matrix of the memory times f, without that matrix: its C x C
numbers at every frequency would be far more than the samples themselves.

A complex number is two real ones here, its real and imaginary parts, along a last axis of 2: as
z.view("float32").reshape(*z.shape, 2) shows an array of complex64.
"""

from kernels.backend import is_array
from kernels.ladder import ladder


@ladder
def gram(x, a, f):
    """x (K, Q, C, 2), a (K,), f (Q, C, 2): g (Q, C, 2)."""
    for name, value in (("x", x), ("a", a), ("f", f)):
        if not is_array(value) or value.dtype.kind != "f":
            found = value.dtype if is_array(value) else type(value).__name__
            raise TypeError(f"{name} must be an array of floating point numbers, got {found}")
    if x.ndim != 4 or x.shape[3] != 2 or a.shape != x.shape[:1] or f.shape != x.shape[1:]:
        raise ValueError(
            "x, a and f must have shapes (K, Q, C, 2), (K,) and (Q, C, 2), got "
            f"{x.shape}, {a.shape} and {f.shape}"
        )
    return x, a, f


# The rungs, from the formula upward.
from kernels.gram import formula, array, compiled  # noqa: E402, F401, I001
