"""Cells' colours: every rung against the formula, the formula against OpenCV and known colours."""

import numpy as np
import pytest
from check_rungs import check_rungs
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.lab import lab


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4),
       st.floats(1, 255), st.integers(0, 2**32 - 1))
def test_every_rung_equals_the_formula(n, rows, columns, cell, largest, seed):
    x = np.random.default_rng(seed).uniform(0, largest, (n, rows * cell, columns * cell, 3))
    check_rungs(lab, x, cell, tolerance32=1e-6)


@pytest.mark.parametrize("bgr, expected", [
    ((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((119, 119, 119), (50.03, 0, 0)),
    ((0, 0, 255), (53.24, 80.09, 67.20)), ((0, 255, 0), (87.73, -86.18, 83.18)),
    ((255, 0, 0), (32.30, 79.19, -107.86)),
])  # fmt: skip
def test_known_colours(bgr, expected):
    """Of sRGB's corners, as tables have them (D65)."""
    cell = lab(np.broadcast_to(np.array(bgr, float), (1, 4, 4, 3)))[0, 0, 0]
    found = (cell[0] + 0.5) * 100, cell[1] * 255, cell[2] * 255
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_against_opencv(rng=np.random.default_rng(0)):
    cv2 = pytest.importorskip("cv2")
    x = rng.uniform(0, 255, (40, 60, 3)).astype(np.float32)
    small = cv2.resize(x, (15, 10), interpolation=cv2.INTER_AREA)
    theirs = cv2.cvtColor(small / 255, cv2.COLOR_BGR2Lab)
    ours = lab(x[None])[0]
    # OpenCV looks the powers up in tables
    np.testing.assert_allclose((ours[..., 0] + 0.5) * 100, theirs[..., 0], atol=0.3)
    np.testing.assert_allclose(ours[..., 1:] * 255, theirs[..., 1:], atol=0.6)


def test_three_channels_only():
    with pytest.raises(ValueError, match="three channels"):
        lab(np.ones((1, 4, 4, 1)))
