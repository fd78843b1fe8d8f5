"""The library's own product: BLAS for NumPy, cuBLAS for CuPy."""

import numpy as np

from kernels import memory
from kernels.ladder import rung
from kernels.matmul import matmul


@rung(matmul, device="any", why="BLAS: blocks that stay in the cache, all cores")
def array(a, b):
    if type(a) is np.ndarray and type(b) is np.ndarray:
        out = memory.empty((a.shape[0], b.shape[1]), np.result_type(a, b))
        return np.matmul(a, b, out=out)
    return a @ b
