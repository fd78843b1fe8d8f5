"""Switches of the engine, one set for each thread."""

import functools
import inspect
import threading


class Mode(threading.local):
    def __init__(self):
        self.before = []  # the switches outside of each `set_mode` that we are in

    grad = True      # are ops recorded?
    anomaly = False  # is every result checked for NaN and infinity?
    pulled = None    # the node whose vjp is running: it answers for the ops inside
    again = False    # is a checkpoint running its function the second time?


mode = Mode()


class set_mode:
    """Context manager and decorator: other switches inside. One may lie in itself, and serve
    several threads."""

    def __init__(self, **values):
        self.values = values

    def __enter__(self):
        mode.before.append({name: getattr(mode, name) for name in self.values})
        mode.__dict__.update(self.values)

    def __exit__(self, *error):
        mode.__dict__.update(mode.before.pop())

    def __call__(self, function):
        if (inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)
                or inspect.isasyncgenfunction(function)):
            name = getattr(function, "__name__", function)
            raise TypeError(f"{name} runs after its call has returned, in pieces, outside of this "
                            "decorator; write `with ...:` around each piece inside it, or decorate an "
                            "ordinary function")

        @functools.wraps(function)
        def inside(*args, **kwargs):
            with set_mode(**self.values):
                return function(*args, **kwargs)
        return inside


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
