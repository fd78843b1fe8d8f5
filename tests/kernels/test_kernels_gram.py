"""The memory of samples: every rung against the formula, the formula against matrices."""

import numpy as np
import pytest
from check_rungs import check_rungs
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gram import gram


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(0, 5), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_every_rung_equals_the_formula(samples, frequencies, channels, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, frequencies, channels, 2))
    check_rungs(gram, x, rng.uniform(0, 1, samples), rng.standard_normal(x.shape[1:]))


def test_it_is_the_gram_matrix(rng=np.random.default_rng(0)):
    x = rng.standard_normal((3, 2, 5, 2))
    a, f = rng.uniform(0, 1, 3), rng.standard_normal((2, 5, 2))
    z = x[..., 0] + 1j * x[..., 1]
    for q in range(2):
        matrix = np.einsum("k,kc,kd->cd", a, z[:, q], z[:, q].conj())
        expected = matrix @ (f[q, :, 0] + 1j * f[q, :, 1])
        np.testing.assert_allclose(gram(x, a, f)[q] @ [1, 1j], expected, rtol=1e-12)


@pytest.mark.parametrize("x, a, f, message", [
    (np.ones((2, 3, 4, 2)), np.ones(3), np.ones((3, 4, 2)), "shapes"),
    (np.ones((2, 3, 4)), np.ones(2), np.ones((3, 4)), "shapes"),
    (np.ones((2, 3, 4, 2), complex), np.ones(2), np.ones((3, 4, 2)), "floating point"),
])  # fmt: skip
def test_errors_say_what_is_wrong(x, a, f, message):
    with pytest.raises((ValueError, TypeError), match=message):
        gram(x, a, f)
