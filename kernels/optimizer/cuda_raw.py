"""One pass over memory, in CUDA C (adam.cu)."""

from kernels import cuda
from kernels.ladder import rung
from kernels.optimizer import adam

THREADS = 256
EACH = 4  # numbers of a thread, at least
_cu = cuda.module(__file__, "adam.cu")


@rung(adam, device="cuda", why="one pass over memory instead of a dozen")
def cuda_raw(w, g, m, v, rate, beta_1, beta_2, epsilon):
    grid = min(cuda.blocks(w.size, THREADS * EACH), 2**16)
    arguments = rate, 1 - beta_1, 1 - beta_2, epsilon, w.size
    _cu["adam"](grid, THREADS, w, g, m, v, *arguments)
    return w, m, v


@cuda_raw.needs
def _(w, g, m, v, rate, beta_1, beta_2, epsilon):
    if not all(array.flags.c_contiguous for array in (w, m, v)):
        return "w, m and v must be contiguous: they are changed in place"
    return cuda.usable(w, g, m, v)
