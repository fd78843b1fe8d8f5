"""minideep: a deep-learning engine made to be read. Start with tensor.py and autograd.py."""

from minideep.tensor import Tensor, tensor
from minideep.autograd import grad
from minideep.mode import detect_anomaly, enable_grad, no_grad
from minideep.device import device
from minideep.gradcheck import gradcheck
from minideep.random import seed
from minideep.recompute import checkpoint
from minideep import ops, random

__all__ = """Tensor checkpoint detect_anomaly device enable_grad grad gradcheck no_grad ops random seed tensor
""".split()
