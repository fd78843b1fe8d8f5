"""Convolution layers. Images are (N, H, W, C), kernels in Keras's layout.

strides, dilation_rate: an integer or a pair (rows, columns). padding: "valid" (none), "same"
(ceil(size / stride) outputs), or pixels: an integer, a pair, or ((top, bottom), (left, right)).
"""

import math

from kernels.window import pair, window
from minideep import activations, initializers, ops
from minideep.layers.base import Layer, check_padding, check_shape, positive

__all__ = "Conv2D Conv2DTranspose DepthwiseConv2D".split()


class _Convolution(Layer):
    """What the three have in common: all but the kernel's shape and the op."""

    def __init__(self, kernel_size, strides, padding, dilation_rate, activation, use_bias,
                 kernel_initializer, bias_initializer, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.dilation_rate = pair(dilation_rate, "dilation_rate")
        self.padding = check_padding(self, padding)
        self.activation, self.use_bias = activations.get(activation), use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel = self.bias = None

    def build(self, input_shape):
        check_shape(self, input_shape, "N H W C")
        self.channels = input_shape[-1]
        self.kernel = self.add_weight((*self.kernel_size, *self.kernel_channels(self.channels)),
                                      self.kernel_initializer, "kernel")
        if self.use_bias:
            shape = (self.output_channels(self.channels),)
            self.bias = self.add_weight(shape, self.bias_initializer, "bias")

    def call(self, x):
        check_shape(self, x.shape, "N H W C", self.channels)
        return self.activation(self.convolve(x))

    def output_channels(self, channels):
        return self.filters

    def compute_output_shape(self, input_shape):
        n, h, w, c = input_shape
        return n, *self.output_size((h, w)), self.output_channels(c)

    def output_size(self, size):
        if None in size:
            return None, None
        return window(size, self.kernel_size, self.strides, self.padding, self.dilation_rate)[3]

    def flops(self, input_shape):
        n, h, w, _ = self.compute_output_shape(input_shape)
        inner = math.prod(self.kernel_size) * self.kernel_channels(input_shape[-1])[0]
        return 2 * (n or 1) * h * w * self.output_channels(input_shape[-1]) * inner


class Conv2D(_Convolution):
    """Convolution: (N, H, W, C) -> (N, OH, OW, filters). kernel (KH, KW, C/groups, filters)."""

    def __init__(self, filters, kernel_size, strides=(1, 1), padding="valid", dilation_rate=(1, 1),
                 groups=1, activation=None, use_bias=True, kernel_initializer="glorot_uniform",
                 bias_initializer="zeros", **kwargs):
        super().__init__(kernel_size, strides, padding, dilation_rate, activation, use_bias,
                         kernel_initializer, bias_initializer, **kwargs)
        self.filters = positive(self, "filters", filters)
        self.groups = positive(self, "groups", groups)
        if filters % groups:
            raise ValueError(f"Conv2D wants filters ({filters}) to be divisible by groups "
                             f"({groups})")

    def kernel_channels(self, channels):
        if channels % self.groups:
            raise ValueError(f"{self.name} cannot split {channels} input channels into "
                             f"{self.groups} equal groups")
        return channels // self.groups, self.filters

    def call(self, x):
        check_shape(self, x.shape, "N H W C", self.channels)
        relu = self.activation is ops.relu  # in the convolution's own loop
        y = ops.conv2d(x, self.kernel, self.bias, self.strides, self.padding, self.dilation_rate,
                       self.groups, relu)
        return y if relu else self.activation(y)


class DepthwiseConv2D(_Convolution):
    """Each channel by itself makes depth_multiplier M channels: (N, H, W, C) -> (N, OH, OW, C·M).
    kernel (KH, KW, C, M)."""

    def __init__(self, kernel_size, strides=(1, 1), padding="valid", depth_multiplier=1,
                 dilation_rate=(1, 1), activation=None, use_bias=True,
                 depthwise_initializer="glorot_uniform", bias_initializer="zeros", **kwargs):
        super().__init__(kernel_size, strides, padding, dilation_rate, activation, use_bias,
                         depthwise_initializer, bias_initializer, **kwargs)
        self.depth_multiplier = positive(self, "depth_multiplier", depth_multiplier)

    def kernel_channels(self, channels):
        return channels, self.depth_multiplier

    def output_channels(self, channels):
        return channels * self.depth_multiplier

    def convolve(self, x):
        # (KH, KW, C, M) -> (KH, KW, 1, C*M): of C groups, group c makes outputs c*M to c*M + M-1
        kernel = ops.reshape(self.kernel, shape=(*self.kernel_size, 1, -1))
        return ops.conv2d(x, kernel, self.bias, self.strides, self.padding, self.dilation_rate,
                          self.channels)

    def flops(self, input_shape):
        return super().flops(input_shape) // input_shape[-1]


class Conv2DTranspose(_Convolution):
    """Transposed convolution, the gradient of a Conv2D for its input: (N, H, W, C) ->
    (N, OH, OW, filters). kernel (KH, KW, filters, C).

    OH is H·stride for "same", (H-1)·stride + max(extent, stride) for "valid", extent being the
    kernel's with its dilation. output_padding adds rows and columns at the bottom and right to the
    smallest size that fits, as in Keras.
    """

    def __init__(self, filters, kernel_size, strides=(1, 1), padding="valid", output_padding=None,
                 dilation_rate=(1, 1), activation=None, use_bias=True,
                 kernel_initializer="glorot_uniform", bias_initializer="zeros", **kwargs):
        super().__init__(kernel_size, strides, padding, dilation_rate, activation, use_bias,
                         kernel_initializer, bias_initializer, **kwargs)
        self.filters = positive(self, "filters", filters)
        self.output_padding = None
        if output_padding is not None:
            self.output_padding = pair(output_padding, "output_padding", minimum=0)
            if any(p >= s for p, s in zip(self.output_padding, self.strides)):
                raise ValueError(f"output_padding {self.output_padding} must be smaller than the "
                                 f"strides {self.strides}")

    def kernel_channels(self, channels):
        return self.filters, channels

    def convolve(self, x):
        size = self.output_size(x.shape[1:3])
        return ops.conv2d_transpose(x, self.kernel, self.bias, self.strides, self.padding,
                                    self.dilation_rate, output_size=size)

    def output_size(self, size):
        if None in size:
            return None, None
        extent = [(k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate)]
        extra = self.output_padding
        if self.padding == "same":
            cut = [2 * (e // 2) for e in extent]
        elif self.padding == "valid":
            cut = (0, 0)
        else:
            p = self.padding if isinstance(self.padding, (tuple, list)) else (self.padding,) * 2
            cut = [2 * q if isinstance(q, int) else sum(q) for q in p]
        if extra is None:
            free = [s - e for s, e in zip(self.strides, extent)]
            extra = [f + c for f, c in zip(free, cut)] if self.padding == "same" else [
                max(f, 0) if self.padding == "valid" else 0 for f in free]
        return tuple((n - 1) * s + e - c + p for n, s, e, c, p in
                     zip(size, self.strides, extent, cut, extra))

    def flops(self, input_shape):
        n, h, w, c = input_shape
        return 2 * (n or 1) * h * w * c * math.prod(self.kernel_size) * self.filters
