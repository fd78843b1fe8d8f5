"""Solutions of lesson 08."""

from kernels import backend


def softmax(x):
    """exp(x) / Σ exp(x) over the last axis; the largest is taken out so that nothing overflows."""
    xp = backend.array_module(x)
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def where_it_lives(model):
    """The devices of the weights. (A model on two devices says so at its first op on both.)"""
    return {backend.device_of(weight.data) for weight in model.weights}
