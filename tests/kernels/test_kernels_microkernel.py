"""The register tiles, for processors of either width: against NumPy, and within their memory."""

import os
import subprocess
import sys

import pytest

from kernels.jit import problem

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

PRODUCTS = """
import sys
import numpy as np
from kernels import microkernel
from kernels.jit import jit
microkernel.host_lanes = lambda: int(sys.argv[1])  # LLVM makes two registers of one it does not have
from kernels.microkernel import NONE, lanes, multiply, spare

@jit()
def width():
    return lanes()

@jit()
def product(a, rows, columns, b, c, at, to, n, bias, floor, add, b_row):
    multiply(
        a.ctypes.data, rows, rows.size, columns, columns.size, b.ctypes.data, c.ctypes.data + 4 * at,
        to, n, bias.ctypes.data if bias.size else np.int64(0), np.float32(floor), add, spare(), b_row,
    )
    return a.size + b.size + c.size + bias.size  # used last here: so they are not freed before

assert width() == int(sys.argv[1])
rng, none = np.random.default_rng(0), np.empty(0, np.float32)
WIDTHS = 1, 8, 9, 16, 17, 24, 25, 31, 32, 33, 48, 70
for m, k, n in [(m, 1 + m, n) for m in range(1, 15) for n in WIDTHS] + [
        (3, 1500, 40), (13, 2100, 33), (7, 5000, 16)]:
    a = rng.standard_normal((m, k + 3)).astype(np.float32)  # rows with a gap
    b = rng.standard_normal((k, n)).astype(np.float32)
    old = rng.standard_normal((m, n)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    panels = -(-n // 16)
    wide = np.zeros((k + 1, panels * 16), np.float32)
    wide[:k, :n], wide[k, :n] = b, bias
    packed = np.ascontiguousarray(wide[:k].reshape(k, panels, 16).transpose(1, 0, 2))
    exact = a[:, :k].astype(float) @ b
    for add, floor, with_bias in (False, NONE, False), (True, NONE, False), (False, 0, True):
        whole = np.full((m + 2, n + 5), 7, np.float32)  # a line before and behind, and gaps
        whole[1:-1, :n] = old if add else np.nan
        for given, b_row in [(packed, 0)] + [(np.ascontiguousarray(wide[:k]), n)] * (n % 16 == 0):
            got = whole.copy()
            product(
                a.ravel(), np.arange(m) * (k + 3), np.arange(k), given.ravel(), got.ravel(), n + 5,
                np.arange(m) * (n + 5), n, wide[k] if with_bias else none, floor, add, b_row,
            )
            want = np.maximum(exact + (old if add else 0) + (bias if with_bias else 0), floor)
            np.testing.assert_allclose(got[1:-1, :n], want, rtol=0, atol=1e-6 * k + 1e-5)
            assert (got[[0, -1]] == 7).all() and (got[:, n:] == 7).all()
"""


@pytest.mark.parametrize("lanes", (8, 16))
def test_products_with_vectors_of_either_width(lanes, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PRODUCTS, str(lanes)], capture_output=True, text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
