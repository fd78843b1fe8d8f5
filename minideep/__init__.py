"""minideep: a deep-learning engine made to be read. Start with tensor.py and autograd.py."""

from minideep.tensor import Tensor, tensor
from minideep.autograd import grad
from minideep.device import device
from minideep.gradcheck import gradcheck
from minideep.mode import detect_anomaly, enable_grad, no_grad
from minideep.random import seed
from minideep.recompute import checkpoint
from minideep import (activations, callbacks, data, initializers, layers, losses, metrics, models,
                      ops, optimizers, random, schedules, utils)

__all__ = """Tensor activations callbacks checkpoint data detect_anomaly device enable_grad grad
gradcheck initializers layers losses metrics models no_grad ops optimizers random schedules seed
tensor utils""".split()
