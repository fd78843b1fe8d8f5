"""Two batched matrix products, for NumPy and CuPy alike."""

from kernels.backend import array_module
from kernels.gram import gram
from kernels.ladder import rung


@rung(gram, device="any", why="two batched matrix products instead of Python loops")
def array(x, a, f):
    xp = array_module(x, a, f)
    x = (x[..., 0] + 1j * x[..., 1]).transpose(1, 0, 2)             # (Q, K, C)
    f = f[..., 0] + 1j * f[..., 1]                                  # (Q, C)
    responses = xp.matmul(x.conj(), f[:, :, None])                  # (Q, K, 1)
    weighted = (responses[:, :, 0] * a)[:, None]                    # (Q, 1, K)
    g = xp.matmul(weighted, x)[:, 0]                                # (Q, C)
    return xp.stack([g.real, g.imag], axis=2).astype(a.dtype)
