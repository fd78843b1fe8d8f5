"""One generator for everything random: weights, dropout, shuffling. Drawn on the CPU, so that a seed
gives the same numbers on every device."""

import numpy as np

_generator = np.random.default_rng()


def seed(number):
    """Restart the generator; the same number gives the same weights, masks and orders."""
    global _generator
    _generator = np.random.default_rng(number)


def generator():
    """The NumPy Generator in use."""
    return _generator


def get_state():
    """The generator's state: a dictionary that JSON can hold, for `set_state`."""
    return _generator.bit_generator.state


def set_state(state):
    _generator.bit_generator.state = state
