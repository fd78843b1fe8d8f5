"""What pages are made of."""

import pytest

from tracker.page import round_numbers


@pytest.mark.parametrize("low, high, most, expected", [
    (0, 1, 5, [0, .2, .4, .6, .8, 1]), (0, 1, 2, [0, .5, 1]), (0, .8, 5, [0, .2, .4, .6, .8]),
    (0, 37, 5, [0, 10, 20, 30]), (-1, 1, 2, [-1, 0, 1]), (.3, .9, 5, [.4, .6, .8]),
    (0, 3e-4, 5, [0, 1e-4, 2e-4, 3e-4])])
def test_axes_have_round_numbers(low, high, most, expected):
    """Evenly spaced ones, of which a rounded label is the number itself."""
    assert round_numbers(low, high, most) == expected
