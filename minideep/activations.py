"""Activation functions by Keras's names, as layers take them: activation="relu"."""

from minideep import ops
from minideep.ops import (elu, exp, gelu, hard_sigmoid, hard_swish, leaky_relu,  # noqa: F401
                          log_softmax, relu, sigmoid, silu, softmax, softplus, tanh)

__all__ = """elu exponential gelu get hard_sigmoid hard_silu hard_swish leaky_relu linear
log_softmax relu relu6 sigmoid silu softmax softplus swish tanh""".split()


def linear(x):
    """x itself."""
    return x


def relu6(x):
    """min(max(x, 0), 6)."""
    return ops.minimum(relu(x), 6.0)


exponential, hard_silu, swish = exp, hard_swish, silu

functions = {name: globals()[name] for name in __all__ if name != "get"}


def get(activation):
    """The function of that name; None is linear, a function is itself."""
    if activation is None:
        return linear
    if isinstance(activation, str):
        if activation not in functions:
            raise ValueError(f"unknown activation {activation!r}; the activations are "
                             + ", ".join(functions))
        return functions[activation]
    if not callable(activation):
        raise TypeError(f"an activation is a name or a function of a tensor, not {activation!r}")
    return activation
