import numpy as np
import pytest

from minideep.utils import to_categorical


def test_one_hot_rows():
    np.testing.assert_array_equal(to_categorical([0, 2]), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(to_categorical([[1], [0]]), [[0, 1], [1, 0]])
    assert to_categorical([[0, 1], [1, 1]], 4).shape == (2, 2, 4)
    assert to_categorical([], 3).shape == (0, 3)


@pytest.mark.parametrize("x, n, words", [([0, 3], 3, "num_classes=3"), ([-1], None, "0, 1, 2"),
                                         ([0.5], None, "0, 1, 2")])
def test_what_is_no_class_number_is_refused(x, n, words):
    with pytest.raises(ValueError, match=words):
        to_categorical(x, n)
