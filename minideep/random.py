"""One generator for everything random: weights, dropout, shuffling. Drawn on the CPU, so that a seed
gives the same numbers on every device."""

import numpy as np

_generator = None  # made when first used: importing numpy.random takes longer than all of minideep


def seed(number):
    """Restart the generator; the same number gives the same weights, masks and orders."""
    global _generator
    _generator = np.random.default_rng(number)


def generator():
    """The NumPy Generator in use; unseeded until `seed` is called."""
    if _generator is None:
        seed(None)
    return _generator


def get_state():
    """The generator's state: a dictionary that JSON can hold, for `set_state`."""
    return generator().bit_generator.state


def set_state(state):
    generator().bit_generator.state = state
