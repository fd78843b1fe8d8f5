"""Where new tensors are made.

A device says where memory lives, a kernel's rung who computes. `with minideep.device("cuda"):` or
MINIDEEP_DEVICE=cuda decide where `tensor()` and the weights of layers are made; `.to("cuda")` moves.
Nothing ever moves by itself.
"""

import contextlib
import contextvars
import os

from kernels import backend

_current = contextvars.ContextVar("device", default=None)


def current_device():
    """The name of the device on which new tensors are made."""
    return _current.get() or check(os.environ.get("MINIDEEP_DEVICE") or "cpu")


@contextlib.contextmanager
def device(name):
    """Context manager: make new tensors and weights on "cpu" or "cuda"."""
    token = _current.set(check(name))
    try:
        yield
    finally:
        _current.reset(token)


def check(name):
    """`name` if that device can be used here; otherwise an error that says what is missing."""
    backend.module_of(name)
    return name
