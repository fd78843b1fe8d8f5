"""What the three recurrent cells share: checks, the gradient gate, and a sigmoid that is safe.

The gradient gate, gate = (scale, limit), controls how much gradient flows back through time. It
does nothing forward. Backward, the gradient of every state vector that enters a step's cell from
the step before (the initial state into the first step too) is multiplied by `scale` and then, if
`limit` is a number, shortened per sample so that its L2 norm over the units is at most `limit`.
A masked step, which carries the state on, has no cell and no gate.
"""

from kernels.backend import is_array


def check(gate, mask, /, **arrays):
    """Check shapes against (axes by name) and return the gate in normal form.

    arrays: name=(array, axes), where an axis is a size or a letter that stands for one size.
    """
    sizes = {}
    for name, (array, axes) in arrays.items():
        if not is_array(array):
            raise TypeError(
                f"{name} must be an array, got {type(array).__name__}; numpy.asarray makes it one"
            )
        if array.ndim != len(axes):
            raise ValueError(_expected(name, axes, array))
        for axis, size in zip(axes, array.shape):
            times, letter = (int(axis[:-1] or 1), axis[-1]) if isinstance(axis, str) else (1, axis)
            known = letter if isinstance(letter, int) else sizes.setdefault(letter, size // times)
            if size != times * known:
                found = ", ".join(f"{key}={value}" for key, value in sizes.items())
                raise ValueError(f"{_expected(name, axes, array)} where {found}")
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must hold floating point numbers, got {array.dtype}")
    if mask is not None:
        if not is_array(mask) or mask.dtype != bool:
            raise TypeError("mask must be an array of bool, or None")
        if mask.shape != (sizes["N"], sizes["T"]):
            raise ValueError(
                f"mask must have shape (N, T) = {sizes['N'], sizes['T']}, got {mask.shape}"
            )
    if gate is None:
        return None
    try:
        scale, limit = gate
        scale, limit = float(scale), None if limit is None else float(limit)
    except (TypeError, ValueError):
        raise ValueError(f"gate must be None or (scale, limit or None), got {gate!r}") from None
    if not scale >= 0 or (limit is not None and not limit > 0):
        raise ValueError(f"gate needs scale >= 0 and limit > 0 or None, got {gate!r}")
    return scale, limit


def _expected(name, axes, array):
    return f"{name} must have shape ({', '.join(map(str, axes))}), got {array.shape}"


def sigmoid(xp, x):
    """1 / (1 + exp(-x)) = (1 + tanh(x/2)) / 2, which never overflows."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5


def through_gate(xp, gradient, gate):
    """Pass gradients (..., U) of a state back through the gradient gate."""
    if gate is None:
        return gradient
    scale, limit = gate
    gradient = gradient * scale
    if limit is not None:
        norm = xp.sqrt((gradient * gradient).sum(axis=-1, keepdims=True))
        gradient = gradient * (limit / xp.maximum(norm, limit))
    return gradient


def before(xp, states, first):
    """The state before every step: states (N, T, U), first (N, U) -> (N, T, U)."""
    previous = xp.empty(states.shape, states.dtype)
    previous[:, :1] = first[:, None]
    previous[:, 1:] = states[:, :-1]
    return previous


def rows(array):
    """(N, T, K) -> (N·T, K)"""
    n, t, k = array.shape
    return array.reshape(n * t, k)
