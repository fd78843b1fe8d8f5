"""Numbers to look at: activations, gradients through time, gates, the loss around the weights."""

import contextlib

import numpy as np

from minideep import ops
from minideep.autograd import grad
from minideep.inspect.observe import observe
from minideep.layers.recurrent import RNN
from minideep.mode import enable_grad, no_grad
from minideep.tensor import Tensor, tensor

__all__ = ["gates", "gradient_flow", "loss_landscape", "record"]


@contextlib.contextmanager
def record(model=None):
    """Keep the output of every layer that runs inside: a dictionary from "model/layer" to a list of
    tensors, one for each call. model: only it and its layers.

        with inspect.record(model) as outputs:
            model(x)
        outputs["sequential/conv2d"][0].shape
    """
    with observe(_Outputs(model)) as observer:
        yield observer.outputs


class _Outputs:
    def __init__(self, model):
        self.layers = None if model is None else {id(layer) for layer in model.sublayers()}
        self.outputs = {}

    def layer_called(self, layer, name, x, y):
        if self.layers is None or id(layer) in self.layers:
            self.outputs.setdefault(name, []).append(y)


# ----------------------------------------------------------------------------------- through time


def gradient_flow(layer, x, loss=None):
    """The norm of the loss's gradient at the state of each time step, (T,): does it vanish on its
    way back through time, or explode?

    layer: a SimpleRNN, GRU or LSTM; its gradient gate, if it has one, is at work. x (N, T, I). loss:
    a function of the last output (N, U), its sum where not given. The state of step t reaches the
    loss through all steps after it; the norm over units is averaged over the batch. Of an LSTM it is
    the state h, not the cell. The layer's weights and their gradients stay as they are. It starts at
    zero states, without a mask; steps are in the layer's order (go_backwards).
    """
    cell, x = _recurrent(layer, x)
    gate = layer.gradient_gate
    many = isinstance(cell.state_size, (list, tuple))
    states = [tensor(np.zeros((x.shape[0], n), layer.dtype), requires_grad=True, device=x.device)
              for n in (cell.state_size if many else [cell.state_size])]
    outputs = []
    with enable_grad():
        for t in range(x.shape[1]):
            entered = states if gate is None else [ops.gradient_gate(s, *gate) for s in states]
            output, new = cell(x[:, t], entered if many else entered[0])
            states = list(new) if many else [new]
            outputs.append(states[0])
        end = outputs[-1] if loss is None else loss(outputs[-1])
        gradients = grad(end.sum(), outputs, allow_unused=True)
    return np.array([0.0 if g is None else np.linalg.norm(g.numpy(), axis=-1).mean()
                     for g in gradients])


def gates(layer, x):
    """The gates of an LSTM ("input", "forget", "candidate", "output", "cell") or a GRU ("update",
    "reset", "candidate") over time: {name: array (N, T, U)}. From zero states, without a mask, in the
    layer's order of steps (go_backwards)."""
    cell, x = _recurrent(layer, x)
    names = {"LSTMCell": ("input", "forget", "candidate", "output"),
             "GRUCell": ("update", "reset", "candidate")}.get(type(cell).__name__)
    if names is None:
        raise TypeError(f"{layer.name} is a {type(layer).__name__}, which has no gates; an LSTM or "
                        "a GRU has")
    sigma, squash = cell.recurrent_activation, cell.activation
    found = {name: [] for name in names}
    found["cell"] = []
    units = cell.units
    with no_grad():
        h = c = tensor(np.zeros((x.shape[0], units), layer.dtype), device=x.device)
        for t in range(x.shape[1]):
            if len(names) == 4:
                parts = ops.split(cell.project(x[:, t]) + h @ cell.recurrent_kernel, 4, axis=1)
                values = [squash(p) if name == "candidate" else sigma(p)
                          for name, p in zip(names, parts)]
                _, (h, c) = cell(x[:, t], [h, c])
                found["cell"].append(c)
            else:
                values = _gru_gates(cell, x[:, t], h, sigma, squash)
                _, h = cell(x[:, t], h)
            for name, value in zip(names, values):
                found[name].append(value)
    return {name: np.stack([v.numpy() for v in values], axis=1)
            for name, values in found.items() if values}


def _gru_gates(cell, x, h, sigma, squash):
    xz, xr, xh = ops.split(cell.project(x), 3, axis=1)
    Rz, Rr, Rh = ops.split(cell.recurrent_kernel, 3, axis=1)
    bz, br, bh = ops.split(cell.recurrent_bias(h), 3, axis=0)
    z, r = sigma(xz + h @ Rz + bz), sigma(xr + h @ Rr + br)
    return z, r, squash(xh + (r * (h @ Rh + bh) if cell.reset_after else (r * h) @ Rh))


def _recurrent(layer, x):
    if not isinstance(layer, RNN):
        raise TypeError(f"a SimpleRNN, GRU or LSTM is wanted, not {type(layer).__name__}")
    x = x if isinstance(x, Tensor) else tensor(x, dtype=layer.dtype, device=layer._device)
    if x.ndim != 3 or not x.shape[1]:
        raise ValueError(f"sequences are (N, T, I) with T > 0; got an array of shape {x.shape}")
    if not layer.built:
        layer._device = layer._device or x.device
        layer.build(x.shape)
    return layer.cell, ops.flip(x, 1) if layer.go_backwards else x


# ----------------------------------------------------------------------------------- the landscape


def loss_landscape(loss, model, span=1.0, steps=21, seed=0):
    """The loss around the model's weights along two random directions: (positions (S,), losses
    (S, S)), rows along the first direction.

    loss: a function without arguments that gives the loss at the model's present weights. Each
    direction is scaled to the norm of the weights, filter by filter, so that pictures of different
    models can be compared (Li et al. 2018, arXiv:1712.09913). The weights are put back at the end.
    """
    rng = np.random.default_rng(seed)
    if not callable(loss) or not hasattr(model, "trainable_weights"):
        raise TypeError("loss_landscape(loss, model) wants a function without arguments and a model; "
                        f"got {loss!r} and {model!r}")
    weights, everything = model.trainable_weights, model.weights
    if not weights:
        raise ValueError(f"{model.name} has no trainable weights yet; call it once first")
    before = [np.array(w.numpy()) for w in weights]
    arrays = [np.array(w.numpy()) for w in everything]  # moving statistics too
    directions = [[_like_filters(w, rng) for w in before] for _ in range(2)]
    at = np.linspace(-span, span, steps)
    losses = np.empty((steps, steps))
    try:
        with no_grad():
            for i, a in enumerate(at):
                for j, b in enumerate(at):
                    for w, start, u, v in zip(weights, before, *directions):
                        w.data = tensor(start + a * u + b * v, w.dtype, device=w.device).data
                    losses[i, j] = float(loss())
    finally:
        for w, start in zip(everything, arrays):
            w.data = tensor(start, w.dtype, device=w.device).data
    return at, losses


def _like_filters(weight, rng):
    """A random direction with the norms of the weight's filters (its last axis); none for biases."""
    if weight.ndim < 2:
        return np.zeros_like(weight)
    d = rng.standard_normal(weight.shape).astype(weight.dtype)
    axes = tuple(range(weight.ndim - 1))
    norms = [np.sqrt((a * a).sum(axis=axes, keepdims=True)) for a in (weight, d)]
    return d * (norms[0] / np.maximum(norms[1], 1e-12))
