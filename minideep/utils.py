"""What Keras programs import from keras.utils."""

import numpy as np

from minideep.random import seed as set_random_seed

__all__ = ["set_random_seed", "to_categorical"]


def to_categorical(x, num_classes=None):
    """Class numbers (...) as one-hot rows (..., num_classes), float32; an axis of length 1 at the end
    is dropped first, as in Keras. num_classes: the largest number + 1 if not given."""
    x = np.asarray(x)
    x = x[..., 0] if x.ndim > 1 and x.shape[-1] == 1 else x
    numbers = x.astype(np.int64)
    if not np.array_equal(numbers, x) or numbers.size and numbers.min() < 0:
        raise ValueError("to_categorical() wants class numbers 0, 1, 2, ...; these are not")
    n = int(numbers.max(initial=-1)) + 1 if num_classes is None else num_classes
    if numbers.size and numbers.max() >= n:
        raise ValueError(f"class {numbers.max()} does not fit into num_classes={n}")
    return np.eye(n, dtype=np.float32)[numbers]
