"""Recurrent layers on sequences (N, T, I): cells that make one step, and layers that repeat it.

A cell is any layer with a `state_size` (an integer, or one for each of its states) and a
call(x, [state, ...]) -> (output, [new state, ...]). RNN repeats it over time. The three cells here
also have a `scan`: all steps in one fused op. It serves unless another activation, or recurrent
dropout, asks for the steps one by one. Both ways give the same numbers.

Where a mask (N, T) is False, the states stay as they are and the output is that of the step before
(zeros before the first).
"""

from kernels.backend import array_module
from minideep import activations, initializers, ops
from minideep.layers.base import Layer, check_shape, positive
from minideep.layers.core import check_rate, dropout_mask
from minideep.mode import mode
from minideep.ops.recurrent import check_gate
from minideep.tensor import Tensor

__all__ = """Bidirectional GRU GRUCell LSTM LSTMCell RNN SimpleRNN SimpleRNNCell
TimeDistributed""".split()


# ------------------------------------------------------------------------------------------- cells


class _Cell(Layer):
    """kernel (I, gates·U), recurrent_kernel (U, gates·U), bias. In training, `dropout` is applied
    to the input and `recurrent_dropout` to the state that enters the recurrent product; in RNN with
    one mask for all steps (Gal & Ghahramani 2016)."""

    gates = 1

    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal",
                 bias_initializer="zeros", dropout=0.0, recurrent_dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = positive(self, "units", units)
        self.activation = activations.get(activation)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.dropout = check_rate(self, "dropout", dropout)
        self.recurrent_dropout = check_rate(self, "recurrent_dropout", recurrent_dropout)
        self.kernel = self.recurrent_kernel = self.bias = None

    def build(self, input_shape):
        check_shape(self, input_shape, "N I")
        width = self.gates * self.units
        self.kernel = self.add_weight((input_shape[-1], width), self.kernel_initializer, "kernel")
        self.recurrent_kernel = self.add_weight((self.units, width), self.recurrent_initializer,
                                                "recurrent_kernel")
        if self.use_bias:
            self.bias = self.add_weight(*self.bias_start(width), "bias")

    def bias_start(self, width):
        return (width,), self.bias_initializer

    def call(self, x, states, training=False, masks=None):
        """One step: x (N, I), states (one or a list of (N, U)) -> (output (N, U), new states).
        masks: those of dropout, None for new ones."""
        check_shape(self, x.shape, "N I", self.kernel.shape[0])
        several = isinstance(states, (list, tuple))
        if masks is None:
            masks = self.dropout_masks(x) if training else (None, None)
        x = x if masks[0] is None else x * masks[0]
        states = self.step(x, *(states if several else [states]), masks[1])
        return states[0], states if several else states[0]

    def dropout_masks(self, x):
        """The masks for x (N, I) and for the state (N, U); None where there is no dropout."""
        return (dropout_mask(x.shape, self.dropout, x) if self.dropout else None,
                dropout_mask((x.shape[0], self.units), self.recurrent_dropout, x)
                if self.recurrent_dropout else None)

    def fuses(self, training):
        return (self.activation is ops.tanh and self.recurrent_activation is ops.sigmoid
                and not (training and self.recurrent_dropout))

    def project(self, x):
        """x W + b, for one step (N, I) or all (N, T, I)."""
        return x @ self.kernel if self.bias is None else ops.affine(x, self.kernel, self.bias)

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.units

    def flops(self, input_shape):
        """Of one step."""
        return 2 * (input_shape[0] or 1) * self.gates * self.units * (input_shape[-1] + self.units)


def _masked(h, mask):
    return h if mask is None else h * mask


class SimpleRNNCell(_Cell):
    """h' = activation(x W + h R + b) (Elman 1990)."""

    def __init__(self, units, activation="tanh", use_bias=True, **kwargs):
        super().__init__(units, activation, "sigmoid", use_bias, **kwargs)

    def step(self, x, h, mask):
        return [self.activation(self.project(x) + _masked(h, mask) @ self.recurrent_kernel)]

    def scan(self, x, states, mask, gate):
        return [ops.rnn(self.project(x), *states, self.recurrent_kernel, mask, gate)]


class LSTMCell(_Cell):
    """i, f, o = recurrent_activation(...), c~ = activation(...) of x W + h R + b, in the order
    i, f, c~, o; c' = f c + i c~; h' = o activation(c') (Hochreiter & Schmidhuber 1997, Gers 2000).
    unit_forget_bias: the forget gate's bias starts at 1 (Jozefowicz et al. 2015)."""

    gates = 4

    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 unit_forget_bias=True, **kwargs):
        super().__init__(units, activation, recurrent_activation, use_bias, **kwargs)
        self.state_size = [units, units]
        self.unit_forget_bias = unit_forget_bias

    def bias_start(self, width):
        def forget_one(shape):
            start = self.bias_initializer(shape)
            start[self.units:2 * self.units] = 1
            return start
        return (width,), forget_one if self.unit_forget_bias else self.bias_initializer

    def step(self, x, h, c, mask):
        gates = self.project(x) + _masked(h, mask) @ self.recurrent_kernel  # (N, 4U)
        i, f, candidate, o = ops.split(gates, 4, axis=1)
        sigma = self.recurrent_activation
        c = sigma(f) * c + sigma(i) * self.activation(candidate)
        return [sigma(o) * self.activation(c), c]

    def scan(self, x, states, mask, gate):
        return list(ops.lstm(self.project(x), *states, self.recurrent_kernel, mask, gate))


class GRUCell(_Cell):
    """z, r = recurrent_activation(...), h~ = activation(...), h' = z h + (1 - z) h~ (Cho 2014).

    reset_after=True (cuDNN's, Keras's default): h~ of x W + b0 + r (h R + b1), bias (2, 3U);
    False (the paper's): h~ of x W + b + (r h) R, bias (3U,). Gates in the order z, r, h~.
    """

    gates = 3

    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 reset_after=True, **kwargs):
        super().__init__(units, activation, recurrent_activation, use_bias, **kwargs)
        self.reset_after = reset_after

    def bias_start(self, width):
        return (2, width) if self.reset_after else (width,), self.bias_initializer

    def project(self, x):
        if self.bias is None:
            return x @ self.kernel
        return ops.affine(x, self.kernel, self.bias[0] if self.reset_after else self.bias)

    def recurrent_bias(self, like):
        if self.reset_after and self.bias is not None:
            return self.bias[1]
        return Tensor(array_module(like.data).zeros(self.gates * self.units, dtype=like.dtype))

    def fuses(self, training):
        return self.reset_after and super().fuses(training)

    def step(self, x, h, mask):
        x_z, x_r, x_h = ops.split(self.project(x), 3, axis=1)
        entering, sigma, u = _masked(h, mask), self.recurrent_activation, self.units
        y = entering @ self.recurrent_kernel + self.recurrent_bias(x)  # (N, 3U)
        h_z, h_r, h_h = ops.split(y, 3, axis=1)
        z, r = sigma(x_z + h_z), sigma(x_r + h_r)
        inner = r * h_h if self.reset_after else (r * entering) @ self.recurrent_kernel[:, 2 * u:]
        return [z * h + (1 - z) * self.activation(x_h + inner)]

    def scan(self, x, states, mask, gate):
        return [ops.gru(self.project(x), *states, self.recurrent_kernel, self.recurrent_bias(x),
                        mask, gate)]


# ------------------------------------------------------------------------------- layers over time


class RNN(Layer):
    """A cell repeated over time: (N, T, I) -> the last output (N, U), or with return_sequences all
    of them (N, T, U); with return_state followed by the final states.

    go_backwards: the last step first, and outputs in that order. stateful: a call starts with the
    states that the one before ended with, until reset_states(); no gradient goes from call to call.
    zero_output_for_mask: masked outputs are zero. unroll: accepted for Keras's programs; it changes
    nothing here. gradient_gate: None or (scale, limit), see `ops.gradient_gate`; it acts on each
    state where that enters a step. Call with initial_state=[...] to start elsewhere than at zero.
    """

    supports_masking = True

    def __init__(self, cell, return_sequences=False, return_state=False, go_backwards=False,
                 stateful=False, unroll=False, zero_output_for_mask=False, gradient_gate=None,
                 **kwargs):
        super().__init__(**kwargs)
        if not hasattr(cell, "state_size"):
            raise TypeError("RNN wants a cell, which has a state_size and call(x, states); got "
                            f"{cell!r}")
        self.cell, self.gradient_gate = cell, check_gate(gradient_gate)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful = go_backwards, stateful
        self.zero_output_for_mask, self.states = zero_output_for_mask, None

    @property
    def state_sizes(self):
        size = self.cell.state_size
        return list(size) if isinstance(size, (list, tuple)) else [size]

    def build(self, input_shape):
        check_shape(self, input_shape, "N T I")
        self.cell.build((input_shape[0], input_shape[2]))

    def call(self, x, initial_state=None, mask=None, training=False):
        check_shape(self, x.shape, "N T I", self.build_shape[-1])
        if x.shape[1] == 0:
            raise ValueError(f"{self.name} wants at least one time step, got {x.shape}")
        started_elsewhere = initial_state is not None or self.states is not None
        states = self._start(x, initial_state)
        if mask is not None:
            mask = self._check_mask(mask, x)
        if self.go_backwards:
            x, mask = ops.flip(x, 1), None if mask is None else mask[:, ::-1]
        if hasattr(self.cell, "scan") and self.cell.fuses(training):
            drop = self.cell.dropout_masks(x[:, 0])[0] if training else None
            x = x if drop is None else x * drop[:, None]
            sequences = self.cell.scan(x, states, mask, self.gradient_gate)
            outputs = sequences[0]
            if self.return_state or self.stateful:
                states = [s[:, -1] for s in sequences]
            if mask is not None and started_elsewhere:  # before a first step there is no output
                begun = array_module(mask).cumsum(mask, axis=1) > 0
                outputs = ops.where(begun[..., None], outputs, 0.0)
        else:
            outputs, states = self._loop(x, states, mask, training)
        if mask is not None and self.zero_output_for_mask:
            outputs = ops.where(mask[..., None], outputs, 0.0)
        if self.stateful:
            if mode.again:
                raise RuntimeError(f"{self.name} is stateful: a checkpoint, which runs it twice, would "
                                   "start the second time with another state; leave it outside")
            self.states = [s.detach() for s in states]
        y = outputs if self.return_sequences else outputs[:, -1]
        return (y, *states) if self.return_state else y

    def _start(self, x, initial_state):
        states = self.states if initial_state is None else initial_state
        if states is None:
            xp = array_module(x.data)
            return [Tensor(xp.zeros((x.shape[0], u), dtype=x.dtype)) for u in self.state_sizes]
        states = states if isinstance(states, (list, tuple)) else [states]
        states = [self._accept(s) for s in states]
        wanted = [(x.shape[0], u) for u in self.state_sizes]
        if [s.shape for s in states] != wanted:
            raise ValueError(
                f"{self.name} wants states of shape {wanted}, got {[s.shape for s in states]}" + (
                    "; a stateful layer keeps its batch size until reset_states()"
                    if initial_state is None else ""))
        return states

    def _check_mask(self, mask, x):
        if mask.shape != x.shape[:2]:
            raise ValueError(f"{self.name} wants a mask of shape {x.shape[:2]} (N, T), got "
                             f"{mask.shape}")
        return mask.data.astype(bool)

    def _loop(self, x, states, mask, training):
        outputs = []
        options = {"training": training}
        if hasattr(self.cell, "dropout_masks"):
            options["masks"] = self.cell.dropout_masks(x[:, 0]) if training else (None, None)
        for t in range(x.shape[1]):
            entering = states
            if self.gradient_gate is not None:
                entering = [ops.gradient_gate(s, *self.gradient_gate) for s in states]
            y, new = self.cell(x[:, t], entering, **options)
            new = list(new) if isinstance(new, (list, tuple)) else [new]
            if mask is not None:
                keep = Tensor(mask[:, t, None])
                y = ops.where(keep, y, outputs[-1] if outputs else 0.0)
                new = [ops.where(keep, s, old) for s, old in zip(new, states)]
            states = new
            outputs.append(y)
        return ops.stack(outputs, axis=1), states  # (N, T, U)

    def compute_mask(self, x, mask=None):
        return mask if self.return_sequences else None

    def compute_output_shape(self, input_shape):
        check_shape(self, input_shape, "N T I")
        n, steps, _ = input_shape
        width = getattr(self.cell, "output_size", self.state_sizes[0])
        y = (n, steps, width) if self.return_sequences else (n, width)
        return (y, *((n, u) for u in self.state_sizes)) if self.return_state else y

    def reset_states(self):
        self.states = None

    def flops(self, input_shape):
        return (input_shape[1] or 1) * self.cell.flops((input_shape[0], input_shape[2]))


class _OneCell(RNN):
    """The layers below take the arguments of their cell and those of RNN."""

    def __init__(self, units, dtype="float32", trainable=True, **options):
        of_cell = set(self.cell_class.options()) - set(Layer.options())
        cell = self.cell_class(units, dtype=dtype, trainable=trainable, **{
            name: options.pop(name) for name in list(options) if name in of_cell})
        super().__init__(cell, dtype=dtype, trainable=trainable, **options)
        self.units = cell.units

    @classmethod
    def options(cls):
        names = [*cls.cell_class.options(), *super().options()]
        return [name for name in dict.fromkeys(names) if name != "cell"]


class SimpleRNN(_OneCell):
    """SimpleRNNCell over time."""
    cell_class = SimpleRNNCell

    def __init__(self, units, activation="tanh", use_bias=True, **kwargs):
        super().__init__(units, activation=activation, use_bias=use_bias, **kwargs)


class GRU(_OneCell):
    """GRUCell over time."""
    cell_class = GRUCell

    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 **kwargs):
        super().__init__(units, activation=activation, recurrent_activation=recurrent_activation,
                         use_bias=use_bias, **kwargs)


class LSTM(_OneCell):
    """LSTMCell over time."""
    cell_class = LSTMCell

    def __init__(self, units, activation="tanh", recurrent_activation="sigmoid", use_bias=True,
                 **kwargs):
        super().__init__(units, activation=activation, recurrent_activation=recurrent_activation,
                         use_bias=use_bias, **kwargs)


# ---------------------------------------------------------------------- layers around other layers


class Bidirectional(Layer):
    """A recurrent layer and its twin with weights of its own, which goes backwards (Schuster &
    Paliwal 1997). merge_mode: "concat", "sum", "mul", "ave", or None for both outputs."""

    supports_masking = True

    def __init__(self, layer, merge_mode="concat", backward_layer=None, **kwargs):
        super().__init__(**kwargs)
        modes = ("concat", "sum", "mul", "ave", None)
        if merge_mode not in modes:
            raise ValueError(f"Bidirectional knows the merge modes {modes}, got {merge_mode!r}")
        if not isinstance(layer, RNN):
            raise TypeError(f"Bidirectional wants a recurrent layer, got {layer!r}")
        self.merge_mode = merge_mode
        self.forward_layer = layer.clone(name="forward_" + layer.name)
        self.backward_layer = backward_layer or layer.clone(
            name="backward_" + layer.name, go_backwards=not layer.go_backwards)
        for name in ("return_sequences", "return_state", "stateful"):
            if getattr(self.backward_layer, name) != getattr(layer, name):
                raise ValueError(f"Bidirectional wants both layers to have the same {name}")
        if self.backward_layer.go_backwards == layer.go_backwards:
            raise ValueError("Bidirectional wants one of its layers to have go_backwards=True")
        for each in (self.forward_layer, self.backward_layer):
            each.zero_output_for_mask = each.return_sequences  # as in Keras
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state

    def build(self, input_shape):
        self.forward_layer.build(input_shape)
        self.backward_layer.build(input_shape)

    def call(self, x, initial_state=None, mask=None, training=False):
        half, there, back = len(self.forward_layer.state_sizes), None, None
        if initial_state is not None:
            if len(initial_state) != 2 * half:
                raise ValueError(f"{self.name} wants {2 * half} initial states, the forward layer's "
                                 f"first; got {len(initial_state)}")
            there, back = initial_state[:half], initial_state[half:]
        y = self.forward_layer(x, initial_state=there, mask=mask, training=training)
        z = self.backward_layer(x, initial_state=back, mask=mask, training=training)
        states = ()
        if self.return_state:
            (y, *first), (z, *second) = y, z
            states = (*first, *second)
        z = ops.flip(z, 1) if self.return_sequences else z
        merged = self._merge(y, z)
        if self.merge_mode is None:
            return (*merged, *states)
        return (merged, *states) if states else merged

    def _merge(self, y, z):
        if self.merge_mode == "concat":
            return ops.concatenate([y, z], axis=-1)
        if self.merge_mode == "mul":
            return y * z
        if self.merge_mode is None:
            return y, z
        return (y + z) * (0.5 if self.merge_mode == "ave" else 1.0)

    def compute_mask(self, x, mask=None):
        return mask if self.return_sequences else None

    def compute_output_shape(self, input_shape):
        y = self.forward_layer.compute_output_shape(input_shape)
        y, states = (y[0], y[1:]) if self.return_state else (y, ())
        if self.merge_mode is None:
            return (y, y, *states, *states)
        y = (*y[:-1], 2 * y[-1]) if self.merge_mode == "concat" else y
        return (y, *states, *states) if states else y

    def flops(self, input_shape):
        return self.forward_layer.flops(input_shape) + self.backward_layer.flops(input_shape)


class TimeDistributed(Layer):
    """A layer at every time step, with the same weights: (N, T, ...) -> (N, T, ...). All steps go
    through it as one batch of N·T, which is also what batch normalisation inside it sees."""

    supports_masking = True

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(layer, Layer):
            raise TypeError(f"TimeDistributed wants a layer, got {layer!r}")
        self.layer = layer

    def build(self, input_shape):
        if len(input_shape) < 3:
            raise ValueError(f"{self.name} takes an input of shape (N, T, ...), got {input_shape}")
        self.layer.build((None, *input_shape[2:]))

    def call(self, x, mask=None, training=False):
        n, steps = x.shape[:2]
        if mask is not None:
            if mask.shape[:2] != (n, steps):
                raise ValueError(f"{self.name} wants a mask that starts with {(n, steps)} (N, T), "
                                 f"got {mask.shape}")
            mask = ops.reshape(mask, shape=(n * steps, *mask.shape[2:]))
        folded = ops.reshape(x, shape=(n * steps, *x.shape[2:]))
        y = self.layer(folded, mask=mask, training=training)
        return ops.reshape(y, shape=(n, steps, *y.shape[1:]))

    def compute_output_shape(self, input_shape):
        n, steps, *rest = input_shape
        return (n, steps, *self.layer.compute_output_shape((n, *rest))[1:])

    def flops(self, input_shape):
        n, steps, *rest = input_shape
        return (steps or 1) * self.layer.flops((n, *rest))
