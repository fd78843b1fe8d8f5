"""How weights start, by Keras's names, formulas and defaults.

An initialiser is called with a shape and gives a NumPy array. Layers take one as a name
("glorot_uniform"), an object (RandomNormal(stddev=0.01)), or any function of a shape.
"""

import math
import re

import numpy as np

from minideep import random
from minideep.config import Configurable

__all__ = """Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal LecunUniform Ones
Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros get""".split()


class Initializer(Configurable):
    """seed: numbers of its own, the same at each call; without it those of `minideep.random`."""

    def __init__(self, seed=None):
        self.seed = seed

    def generator(self):
        return random.generator() if self.seed is None else np.random.default_rng(self.seed)


class Constant(Initializer):
    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, shape):
        return np.full(shape, self.value)


class Zeros(Constant):
    def __init__(self):
        self.value = 0.0


class Ones(Constant):
    def __init__(self):
        self.value = 1.0


class RandomNormal(Initializer):
    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def __call__(self, shape):
        return self.generator().normal(self.mean, self.stddev, shape)


class TruncatedNormal(RandomNormal):
    """A normal distribution; what lies more than two `stddev` from the mean is drawn again."""

    def __call__(self, shape):
        generator, z = self.generator(), np.full(math.prod(shape), np.inf)
        while (far := np.flatnonzero(np.abs(z) > 2)).size:
            z[far] = generator.standard_normal(far.size)
        return self.mean + self.stddev * z.reshape(shape)


class RandomUniform(Initializer):
    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def __call__(self, shape):
        return self.generator().uniform(self.minval, self.maxval, shape)


def fans(shape):
    """(inputs, outputs) that a weight of this shape joins; a kernel counts its whole window."""
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


class VarianceScaling(Initializer):
    """Variance `scale` / n, where n is fan_in, fan_out or their mean (fan_avg): a signal keeps its
    size through the layer. distribution: "truncated_normal", "untruncated_normal", "uniform"."""

    def __init__(self, scale=1.0, mode="fan_in", distribution="truncated_normal", seed=None):
        super().__init__(seed)
        if scale <= 0:
            raise ValueError(f"VarianceScaling wants scale > 0, got {scale}")
        modes = ("fan_in", "fan_out", "fan_avg")
        distributions = ("truncated_normal", "untruncated_normal", "uniform")
        if mode not in modes or distribution not in distributions:
            raise ValueError(f"VarianceScaling knows the modes {', '.join(modes)} and the "
                             f"distributions {', '.join(distributions)}; got mode={mode!r}, "
                             f"distribution={distribution!r}")
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def __call__(self, shape):
        fan_in, fan_out = fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(n, 1.0)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return self.generator().uniform(-limit, limit, shape)
        if self.distribution == "untruncated_normal":
            return self.generator().normal(0.0, math.sqrt(variance), shape)
        # cutting the tails at two sigma leaves 0.8796 of the standard deviation
        return TruncatedNormal(0.0, math.sqrt(variance) / 0.87962566103423978, self.seed)(shape)


class _Named(VarianceScaling):
    def __init__(self, seed=None):
        super().__init__(*self.kind, seed)


class GlorotUniform(_Named):
    """Glorot & Bengio 2010."""
    kind = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Named):
    kind = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Named):
    """He et al. 2015, for ReLU."""
    kind = (2.0, "fan_in", "uniform")


class HeNormal(_Named):
    kind = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Named):
    """LeCun et al. 1998."""
    kind = (1.0, "fan_in", "uniform")


class LecunNormal(_Named):
    kind = (1.0, "fan_in", "truncated_normal")


class Orthogonal(Initializer):
    """Orthonormal rows or columns, whichever are fewer (Saxe et al. 2013), times `gain`."""

    def __init__(self, gain=1.0, seed=None):
        super().__init__(seed)
        self.gain = gain

    def __call__(self, shape):
        if len(shape) < 2:
            raise ValueError(f"Orthogonal wants a weight of 2 dimensions or more, got {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        a = self.generator().standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(a)
        q = q * np.sign(np.diag(r))  # makes q uniformly distributed (Mezzadri 2007)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


_names = {re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower(): globals()[name]
          for name in __all__ if name != "get"}
_names.update(normal=RandomNormal, uniform=RandomUniform)


def get(initializer):
    """The initialiser of that name ("glorot_uniform"); a function of a shape is itself."""
    if isinstance(initializer, str):
        cls = _names.get(initializer) or globals().get(initializer)
        if not (isinstance(cls, type) and issubclass(cls, Initializer)):
            raise ValueError(f"unknown initializer {initializer!r}; the initializers are "
                             + ", ".join(_names))
        return cls()
    if isinstance(initializer, type) and issubclass(initializer, Initializer):
        return initializer()
    if not callable(initializer):
        raise TypeError(f"an initializer is a name or a function of a shape, not {initializer!r}")
    return initializer
