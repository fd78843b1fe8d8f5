"""Optimizers: weights one step down their gradients, with Keras's arguments, defaults and formulas.

    optimizer = Adam(learning_rate=1e-3)
    for x, y in batches:
        loss = losses.mean_squared_error(y, model(x)).mean()
        loss.backward()                        # adds to .grad of every parameter
        optimizer.step(model.parameters())     # moves the parameters, then clears every .grad

`step` clears the gradients that it used, so there is nothing to forget; several `backward()` before
one step add up their gradients. Weights change in place (their arrays stay the same arrays).
"""

import contextlib
import math

import numpy as np

import kernels
from kernels import backend
from minideep import schedules  # noqa: F401 (optimizers.schedules, as in Keras)
from minideep.config import Configurable
from minideep.tensor import Tensor

__all__ = "Adam AdamW Optimizer RMSprop SGD clip_by_global_norm get global_norm schedules".split()


class Optimizer(Configurable):
    """What all optimizers share: learning rate, clipping, weight decay, averaging, state.

    learning_rate: a number, or a function of the step (minideep.schedules).
    weight_decay: each step first takes weight_decay · learning_rate of every weight off it
      (decoupled from the gradient: Loshchilov & Hutter 2019, arXiv:1711.05101).
    clipvalue: limit of each gradient element; clipnorm: of each parameter's gradient norm;
      global_clipnorm: of the norm of all gradients together. One of them at most.
    use_ema: keep an exponential moving average of the weights, average = ema_momentum · average +
      (1 - ema_momentum) · weight after each step; `averaged()` and `finalize()` use it.

    A subclass has `slots`, the names of the arrays that it keeps for each parameter, and
    `update(w, g, state, learning_rate)`, which changes w in place.
    """

    slots = ()

    def __init__(self, learning_rate, weight_decay=None, clipnorm=None, clipvalue=None,
                 global_clipnorm=None, use_ema=False, ema_momentum=0.99):
        if sum(c is not None for c in (clipnorm, clipvalue, global_clipnorm)) > 1:
            raise ValueError("only one of clipnorm, clipvalue and global_clipnorm can be given; got "
                             f"{clipnorm}, {clipvalue} and {global_clipnorm}")
        for name, limit in (("clipnorm", clipnorm), ("clipvalue", clipvalue),
                            ("global_clipnorm", global_clipnorm)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}={limit}; it must be above 0")
        self.learning_rate = learning_rate
        self.weight_decay, self.clipnorm, self.clipvalue = weight_decay, clipnorm, clipvalue
        self.global_clipnorm, self.use_ema, self.ema_momentum = global_clipnorm, use_ema, ema_momentum
        self.iterations = 0
        self._parameters, self._states = None, []  # a dict of arrays for each parameter

    @property
    def learning_rate(self):
        """The learning rate of the next step."""
        rate = self._learning_rate
        return float(rate(self.iterations) if callable(rate) else rate)

    @learning_rate.setter
    def learning_rate(self, value):
        if callable(getattr(self, "_learning_rate", None)) and not callable(value):
            raise TypeError("the learning rate follows a schedule; make the optimizer with a number "
                            "to set it, or change the schedule")
        if not callable(value) and not (isinstance(value, (int, float, np.number)) and value >= 0):
            raise ValueError(f"learning_rate={value!r}; it must be a number >= 0, or a schedule")
        self._learning_rate = value if callable(value) else float(value)

    # ---------------------------------------------------------------------------------- one step

    def step(self, parameters):
        """Apply `.grad` of each parameter, then clear it. Parameters whose .grad is None stay as
        they are. RuntimeError if all are None: no backward() has been called since the last step."""
        parameters = list(parameters)
        gradients = [p.grad for p in parameters]
        if parameters and all(g is None for g in gradients):
            raise RuntimeError("no parameter has a gradient; call loss.backward() before step() "
                               "(step() clears the gradients that it has used)")
        for p in parameters:
            p.grad = None
        self.apply(gradients, parameters)

    def apply(self, gradients, parameters):
        """One step with gradients given as tensors or arrays, None for a parameter to leave alone.
        FloatingPointError, and nothing changed, if clipping by norm meets one that is not finite."""
        parameters = list(parameters)
        gradients = [g.data if isinstance(g, Tensor) else g for g in gradients]
        if len(gradients) != len(parameters):
            raise ValueError(f"{len(gradients)} gradients for {len(parameters)} parameters")
        self._meet(parameters)
        gradients = self._clip(gradients)
        rate = self.learning_rate
        for p, g, state in zip(parameters, gradients, self._states):
            if g is None:
                continue
            if g.shape != p.shape:
                raise ValueError(f"a gradient of shape {g.shape} for a parameter of shape {p.shape}")
            if self.weight_decay:
                p.data -= p.data * (self.weight_decay * rate)
            self.update(p.data, g, state, rate)
        if self.use_ema:
            keep = self.ema_momentum if self.iterations else 0.0
            for p, state in zip(parameters, self._states):
                state["average"] *= keep
                state["average"] += (1 - keep) * p.data
        self.iterations += 1

    def _meet(self, parameters):
        """Make the state of new parameters; check that they are the same at every step."""
        if self._parameters is None:
            names = self.slots + ("average",) * self.use_ema
            loaded, self._states = self._states, []
            if loaded and len(loaded) != len(parameters):
                raise ValueError(f"the loaded optimizer state is for {len(loaded)} parameters; these "
                                 f"are {len(parameters)}")
            for i, p in enumerate(parameters):
                state = loaded[i] if loaded else {n: np.zeros(p.shape, p.dtype) for n in names}
                if set(state) != set(names) or any(a.shape != p.shape for a in state.values()):
                    shapes = {name: a.shape for name, a in state.items()}
                    raise ValueError(f"the loaded optimizer state of parameter {i} is {shapes}; "
                                     f"expected {names} of shape {p.shape}")
                self._states.append(state)
            self._parameters = parameters
        if len(parameters) != len(self._parameters) or any(
                a is not b for a, b in zip(parameters, self._parameters)):
            raise ValueError("these are not the parameters of the first step, which this optimizer "
                             "keeps its state for; make a new optimizer for new parameters")
        for p, state in zip(parameters, self._states):  # the model may have moved to the GPU
            for name, array in state.items():
                state[name] = backend.to_device(array, p.device)

    def _clip(self, gradients):
        if self.clipvalue:
            c = self.clipvalue
            return [None if g is None else backend.array_module(g).clip(g, -c, c) for g in gradients]
        if self.clipnorm:
            return [clip_by_global_norm([g], self.clipnorm)[0][0] for g in gradients]
        if self.global_clipnorm:
            return clip_by_global_norm(gradients, self.global_clipnorm)[0]
        return gradients

    # ------------------------------------------------------------------------- averages and state

    @contextlib.contextmanager
    def averaged(self):
        """Context manager: the parameters hold their averages inside, to evaluate or save them."""
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _swap_averages(self):
        if not self.use_ema or self._parameters is None:
            raise RuntimeError("there are no averages: make the optimizer with use_ema=True, and "
                               "take a step")
        for p, state in zip(self._parameters, self._states):
            weight = p.data.copy()
            p.data[...] = state["average"]
            state["average"] = weight

    def finalize(self):
        """Give the parameters their averages for good; `fit` does at its end, as in Keras."""
        for p, state in zip(self._parameters or (), self._states):
            p.data[...] = state["average"]

    def state_dict(self):
        """{name: NumPy array}: all that the next step depends on besides weights and gradients."""
        arrays = {"iterations": np.array(self.iterations)}
        if not callable(self._learning_rate):
            arrays["learning_rate"] = np.array(self._learning_rate)
        for i, state in enumerate(self._states):
            arrays.update({f"{i}.{name}": backend.to_numpy(a).copy() for name, a in state.items()})
        return arrays

    def load_state_dict(self, arrays):
        """Continue from a `state_dict()`; checked against the parameters at the next step."""
        if "iterations" not in arrays:
            raise ValueError(f"not an optimizer's state: no 'iterations' among {sorted(arrays)[:8]}")
        self.iterations = int(arrays["iterations"])
        if "learning_rate" in arrays and not callable(self._learning_rate):
            self._learning_rate = float(arrays["learning_rate"])
        states = {}
        for key, array in arrays.items():
            number, dot, name = key.partition(".")
            if dot:
                states.setdefault(int(number), {})[name] = array.copy()
        self._states = [states[i] for i in sorted(states)]
        if not self.slots and not self.use_ema and self._parameters:
            self._states = [{} for _ in self._parameters]
        self._parameters = None


class SGD(Optimizer):
    """w -= lr·g; with momentum v = momentum·v - lr·g, w += v; with Nesterov's w += momentum·v - lr·g
    (Sutskever et al. 2013)."""

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, **options):
        super().__init__(learning_rate, **options)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum}; it must lie in [0, 1]")
        self.momentum, self.nesterov = momentum, nesterov
        self.slots = ("momentum",) if momentum else ()

    def update(self, w, g, state, learning_rate):
        if not self.momentum:
            w -= learning_rate * g
            return
        v = state["momentum"]
        v *= self.momentum
        v -= learning_rate * g
        w += self.momentum * v - learning_rate * g if self.nesterov else v


class RMSprop(Optimizer):
    """v = rho·v + (1 - rho)·g²; w -= lr·g / √(v + epsilon) (Hinton 2012). centered: with
    v - (average of g)² for v; momentum: the step is added to `momentum` times the last one."""

    def __init__(self, learning_rate=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False,
                 **options):
        super().__init__(learning_rate, **options)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered
        self.slots = (("velocity",) + ("momentum",) * (momentum > 0)
                      + ("average_gradient",) * centered)

    def update(self, w, g, state, learning_rate):
        xp, v = backend.array_module(w), state["velocity"]
        v *= self.rho
        v += (1 - self.rho) * g * g
        variance = v + self.epsilon
        if self.centered:
            mean = state["average_gradient"]
            mean *= self.rho
            mean += (1 - self.rho) * g
            variance -= mean * mean
        step = learning_rate * g / xp.sqrt(variance)
        if self.momentum > 0:
            state["momentum"] *= self.momentum
            state["momentum"] += step
            step = state["momentum"]
        w -= step


class Adam(Optimizer):
    """m and v are running means of g and g²; w -= lr · √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + epsilon).

    Kingma & Ba 2014 (arXiv:1412.6980) in the order at the end of their section 2, as in Keras:
    epsilon is added to √v before the bias correction (PyTorch adds it after).
    """

    slots = ("momentum", "velocity")

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **options):
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def update(self, w, g, state, learning_rate):
        kernels.adam(w, g, state["momentum"], state["velocity"], learning_rate,
                     self.iterations + 1, self.beta_1, self.beta_2, self.epsilon)


class AdamW(Adam):
    """Adam with weight decay on by default."""

    def __init__(self, learning_rate=0.001, weight_decay=0.004, **options):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)


def global_norm(gradients):
    """√(Σ g²) over all elements of all gradients (tensors or arrays; None counts nothing), a float."""
    arrays = [g.data if isinstance(g, Tensor) else g for g in gradients if g is not None]
    # Summed in float64: squares of float32 gradients overflow above 1e19.
    return math.sqrt(sum(float((a.astype("float64") ** 2).sum()) for a in arrays))


def clip_by_global_norm(gradients, limit):
    """(gradients, norm): the same directions, scaled down where their norm together is above
    `limit`. FloatingPointError if the norm is NaN or infinite."""
    norm = global_norm(gradients)
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the norm of the gradients is {norm}; the parameters were left as they are. Find the "
            "op that made it with minideep.detect_anomaly(), or lower the learning rate")
    if norm <= limit:
        return list(gradients), norm
    return [None if g is None else g * (limit / norm) for g in gradients], norm


_names = {c.__name__.lower(): c for c in (SGD, RMSprop, Adam, AdamW)}


def get(optimizer):
    """An Optimizer from its name ("adam", "sgd", "rmsprop", "adamw"), or the one given."""
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer()
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer.lower() not in _names:
        raise ValueError(f"there is no optimizer {optimizer!r}; there are {sorted(_names)}")
    return _names[optimizer.lower()]()
