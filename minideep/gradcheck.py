"""Are the gradients of a function right? Compared with finite differences, in float64.

Along one random direction per input, not element by element: (f(x + εd) - f(x - εd)) / 2ε must be
<grad, d>. A wrong gradient escapes a random direction with probability zero. Order 2 does the same to
the function x -> <grad f(x), v>.
"""

import numpy as np

from minideep.autograd import grad
from minideep.device import current_device, device
from minideep.mode import enable_grad
from minideep.ops import imag, real
from minideep.tensor import Tensor, tensor

__all__ = ["GradientError", "gradcheck"]


class GradientError(AssertionError):
    """A gradient that disagrees with finite differences."""


class CannotCheck(GradientError):
    """There is no slope to compare with: a kink, or numbers that are not finite."""


def gradcheck(f, *inputs, order=2, eps=1e-5, rtol=1e-5, atol=1e-7, directions=2, seed=0):
    """Check the gradients of f(*inputs) to `order` (1 or 2). Returns True or raises GradientError.

    f: a function of tensors that gives a tensor or a list of tensors; the same numbers every time.
    inputs: tensors or arrays; floating ones are checked (in float64, on copies), others passed on;
    all on the device of the first tensor among them, or the current one.
    Points within eps of a kink, where the slope on the left is not the slope on the right, cannot be
    checked and are an error that says so: move the inputs off the kink.
    """
    rng = np.random.default_rng(seed)
    where = next((x.device for x in inputs if isinstance(x, Tensor)), None)
    with device(where or current_device()):
        return _check(f, inputs, order, eps, rtol, atol, directions, rng)


def _check(f, inputs, order, eps, rtol, atol, directions, rng):
    data = [np.array(x.numpy() if isinstance(x, Tensor) else x) for x in inputs]
    floating = [i for i, a in enumerate(data) if a.dtype.kind == "f"]
    data = [a.astype(np.float64) if i in floating else a for i, a in enumerate(data)]
    if not floating:
        raise ValueError("gradcheck needs at least one floating-point input")
    weights = [rng.standard_normal(y.shape) for y in _outputs(f, _tensors(data, ()))]

    def value(tensors):  # any output as one number: its product with random weights
        total = 0.0
        for y, w in zip(_outputs(f, tensors), weights):
            total = total + (y * tensor(w)).sum()
        return total

    _compare(value, data, floating, eps, rtol, atol, directions, rng, "first derivative")
    if order > 1:
        vs = [rng.standard_normal(data[i].shape) for i in floating]

        def slope(tensors):
            tensors = [t if t.requires_grad or i not in floating else
                       Tensor(t.data, requires_grad=True) for i, t in enumerate(tensors)]
            y = value(tensors)
            if not isinstance(y, Tensor) or not y.requires_grad:
                return tensor(np.zeros(()))
            gs = grad(y, [tensors[i] for i in floating], create_graph=True, allow_unused=True)
            terms = [(g * tensor(v)).sum() for g, v in zip(gs, vs) if g is not None]
            return sum(terms[1:], terms[0]) if terms else tensor(np.zeros(()))

        _compare(slope, data, floating, eps, rtol, atol, directions, rng, "second derivative")
    return True


def _tensors(data, floating):
    return [tensor(a, requires_grad=i in floating) for i, a in enumerate(data)]


def _outputs(f, tensors):
    with enable_grad():
        ys = f(*tensors)
    ys = [ys] if isinstance(ys, Tensor) else list(ys)
    return [part for y in ys for part in ((real(y), imag(y)) if y.dtype.kind == "c" else (y,))]


def _compare(value, data, floating, eps, rtol, atol, directions, rng, what):
    tensors = _tensors(data, floating)
    y = value(tensors)
    gs = [None] * len(floating)
    if isinstance(y, Tensor) and y.requires_grad:
        gs = grad(y, [tensors[i] for i in floating], allow_unused=True)
    for i, g in zip(floating, gs):
        for number in range(directions if data[i].size else 0):
            d = rng.standard_normal(data[i].shape)
            d /= np.linalg.norm(d)
            analytic = 0.0 if g is None else float((g.numpy() * d).sum())

            def at(step):
                moved = [np.asarray(a + step * d) if j == i else a for j, a in enumerate(data)]
                return float(value(_tensors(moved, ())))

            right, left, here = at(eps), at(-eps), at(0.0)
            name = f"{what}, input {i} of shape {data[i].shape}, random direction {number}"
            if not np.isfinite([right, left, here]).all():
                raise CannotCheck(f"{name}: the function is {left}, {here}, {right} there: not finite")
            numeric = (right - left) / (2 * eps)
            noise = 1e-15 * max(abs(right), abs(left)) / eps * 10
            tolerance = atol + rtol * max(abs(numeric), abs(analytic)) + noise
            agree = abs(numeric - analytic) <= tolerance  # never of a NaN
            bend = abs((right - here) - (here - left)) / eps  # O(ε) where smooth, O(1) at a kink
            if agree and bend <= 100 * tolerance:
                continue
            closer, other = at(eps / 8), at(-eps / 8)
            shrunk = abs((closer - here) - (here - other)) / (eps / 8)  # bend / 8 where smooth
            finer = (closer - other) / (eps / 4)
            if bend > 100 * tolerance and (shrunk > bend / 2 or abs(finer - numeric) > tolerance):
                raise CannotCheck(
                    f"{name}: the slope is {(right - here) / eps:.9g} on one side and "
                    f"{(here - left) / eps:.9g} on the other: a kink within eps={eps:g} (the "
                    f"gradient there is {analytic:.9g}); move the inputs away from it")
            if not agree and not abs(finer - analytic) <= tolerance:
                raise GradientError(f"{name}: the gradient says {analytic:.9g}, finite differences "
                                    f"say {numeric:.9g}")
