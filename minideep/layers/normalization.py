"""Normalisation: (x - mean) / sqrt(variance + epsilon) · gamma + beta. The layers differ in what
the mean and the variance are taken over: the batch, the features of a sample, groups of them."""

import math

from minideep import initializers, ops
from minideep.layers.base import SameShape
from minideep.mode import mode

__all__ = "BatchNormalization GroupNormalization LayerNormalization".split()


class _Normalization(SameShape):
    """gamma and beta (unless scale or center is False) of the lengths of `axis`."""

    def __init__(self, axis, epsilon, center, scale, beta_initializer, gamma_initializer, **kwargs):
        super().__init__(**kwargs)
        self.axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
        self.epsilon, self.center, self.scale = epsilon, center, scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.gamma = self.beta = None

    def build(self, input_shape):
        if any(not -len(input_shape) <= a < len(input_shape) for a in self.axes):
            raise ValueError(f"{self.name} normalises axis {self.axes}, which an input of shape "
                             f"{input_shape} does not have")
        self.axes = tuple(sorted(a % len(input_shape) for a in self.axes))
        shape = tuple(input_shape[a] for a in self.axes)
        if None in shape:
            raise ValueError(f"{self.name} needs to know the length of axis {self.axes}, got "
                             f"{input_shape}")
        if self.scale:
            self.gamma = self.add_weight(shape, self.gamma_initializer, "gamma")
        if self.center:
            self.beta = self.add_weight(shape, self.beta_initializer, "beta")
        self.ndim, self.shape = len(input_shape), shape

    def check(self, x):
        if x.ndim != self.ndim or tuple(x.shape[a] for a in self.axes) != self.shape:
            raise ValueError(f"{self.name} was built for an input of {self.ndim} dimensions with "
                             f"axis {self.axes} of length {self.shape}, got {x.shape}")

    def along(self, weight, ndim):
        """`weight` with axes of length 1 so that it broadcasts against an input."""
        shape = [1] * ndim
        for a, n in zip(self.axes, weight.shape):
            shape[a] = n
        return ops.reshape(weight, shape=tuple(shape))

    def normalize(self, x, mean, variance):
        """With moments that are not x's own."""
        scale = 1 / ops.sqrt(variance + self.epsilon)
        y = (x - mean) * (scale if self.gamma is None else scale * self.along(self.gamma, x.ndim))
        return y if self.beta is None else y + self.along(self.beta, y.ndim)


class BatchNormalization(_Normalization):
    """Over the batch and all axes but `axis` (Ioffe & Szegedy 2015).

    In training with the batch's own mean and variance, which also move moving_mean and
    moving_variance by (1 - momentum) of the way; otherwise, and when trainable=False, with those.
    A mask (the input's shape but for the last axis) leaves samples out of the statistics.
    """

    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, center=True, scale=True,
                 beta_initializer="zeros", gamma_initializer="ones",
                 moving_mean_initializer="zeros", moving_variance_initializer="ones", **kwargs):
        if isinstance(axis, (tuple, list)):
            raise TypeError(f"BatchNormalization takes one axis, got {axis!r}")
        super().__init__(axis, epsilon, center, scale, beta_initializer, gamma_initializer,
                         **kwargs)
        self.momentum = momentum
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def build(self, input_shape):
        super().build(input_shape)
        self.moving_mean = self.add_weight(self.shape, self.moving_mean_initializer, "moving_mean",
                                           trainable=False)
        self.moving_variance = self.add_weight(self.shape, self.moving_variance_initializer,
                                               "moving_variance", trainable=False)

    def call(self, x, training=False, mask=None):
        self.check(x)
        if not (training and self.trainable and x.size):
            return self.normalize(x, *(self.along(t, x.ndim)
                                       for t in (self.moving_mean, self.moving_variance)))
        if mask is None:
            y, mean, variance = ops.batch_norm(ops.swapaxes(x, self.axes[0], -1), self.gamma,
                                               self.beta, self.epsilon)
            y = ops.swapaxes(y, self.axes[0], -1)
        else:
            mean, variance = self.moments(x, mask)
            y = self.normalize(x, mean, variance)
            mean, variance = mean.data.reshape(self.shape), variance.data.reshape(self.shape)
        if not mode.again:  # otherwise these statistics have been counted
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.data = self.momentum * moving.data + (1 - self.momentum) * now
        return y

    def moments(self, x, mask):
        """Of the samples that the mask keeps."""
        over = tuple(a for a in range(x.ndim) if a not in self.axes)
        if mask.ndim != x.ndim - 1:
            raise ValueError(f"{self.name} wants a mask with one axis less than the input "
                             f"{x.shape}, got {mask.shape}")
        keep = ops.broadcast_to(ops.astype(mask, dtype=x.dtype)[..., None], shape=x.shape)
        n = keep.sum(over, keepdims=True) + 1e-7  # Keras's epsilon
        mean = (x * keep).sum(over, keepdims=True) / n
        return mean, (ops.square(x - mean) * keep).sum(over, keepdims=True) / n


class LayerNormalization(_Normalization):
    """Over `axis` (one or several) of each sample by itself (Ba et al. 2016)."""

    def __init__(self, axis=-1, epsilon=1e-3, center=True, scale=True, beta_initializer="zeros",
                 gamma_initializer="ones", **kwargs):
        super().__init__(axis, epsilon, center, scale, beta_initializer, gamma_initializer,
                         **kwargs)

    def call(self, x):
        self.check(x)
        if not x.size:
            return self.normalize(x, x.sum(), x.sum())  # which are 0
        order = (*(a for a in range(x.ndim) if a not in self.axes), *self.axes)
        last = ops.transpose(x, axes=order)
        rows = (*last.shape[:-len(self.axes)], math.prod(self.shape))  # (..., all of `axis` as one)
        weights = [None if w is None else ops.reshape(w, shape=(-1,)) for w in (self.gamma, self.beta)]
        y = ops.layer_norm(ops.reshape(last, shape=rows), *weights, self.epsilon)
        back = tuple(order.index(a) for a in range(x.ndim))
        return ops.transpose(ops.reshape(y, shape=last.shape), axes=back)


class GroupNormalization(_Normalization):
    """Over each of `groups` groups of channels, with all pixels, of each sample (Wu & He 2018).
    groups=-1: as many as channels (instance normalisation)."""

    def __init__(self, groups=32, axis=-1, epsilon=1e-3, center=True, scale=True,
                 beta_initializer="zeros", gamma_initializer="ones", **kwargs):
        if groups != -1 and groups < 1:
            raise ValueError("GroupNormalization wants groups > 0, or -1 for one a channel, got "
                             f"{groups}")
        super().__init__(axis, epsilon, center, scale, beta_initializer, gamma_initializer,
                         **kwargs)
        self.groups = groups

    def build(self, input_shape):
        super().build(input_shape)
        channels = self.shape[0]
        self.groups = channels if self.groups == -1 else self.groups
        if channels % self.groups:
            raise ValueError(f"{self.name} cannot split {channels} channels into {self.groups} "
                             "equal groups; give it a number of groups that divides them")

    def call(self, x):
        self.check(x)
        if not x.size:
            return self.normalize(x, x.sum(), x.sum())  # which are 0
        y = ops.group_norm(ops.swapaxes(x, self.axes[0], -1), self.gamma, self.beta, self.groups,
                           self.epsilon)
        return ops.swapaxes(y, self.axes[0], -1)
