"""The product of two matrices: every rung against the formula, the compiled ones against float64."""

import sys

import numpy as np
import pytest
from check_rungs import check_cuda, check_rungs
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
import minideep
from kernels.jit import problem
from kernels.matmul import matmul
from minideep import layers, models

some = st.integers(0, 7)
needs_numba = pytest.mark.skipif(problem() is not None, reason=f"Numba: {problem()}")


@settings(max_examples=30, deadline=None)
@given(some, some, some, st.integers(0, 2**32 - 1))
def test_every_rung_equals_the_formula(m, k, n, seed):
    rng = np.random.default_rng(seed)
    check_rungs(matmul, rng.standard_normal((m, k)), rng.standard_normal((k, n)))


def compare(rung, a, b):
    exact = a.astype(np.float64) @ b.astype(np.float64)
    y = matmul.rungs[rung](a, b)
    assert y.shape == exact.shape and y.dtype == np.float32
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-5 * abs(exact).max())


def matrices(m, k, n, turn_a, turn_b, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, m) if turn_a else (m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if turn_b else (k, n)).astype(np.float32)
    return a.T if turn_a else a, b.T if turn_b else b


@needs_numba
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1),
       st.booleans(), st.booleans())
def test_blocked_of_all_sizes_and_orders(m, k, n, seed, turn_a, turn_b):
    compare("blocked", *matrices(m, k, n, turn_a, turn_b, seed))


@needs_numba
@pytest.mark.parametrize("turn_a", (False, True))
@pytest.mark.parametrize("turn_b", (False, True))
@pytest.mark.parametrize("m, k, n", [(70, 1030, 40), (7, 513, 4099), (100, 3, 8200)])
def test_more_terms_and_columns_than_are_in_the_cache_at_a_time(m, k, n, turn_a, turn_b):
    compare("blocked", *matrices(m, k, n, turn_a, turn_b))


@needs_numba
def test_blocked_of_matrices_that_lie_in_neither_order(rng=np.random.default_rng(0)):
    a, b = rng.standard_normal((2, 240, 240)).astype(np.float32)
    compare("blocked", a[::2, 1::2], b[::2, :77])


@needs_numba
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 64), st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_few_rows_of_all_sizes(m, k, n, seed):
    compare("few_rows", *matrices(m, k, n, False, True, seed))
    compare("few_rows", *matrices(m, k, n, True, True, seed))


@needs_numba
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(3, 70), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_stream_of_all_sizes(few, many, lines, seed):
    """All three products of a dense layer with a batch of `few`."""
    compare("stream", *matrices(few, 8 + many, 16 * lines, False, False, seed))
    compare("stream", *matrices(few, 16 * lines, many, False, True, seed))
    compare("stream", *matrices(many + 1, few, 16 * lines, True, False, seed))
    compare("stream", *matrices(many + 1, few, 16 * lines, False, False, seed))


@needs_numba
def test_a_small_batch_and_a_large_layer_stream(rng=np.random.default_rng(0)):
    x, w, g = (rng.standard_normal(s).astype(np.float32) for s in ((8, 4200), (4200, 512), (8, 512)))
    for a, b in ((x, w), (g, w.T), (x.T, g)):
        assert kernels.explain(matmul, a, b).chosen == "stream"
        compare("stream", a, b)
    odd = np.ones((4200, 511), np.float32)
    for a, b, reason in ((x, w[:, :100].copy(), "caches"), (x, odd, "whole lines"),
                         (x, w.repeat(2, 1)[:, ::2], "order"),
                         (np.ones((8, 2**20), np.float32), np.ones((2, 2**20), np.float32).T, "three"),
                         (np.ones((4100, 8), np.float32), np.ones((512, 8), np.float32).T, "order"),
                         (x[:1], w, "2 to 8"), (np.concatenate([x, x]), w, "2 to 8")):
        assert reason in kernels.explain(matmul, a, b).refused["stream"]


@needs_numba
@pytest.mark.parametrize("rung", ["stream", "blocked"])
def test_long_sums_stay_exact(rung, rng=np.random.default_rng(0)):
    """Of positive numbers: what is added last must not be lost beside what is there."""
    a, b = (rng.random(s, np.float32) for s in ((8, 100_000), (100_000, 16)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(matmul.rungs[rung](a, b), exact, rtol=2e-6)


@needs_numba
@pytest.mark.parametrize("a_dtype, b_dtype", [("f8", "f8"), ("f4", "f8"), ("f8", "f4"), ("c8", "c8")])
def test_compiled_rungs_are_for_float32(a_dtype, b_dtype):
    few, many = np.ones((8, 4096), a_dtype), np.ones((4096, 512), b_dtype)
    tall = np.ones((4096, 8), a_dtype)
    for a, b in ((few, many), (few, np.ones((512, 4096), b_dtype).T), (tall, np.ones((8, 512), b_dtype))):
        assert kernels.explain(matmul, a, b).chosen == "array"


@needs_numba
def test_a_column_is_blas_s(rng=np.random.default_rng(0)):
    a = np.ones((4096, 512), np.float32)
    assert kernels.explain(matmul, a, np.ones((512, 1), np.float32)).chosen == "array"


def test_the_gradients_of_a_dense_layer_choose_what_is_made_for_them(rng=np.random.default_rng(0)):
    x, w, g = (rng.standard_normal(s).astype(np.float32) for s in ((8, 600), (600, 300), (8, 300)))
    assert kernels.explain(matmul, x, w).chosen == "array"
    if problem() is not None:
        pytest.skip(f"Numba: {problem()}")
    assert kernels.explain(matmul, g, w.T).chosen == "few_rows"
    assert kernels.explain(matmul, x.T, g).chosen == "blocked"


@needs_numba
def test_narrow_products_are_left_to_blas(monkeypatch):
    monkeypatch.setattr(sys.modules["kernels.matmul.blocked"], "lanes", lambda: 16)
    a, b = np.ones((32, 64), np.float32), np.ones((64, 4096), np.float32)
    assert kernels.explain(matmul, a, np.asfortranarray(b)).chosen == "blocked"
    assert "64 terms" in kernels.explain(matmul, a, np.asfortranarray(b)).refused["few_rows"]
    assert kernels.explain(matmul, b.T, np.ones((64, 15), np.float32)).chosen == "array"


@needs_numba
@pytest.mark.parametrize("count, lanes, chosen", [(1, 8, "array"), (2, 8, "blocked"), (1, 16, "blocked")])
def test_blas_has_the_large_products_of_one_thread_without_avx512(count, lanes, chosen, monkeypatch):
    monkeypatch.setattr(sys.modules["kernels.matmul.blocked"], "most_threads", lambda: count)
    monkeypatch.setattr(sys.modules["kernels.matmul.blocked"], "lanes", lambda: lanes)
    a = np.ones((128, 129), np.float32)
    assert kernels.explain(matmul, a, a.T).chosen == chosen


@needs_numba
@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("cell, products", [("SimpleRNN", 3), ("LSTM", 3), ("GRU", 4)])
def test_recurrent_layers_leave_blas_asleep(cell, products, monkeypatch):
    """x W, its two gradients or one, dR (and GRU's h R): none of them is BLAS's (see `blocked`)."""
    monkeypatch.setattr(sys.modules["kernels.matmul.blocked"], "most_threads", lambda: 2)
    monkeypatch.setattr(matmul, "picked", {})
    seen, blocked = [], matmul.rungs["blocked"].function
    monkeypatch.setattr(matmul.rungs["blocked"], "function",
                        lambda a, b: seen.append(a.shape) or blocked(a, b))
    x = minideep.tensor(np.ones((16, 16, 96), np.float32))
    model = models.Sequential([getattr(layers, cell)(80)])
    model(x, training=True).sum().backward()
    assert len(seen) == products


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
