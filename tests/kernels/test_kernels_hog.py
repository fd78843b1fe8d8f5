"""HOG: every rung against the formula, the formula against what must hold of pictures."""

import numpy as np
import pytest
from check_rungs import check_rungs
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.hog import CHANNELS, hog


@st.composite
def cases(draw):
    """(x, cell): also whole numbers, on which gradients tie and point along the axes."""
    cell = draw(st.integers(1, 5))
    shape = [draw(st.integers(0, 2)), *(cell * draw(st.integers(1, 4)) for _ in "hw")]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.uniform(0, 255, (*shape, draw(st.integers(1, 3))))
    return np.round(x / draw(st.sampled_from([1, 50]))) if draw(st.booleans()) else x, cell


@settings(max_examples=40, deadline=None)
@given(cases())
def test_every_rung_equals_the_formula(case):
    check_rungs(hog, *case, tolerance32=1e-6)


def test_bands_of_rows(rng=np.random.default_rng(0)):
    """More rows than a band of the compiled rung has."""
    check_rungs(hog, rng.uniform(0, 255, (1, 100, 12, 3)), 4, tolerance32=1e-6)


@pytest.mark.parametrize("o", range(18))
def test_an_edge_is_in_its_direction(o):
    """A ramp that rises in direction o·20° fills channels o and 18 + o % 9, and no other."""
    y, x = np.mgrid[:24, :24]
    ramp = 3 * (x * np.cos(o * np.pi / 9) + y * np.sin(o * np.pi / 9))[None, ..., None]
    cells = hog(ramp + 100)[0, 2:4, 2:4]
    # one direction has all the energy: min(1/√4, .2) from each of four neighbourhoods, halved
    expected = np.zeros(CHANNELS)
    expected[[o, 18 + o % 9]] = 0.4
    expected[27:] = 0.2 / 18**0.5
    np.testing.assert_allclose(cells, np.broadcast_to(expected, cells.shape), atol=1e-6)


def test_light_does_not_matter(rng=np.random.default_rng(1)):
    x = rng.uniform(0, 120, (1, 16, 20, 3))
    np.testing.assert_allclose(hog(2 * x + 15), hog(x), atol=1e-4)


def test_mirrored_images_have_mirrored_cells(rng=np.random.default_rng(2)):
    x = rng.uniform(0, 255, (1, 16, 24, 3))
    cells, mirrored = hog(x)[0], hog(x[:, :, ::-1])[0, :, ::-1]
    o = np.arange(18)
    np.testing.assert_allclose(mirrored[..., :18], cells[..., (9 - o) % 18], atol=1e-12)


@pytest.mark.parametrize(
    "x, cell, message",
    [
        (np.ones((1, 8, 8)), 4, "4 axes"),
        (np.ones((1, 8, 8, 3), np.uint8), 4, "floating point"),
        (np.ones((1, 8, 10, 3)), 4, "not whole cells"),
        (np.ones((1, 8, 8, 3)), 0, "at least 1"),
        ([[1.0]], 4, "numpy.asarray"),
    ],
)
def test_errors_say_what_is_wrong(x, cell, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hog(x, cell)
