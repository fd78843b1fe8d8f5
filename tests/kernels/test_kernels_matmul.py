"""The product of two matrices: every rung against the formula, the compiled one against float64."""

import numpy as np
import pytest
from check_rungs import check_cuda, check_rungs
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.jit import problem
from kernels.matmul import matmul

some = st.integers(0, 7)


@settings(max_examples=30, deadline=None)
@given(some, some, some, st.integers(0, 2**32 - 1))
def test_every_rung_equals_the_formula(m, k, n, seed):
    rng = np.random.default_rng(seed)
    check_rungs(matmul, rng.standard_normal((m, k)), rng.standard_normal((k, n)))


@pytest.mark.skipif(problem() is not None, reason=f"Numba: {problem()}")
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1),
       st.booleans(), st.booleans())
def test_compiled_of_all_sizes_and_orders(m, k, n, seed, turn_a, turn_b):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, m) if turn_a else (m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if turn_b else (k, n)).astype(np.float32)
    a, b = a.T if turn_a else a, b.T if turn_b else b
    y = matmul.rungs["compiled"](a, b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert y.shape == exact.shape and y.dtype == np.float32
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-5 * abs(exact).max())


def test_the_gradients_of_a_dense_layer_choose_it(rng=np.random.default_rng(0)):
    x, w, g = (rng.standard_normal(s).astype(np.float32) for s in ((8, 600), (600, 300), (8, 300)))
    assert kernels.explain(matmul, x, w).chosen == "array"
    if problem() is not None:
        pytest.skip(f"Numba: {problem()}")
    assert kernels.explain(matmul, g, w.T).chosen == "compiled"
    assert kernels.explain(matmul, x.T, g).chosen == "compiled"


@pytest.mark.parametrize("a, b, error", [
    (np.ones((2, 3)), np.ones((2, 3)), ValueError),
    (np.ones(3), np.ones((3, 2)), ValueError),
    ([[1.0]], np.ones((1, 2)), TypeError),
])  # fmt: skip
def test_errors_say_what_is_wrong(a, b, error):
    with pytest.raises(error, match="must"):
        matmul(a, b)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 70), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_tensor_cores(m, k, n, seed):
    """Run on the CPU by `check_rungs`, where their rounding is missing; K and N come in fours."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, 4 * k)), rng.standard_normal((4 * k, 4 * n))
    rung, asked = matmul.rungs["cuda_tf32"], {"matmul": "cuda_tf32"}
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    assert "keeps 3 digits only" in rung.refusal("cuda", (a32, b32))
    with kernels.use(**asked):
        assert "multiples of 4" in rung.refusal("cuda", (a32[:, 1:], b32[1:]))
        wide = np.broadcast_to(np.float32(0), (4, 65535 * 64 + 4))
        assert "N 4194240 at most" in rung.refusal("cuda", (a32[:, :4], wide))
    check_cuda(matmul, rung, (a, b), a @ b, 3e-5, asked)
