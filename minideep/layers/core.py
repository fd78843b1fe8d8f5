"""Dense layers, dropout, activations, and layers that only change shapes or masks."""

import math

import numpy as np

from minideep import activations, initializers, ops, random
from minideep.layers.base import Layer, SameShape, check_shape, positive, sample_shape
from minideep.tensor import Tensor, tensor

__all__ = """Activation Dense Dropout Flatten Input InputLayer LeakyReLU Masking ReLU Reshape
Softmax""".split()


class Input(SameShape):
    """First in a Sequential: says what comes. shape: of one sample; batch_shape: with the batch."""

    def __init__(self, shape=None, batch_size=None, batch_shape=None, **kwargs):
        if (shape is None) == (batch_shape is None):
            raise ValueError("Input takes either shape (of one sample) or batch_shape; got "
                             f"shape={shape!r}, batch_shape={batch_shape!r}")
        if batch_shape is None:
            batch_shape = (batch_size, *sample_shape(self, shape))
        super().__init__(batch_input_shape=batch_shape, **kwargs)

    def call(self, x):
        expected = self.batch_input_shape
        if x.ndim != len(expected) or any(m not in (None, n) for m, n in zip(expected, x.shape)):
            raise ValueError(f"{self.name} takes inputs of shape {expected}, got {x.shape}")
        return x


InputLayer = Input


class Dense(Layer):
    """y = activation(x W + b): x (..., I), W (I, units), b (units,) -> (..., units)."""

    supports_masking = True

    def __init__(self, units, activation=None, use_bias=True, kernel_initializer="glorot_uniform",
                 bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.units = positive(self, "units", units)
        self.activation, self.use_bias = activations.get(activation), use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel = self.bias = None

    def build(self, input_shape):
        self._check(input_shape)
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(shape, self.kernel_initializer, "kernel")
        if self.use_bias:
            self.bias = self.add_weight((self.units,), self.bias_initializer, "bias")

    def _check(self, shape):
        axes = "N " + "... " * (len(shape) - 2) + "C"
        check_shape(self, shape, axes, self.kernel.shape[0] if self.built else None)

    def call(self, x):
        self._check(x.shape)
        y = x @ self.kernel if self.bias is None else ops.affine(x, self.kernel, self.bias)
        return self.activation(y)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def flops(self, input_shape):
        return 2 * math.prod(n or 1 for n in input_shape) * self.units


class Flatten(Layer):
    """(N, ...) -> (N, product of the rest)."""

    def call(self, x):
        return ops.reshape(x, shape=self.compute_output_shape(x.shape))

    def compute_output_shape(self, input_shape):
        rest = input_shape[1:]
        return input_shape[0], None if None in rest else math.prod(rest)


class Reshape(Layer):
    """(N, ...) -> (N, *target_shape), in which one number may be -1: what remains."""

    def __init__(self, target_shape, **kwargs):
        super().__init__(**kwargs)
        self.target_shape = tuple(target_shape)
        if self.target_shape.count(-1) > 1:
            raise ValueError(f"Reshape takes at most one -1, got {self.target_shape}")

    def call(self, x):
        return ops.reshape(x, shape=self.compute_output_shape(x.shape))

    def compute_output_shape(self, input_shape):
        n, *rest = input_shape
        if None in rest:
            return (n, *(None if m == -1 else m for m in self.target_shape))
        have, known = math.prod(rest), math.prod(m for m in self.target_shape if m != -1)
        if have % known if -1 in self.target_shape and known else have != known:
            raise ValueError(f"{self.name} cannot reshape {tuple(rest)} to {self.target_shape}: "
                             f"{have} numbers a sample do not make {known}")
        return (n, *(have // known if m == -1 else m for m in self.target_shape))


def dropout_mask(shape, rate, like):
    """0 with probability `rate`, else 1 / (1 - rate): a tensor to multiply with."""
    kept = random.generator().random(shape, dtype=np.float32) >= rate
    return tensor(kept * (1 / (1 - rate) if rate < 1 else 0.0), like.dtype, device=like.device)


def check_rate(layer, name, rate):
    if not 0 <= rate <= 1:
        raise ValueError(f"{type(layer).__name__} wants {name} between 0 and 1, got {rate!r}")
    return rate


class Dropout(SameShape):
    """In training each number is 0 with probability `rate`, the others grow by 1 / (1 - rate)
    (Srivastava et al. 2014). noise_shape: where it is 1, one draw serves the whole axis."""

    def __init__(self, rate, noise_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate(self, "rate", rate)
        self.noise_shape = noise_shape

    def call(self, x, training=False):
        if not training or self.rate == 0:
            return x
        shape = x.shape if self.noise_shape is None else [
            n if m is None else m for n, m in zip(x.shape, self.noise_shape)]
        return x * dropout_mask(shape, self.rate, x)


class Activation(SameShape):
    """A function by its name ("relu", see minideep.activations), or any function of a tensor."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, x):
        return self.activation(x)


class ReLU(SameShape):
    """x at or above the threshold, at most max_value; negative_slope·(x - threshold) below."""

    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("max_value", max_value or 0), ("negative_slope", negative_slope)):
            if value < 0:
                raise ValueError(f"ReLU wants {name} >= 0, got {value}")
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def call(self, x):
        if self.negative_slope == self.threshold == 0:
            y = ops.relu(x)
        else:
            y = ops.where(x > self.threshold, x, self.negative_slope * (x - self.threshold))
        return y if self.max_value is None else ops.minimum(y, self.max_value)


class LeakyReLU(SameShape):
    """x where positive, else negative_slope·x."""

    def __init__(self, negative_slope=0.3, **kwargs):
        super().__init__(**kwargs)
        if not negative_slope >= 0:
            raise ValueError(f"LeakyReLU wants negative_slope >= 0, got {negative_slope}")
        self.negative_slope = negative_slope

    def call(self, x):
        return ops.leaky_relu(x, self.negative_slope)


class Softmax(SameShape):
    """exp(x) / Σ exp(x) along `axis`."""

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, x):
        return ops.softmax(x, self.axis)


class Masking(SameShape):
    """Time steps (N, T) whose every number is mask_value are zeroed, and masked for the recurrent
    layers that follow."""

    def __init__(self, mask_value=0.0, **kwargs):
        super().__init__(**kwargs)
        self.mask_value = mask_value

    def compute_mask(self, x, mask=None):
        x = self._accept(x)
        return Tensor((x.data != self.mask_value).any(axis=-1))

    def call(self, x):
        return x * self.compute_mask(x)[..., None]
