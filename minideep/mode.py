"""Switches of the engine, one set for each thread."""

import contextlib
import threading


class Mode(threading.local):
    grad = True      # are ops recorded?
    anomaly = False  # is every result checked for NaN and infinity?
    pulled = None    # the node whose vjp is running: it answers for the ops inside
    again = False    # is a checkpoint running its function the second time?


mode = Mode()


@contextlib.contextmanager
def set_mode(**values):
    old = {name: getattr(mode, name) for name in values}
    mode.__dict__.update(values)
    try:
        yield
    finally:
        mode.__dict__.update(old)


def no_grad():
    """Context manager and decorator: ops inside are not recorded."""
    return set_mode(grad=False)


def enable_grad():
    """Context manager and decorator: ops inside are recorded, also within `no_grad`."""
    return set_mode(grad=True)


def detect_anomaly():
    """Context manager: name the op and the source line that made the first NaN or infinity,
    forward or backward (FloatingPointError), and check saved arrays in full. Slow; for debugging."""
    return set_mode(anomaly=True)


def grad_enabled():
    """True where ops are recorded: outside `no_grad`, and in a vjp under create_graph=True."""
    return mode.grad
