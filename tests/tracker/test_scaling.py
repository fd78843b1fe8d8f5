"""The growth that two heights of a response tell, against responses whose top is known."""

import numpy as np
import pytest

from tracker.scaling import CURVATURE, LEAST, PART, Scaling


def heights(scales, growth, curvature, top=.8):
    return [top * (1 - curvature * (np.log(s) - np.log(growth)) ** 2) for s in scales]


def looks(n, step=1.08):
    return [(1., step if i % 2 == 0 else 1 / step) for i in range(n)]


@pytest.mark.parametrize("curvature", [2., 5., 12.])
@pytest.mark.parametrize("growth", [.97, 1., 1.01, 1.03])
def test_the_growth_of_a_target_whose_response_is_a_parabola(growth, curvature):
    scaling = Scaling()
    for scales in looks(200):       # no growth: the curvature becomes known
        scaling.follow(heights(scales, 1., curvature), scales)
    assert scaling.curvature == pytest.approx(curvature, rel=1e-3)
    for scales in looks(2):
        told = np.log(scaling.of(heights(scales, growth, curvature), scales)) / PART
        # The change is divided by the height at scale 1, which is a little less than the top.
        assert told == pytest.approx(np.log(growth), abs=.1 * abs(np.log(growth)) + 1e-6)


def test_looks_of_any_size_tell_the_same_curvature():
    scaling = Scaling()
    for scales in looks(200, 1.08) + looks(200, 1.2):
        scaling.follow(heights(scales, 1., 5.), scales)
        told = scaling.of(heights(scales, 1., 5.), scales)
    assert scaling.curvature == pytest.approx(5, rel=1e-3) and told == pytest.approx(1, abs=1e-3)


def test_steady_growth_is_not_taken_for_curvature():
    scaling = Scaling()
    for scales in looks(400):
        scaling.follow(heights(scales, 1.02, 5.), scales)
    assert scaling.curvature == pytest.approx(5, rel=.05)


def test_the_size_settles_on_the_targets():
    scaling, size = Scaling(), 1.
    for scales in looks(100):
        seen = heights(scales, 1.3 / size, 5.)
        size *= scaling.of(seen, scales)
        scaling.follow(seen, scales)
    assert size == pytest.approx(1.3, rel=.01)


def test_one_look_says_nothing():
    scaling = Scaling()
    before = scaling.curvature
    scaling.follow([.7], (1.,))
    assert scaling.of([.7], (1.,)) == 1 and scaling.curvature == before


@pytest.mark.parametrize("seen", [[1e-9, 2.], [0., 0.], [.5, 5.], [-.1, .4], [5., 0.], [.4, -.1]])
def test_no_look_moves_further_than_it_looked(seen):
    """Also where the response is highest at the other size, every time, or is no response at all.
    Nothing is learned from it."""
    scaling = Scaling()
    for scales in looks(50):
        assert abs(np.log(scaling.of(seen, scales))) <= np.log(1.08) + 1e-9
        scaling.follow(seen, scales)
    assert scaling.curvature == CURVATURE


@pytest.mark.parametrize("larger", [1.6, 1 / 1.6])
def test_a_target_of_quite_another_size_is_followed(larger):
    """So far from its top the response curves upwards, as if c were below LEAST."""
    scaling, size, lowest = Scaling(), 1., CURVATURE
    for scales in looks(200):
        away = np.log(scales) - np.log(larger / size)
        seen = .8 / (1 + 20 * away ** 2)
        size *= scaling.of(seen, scales)
        scaling.follow(seen, scales)
        lowest = min(lowest, scaling.curvature)
    assert lowest < LEAST
    assert size == pytest.approx(larger, rel=.01)


def test_without_a_top_a_small_difference_is_a_small_step():
    scaling = Scaling()
    for scales in looks(100):
        scaling.follow([.4, .44], scales)       # larger at the other size, whichever it is
    assert scaling.curvature < 0
    assert 1 < scaling.of([.4, .401], (1., 1.08)) < 1.02


def test_a_difference_between_next_to_nothing_is_next_to_nothing():
    level = Scaling().of([.4, .4], (1., 1.08))
    assert Scaling().of([1e-6, 5e-6], (1., 1.08)) == pytest.approx(level, rel=.01)
