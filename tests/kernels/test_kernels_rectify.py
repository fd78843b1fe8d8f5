"""The way back through bias and ReLU: every rung against the formula."""

import numpy as np
import pytest
from check_rungs import check_rungs, numeric_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.rectify import rectify_grad


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=3), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_every_rung_equals_the_formula(rows, channels, seed):
    rng = np.random.default_rng(seed)
    shape = (*rows, channels)
    y = np.maximum(rng.standard_normal(shape), 0)
    check_rungs(rectify_grad, rng.standard_normal(shape), y)


def test_it_is_the_gradient(rng=np.random.default_rng(0)):
    z, b, g = (rng.standard_normal(s) for s in ((5, 3), (3,), (5, 3)))
    dz, db = rectify_grad(g, np.maximum(z + b, 0))
    numeric = numeric_gradient(lambda b: np.maximum(z + b, 0), b, g)
    np.testing.assert_allclose(db, numeric, rtol=1e-7, atol=1e-9)
    numeric = numeric_gradient(lambda z: np.maximum(z + b, 0), z, g)
    np.testing.assert_allclose(dz, numeric, rtol=1e-7, atol=1e-9)


def test_sums_of_many_rows_stay_exact(rng=np.random.default_rng(0)):
    g = rng.uniform(0, 1, (300_000, 17)).astype(np.float32)
    for rung in rectify_grad.rungs.values():
        if rung.name == "compiled" and rung.refusal("cpu", (g, g)) is None:
            np.testing.assert_allclose(rung(g, g)[1], g.sum(axis=0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("g, y, error", [
    (np.ones((2, 3)), np.ones((3, 2)), ValueError),
    (np.ones((2, 3)), np.ones((2, 3), np.float32), ValueError),
    ([1.0], np.ones(1), TypeError),
])  # fmt: skip
def test_errors_say_what_is_wrong(g, y, error):
    with pytest.raises(error, match="must"):
        rectify_grad(g, y)


def test_few_channels_are_left_to_numpy():
    g = np.ones((9, 3), np.float32)
    assert "fewer than 4 channels" in kernels.explain(rectify_grad, g, g).refused["compiled"]
