"""Pooling layers on images (N, H, W, C), each channel for itself."""

from kernels.window import pair, window
from minideep import ops
from minideep.layers.base import Layer, check_padding, check_shape

__all__ = """AveragePooling2D AvgPool2D GlobalAveragePooling2D GlobalMaxPooling2D MaxPool2D
MaxPooling2D""".split()


class _Pooling(Layer):
    """pool_size: an integer or a pair; strides: the same, by default pool_size; padding as for
    Conv2D, never counted in the maximum or mean."""

    def __init__(self, pool_size=(2, 2), strides=None, padding="valid", **kwargs):
        super().__init__(**kwargs)
        self.pool_size = pair(pool_size, "pool_size")
        self.strides = self.pool_size if strides is None else pair(strides, "strides")
        self.padding = check_padding(self, padding)

    def call(self, x):
        check_shape(self, x.shape, "N H W C")
        return self.pool(x, self.pool_size, self.strides, self.padding)

    def compute_output_shape(self, input_shape):
        check_shape(self, input_shape, "N H W C")
        n, h, w, c = input_shape
        if h is None or w is None:
            return n, None, None, c
        return n, *window((h, w), self.pool_size, self.strides, self.padding)[3], c


class MaxPooling2D(_Pooling):
    """The largest of each window: (N, H, W, C) -> (N, OH, OW, C)."""
    pool = staticmethod(ops.max_pool2d)


class AveragePooling2D(_Pooling):
    """The mean of each window: (N, H, W, C) -> (N, OH, OW, C)."""
    pool = staticmethod(ops.avg_pool2d)


MaxPool2D, AvgPool2D = MaxPooling2D, AveragePooling2D


class _GlobalPooling(Layer):
    """keepdims=True leaves (N, 1, 1, C)."""

    def __init__(self, keepdims=False, **kwargs):
        super().__init__(**kwargs)
        self.keepdims = keepdims

    def call(self, x):
        check_shape(self, x.shape, "N H W C")
        return self.pool(x, self.keepdims)

    def compute_output_shape(self, input_shape):
        n, _, _, c = input_shape
        return (n, 1, 1, c) if self.keepdims else (n, c)


class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel: (N, H, W, C) -> (N, C)."""
    pool = staticmethod(ops.global_avg_pool2d)


class GlobalMaxPooling2D(_GlobalPooling):
    """The largest of each channel: (N, H, W, C) -> (N, C)."""
    pool = staticmethod(ops.global_max_pool2d)
