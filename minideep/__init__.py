"""minideep: a deep-learning engine made to be read. Start with tensor.py and autograd.py."""

import importlib

from minideep.tensor import Tensor, tensor
from minideep.autograd import grad
from minideep.device import device
from minideep.gradcheck import gradcheck
from minideep.mode import detect_anomaly, enable_grad, no_grad
from minideep.random import seed
from minideep.recompute import checkpoint
from minideep import ops, random

__all__ = """Tensor activations callbacks checkpoint data detect_anomaly device enable_grad grad
gradcheck initializers layers losses metrics models no_grad ops optimizers random schedules seed
tensor utils""".split()


def __getattr__(name):
    """The other modules are loaded when they are first named: `import minideep` stays quick."""
    if name in __all__:
        return importlib.import_module(f"minideep.{name}")
    raise AttributeError(f"module 'minideep' has no attribute {name!r}")


def __dir__():
    return __all__
