"""Layer: weights, and a function of tensors that uses them.

A layer is made with its options, and builds its weights when it first sees an input:

    class Scale(Layer):
        def build(self, input_shape):
            self.scale = self.add_weight((input_shape[-1],), "ones", "scale")

        def call(self, x):
            return x * self.scale

Layers that are attributes of a layer (also in lists and dictionaries) belong to it, with their
weights, in the order in which the attributes were set.
"""

import contextvars
import functools
import inspect
import re
import warnings
from collections import Counter

import numpy as np

from kernels import backend
from minideep import initializers, ops
from minideep.config import Configurable
from minideep.device import check, current_device, device as device_context
from minideep.mode import no_grad
from minideep.tensor import Tensor, tensor

__all__ = ["Layer"]

_training = contextvars.ContextVar("training", default=False)  # of the call that we are inside of
_made = Counter()  # layers per class, for their names


def _once(build):
    @functools.wraps(build)
    def build_once(self, input_shape):
        if not self.built:
            with device_context(self._device or current_device()):
                build(self, input_shape)
            self.built, self.build_shape = True, input_shape
    return build_once


class Layer(Configurable):
    """Base class of layers and models. Subclasses write call() and, for weights, build().

    name: made from the class where not given ("dense", "dense_1"). dtype: "float32" or "float64";
    real inputs are cast to it. trainable=False freezes the weights. input_shape (one sample's),
    input_dim (the same as input_shape=(input_dim,)) or batch_input_shape: what a Sequential is
    built for, in its first layer.
    """

    supports_masking = False  # does a mask of time steps still hold for the output?

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "build" in vars(cls):
            cls.build = _once(cls.build)
        cls._takes = frozenset(inspect.signature(cls.call).parameters) & {"training", "mask"}

    def __init__(self, *, name=None, dtype="float32", trainable=True, input_shape=None,
                 input_dim=None, batch_input_shape=None, **unknown):
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected argument "
                            f"{next(iter(unknown))!r}; it takes {', '.join(self.options())}")
        if str(dtype) not in ("float32", "float64"):
            raise ValueError(f"a layer's dtype is 'float32' or 'float64', got {dtype!r}")
        if name is None:
            kind = re.sub("(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(self).__name__)
            kind = kind.lower()
            name = f"{kind}_{_made[kind]}" if _made[kind] else kind
            _made[kind] += 1
        if input_dim is not None:
            input_shape = (input_dim,)
        if input_shape is not None:
            batch_input_shape = (None, *sample_shape(self, input_shape))
        self.name, self.dtype, self.built, self.build_shape = name, str(dtype), False, None
        self.batch_input_shape = None if batch_input_shape is None else tuple(batch_input_shape)
        self._weights, self._frozen, self._device, self._trainable = {}, set(), None, trainable

    @classmethod
    def options(cls):
        """Names of the arguments that the constructor takes, those of its base classes included."""
        chain = [c.__init__ for c in cls.__mro__ if c is not object and "__init__" in vars(c)]
        return list(dict.fromkeys(
            p.name for init in chain for p in list(inspect.signature(init).parameters.values())[1:]
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)))

    # ------------------------------------------------------------------------ what subclasses write

    def build(self, input_shape):
        """Make the weights for inputs of this shape (batch first, None where any size will do)."""

    build = _once(build)

    def call(self, x):
        """The layer's function. It may also take `training` and `mask` (N, T)."""
        raise NotImplementedError(f"{type(self).__name__} has no call() method")

    def compute_output_shape(self, input_shape):
        """The shape that an input of `input_shape` (batch None or a number) comes out with."""
        if None in input_shape[1:]:
            raise ValueError(f"{self.name} cannot tell its output's shape from {input_shape}: only "
                             "the batch may be None, or the class needs a compute_output_shape()")
        n = input_shape[0]
        zeros = np.zeros((1 if n is None else n, *input_shape[1:]), self.dtype)
        stateful = [(v, v.states) for v in self.sublayers() if getattr(v, "stateful", False)]
        self.reset_states()
        with no_grad():
            y = self(zeros, training=False)
        self.reset_states()  # what these zeros left behind is no state to go on from
        for layer, states in stateful:
            layer.states = states
        return y.shape if n is not None else (None, *y.shape[1:])

    def compute_mask(self, x, mask=None):
        """The mask that goes on to the next layer."""
        if mask is not None and not self.supports_masking:
            warnings.warn(f"{self.name} was given a mask of time steps, which does not hold for "
                          "its output; the layers after it see none", stacklevel=2)
            return None
        return mask

    def flops(self, input_shape):
        """Operations in products and sums of products per call, a multiply-add counted as two; one
        sample if the batch is None."""
        return 0

    # ---------------------------------------------------------------------------------------- calls

    def __call__(self, x, *args, training=None, mask=None, **kwargs):
        """The output for x: a tensor, an array, nested lists, or a list or dictionary of them.

        training: None is that of the layer whose call() this is in; False outside of any.
        """
        if "_weights" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}.__init__ must call super().__init__() "
                               "before the layer can be used")
        x = self._accept(x)
        if not self.built:
            first = x if isinstance(x, Tensor) else next(iter(_tensors(x)), None)
            self._device = self._device or (first.device if first is not None else None)
            self.build(_shapes(x))
        training = _training.get() if training is None else bool(training)
        if "training" in self._takes:
            kwargs["training"] = training
        if mask is not None and "mask" in self._takes:
            kwargs["mask"] = mask if isinstance(mask, Tensor) else tensor(mask, device=self._device)
        token = _training.set(training)
        try:
            return self.call(x, *args, **kwargs)
        finally:
            _training.reset(token)

    def _accept(self, x):
        if isinstance(x, (list, tuple)) and any(True for _ in _tensors(x)):
            return type(x)(self._accept(v) for v in x)
        if isinstance(x, dict):
            return {name: self._accept(v) for name, v in x.items()}
        if not isinstance(x, Tensor):
            x = tensor(x, device=self._device)
        cast = x.dtype.kind in "fiu" and x.dtype != self.dtype
        return ops.astype(x, dtype=self.dtype) if cast else x

    # -------------------------------------------------------------------------------------- weights

    def add_weight(self, shape, initializer="glorot_uniform", name=None, trainable=True):
        """A new weight of the layer: a tensor. trainable=False: the optimizer leaves it alone."""
        name = name or f"weight_{len(self._weights)}"
        if name in self._weights:
            raise ValueError(f"{self.name} already has a weight named {name!r}")
        array = np.asarray(initializers.get(initializer)(tuple(shape)), order="C")
        if array.shape != tuple(shape):
            raise ValueError(f"the initializer of {self.name}'s {name} gave an array of shape "
                             f"{array.shape}, not {tuple(shape)}")
        weight = tensor(array, self.dtype, trainable and self._trainable, self._device)
        self._weights[name] = weight
        self._frozen |= set() if trainable else {name}
        return weight

    def _own(self):
        """{name: weight}: those of add_weight, and tensors with requires_grad=True that a program
        has set as attributes. The trainable ones first, as in Keras."""
        known = {id(w) for w in self._weights.values()}
        for name, value in vars(self).items():
            if (type(value) is Tensor and value.requires_grad and value.node is None
                    and id(value) not in known):
                self._weights[name] = value
        return dict(sorted(self._weights.items(), key=lambda item: item[0] in self._frozen))

    def _children(self):
        """(name, layer) for the layers that are attributes of this one."""
        for name, value in list(vars(self).items()):
            if isinstance(value, (Layer, list, tuple, dict)) and name not in ("_arguments", "_weights"):
                yield from _layers_in(value, name)

    def sublayers(self):
        """This layer and all within it, each once, outermost first."""
        return list({id(layer): layer for _, layer in self._walk("", set())}.values())

    def _walk(self, prefix, seen):
        if id(self) not in seen:
            seen.add(id(self))
            yield prefix, self
            for name, child in self._children():
                yield from child._walk(f"{prefix}{name}.", seen)

    def named_weights(self):
        """{"kernel": tensor, "cell.bias": tensor, ...}: each weight by the attributes to it."""
        return {prefix + name: weight for prefix, layer in self._walk("", set())
                for name, weight in layer._own().items()}

    @property
    def weights(self):
        """All weights, in Keras's order."""
        return list({id(w): w for w in self.named_weights().values()}.values())

    @property
    def trainable_weights(self):
        """The weights that an optimizer should change."""
        if not self._trainable:
            return []
        found = [w for name, w in self._own().items() if name not in self._frozen]
        found += [w for _, child in self._children() for w in child.trainable_weights]
        return list({id(w): w for w in found}.values())

    @property
    def non_trainable_weights(self):
        """Moving statistics, and the weights of frozen layers."""
        trainable = {id(w) for w in self.trainable_weights}
        return [w for w in self.weights if id(w) not in trainable]

    def parameters(self):
        return self.trainable_weights

    @property
    def trainable(self):
        """Set to False to freeze this layer and all within it."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        for layer in self.sublayers():
            own = layer._own()
            layer._trainable = bool(value)
            for name, weight in own.items():
                weight.requires_grad = layer._trainable and name not in layer._frozen

    def count_params(self):
        """How many numbers the weights hold."""
        return sum(w.size for w in self.weights)

    def get_weights(self):
        """Copies of the weights as NumPy arrays, in Keras's order."""
        return [np.array(w.numpy()) for w in self.weights]

    def set_weights(self, arrays):
        """Take the values of `arrays`, in the order of get_weights()."""
        named, arrays = self.named_weights(), [np.asarray(a) for a in arrays]
        if len(named) != len(arrays):
            hint = "" if self.built else "; not built yet: call it, or build(input_shape), first"
            raise ValueError(f"{self.name} has {len(named)} weights ({', '.join(named)}), but "
                             f"{len(arrays)} were given{hint}")
        for (name, weight), array in zip(named.items(), arrays):
            if weight.shape != array.shape:
                raise ValueError(f"{self.name}'s {name} has shape {weight.shape}; an array of "
                                 f"shape {array.shape} was given")
        for weight, array in zip(named.values(), arrays):
            weight.data = tensor(array, weight.dtype, device=weight.device).data

    def to(self, device):
        """Move the weights to "cpu" or "cuda", and make those to come there. Returns the layer."""
        check(device)
        for layer in self.sublayers():
            layer._device = device
            for weight in layer._own().values():
                for t in (weight, weight.grad):
                    if t is not None:
                        t.data = backend.to_device(t.data, device)
        return self

    def reset_states(self):
        """Forget the state of stateful recurrent layers."""
        for _, child in self._children():
            child.reset_states()

    def reset_state(self):
        self.reset_states()

    def get_config(self):
        parameters = inspect.signature(type(self).__init__).parameters.values()
        takes_name = any(p.name == "name" or p.kind is p.VAR_KEYWORD for p in parameters)
        return {**super().get_config(), **({"name": self.name} if takes_name else {})}

    def __repr__(self):
        return f"<{type(self).__name__} {self.name}>"


class SameShape(Layer):
    """Layers whose output has the shape, and so the mask, of their input."""

    supports_masking = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


def sample_shape(layer, shape):
    """The shape of one sample as a tuple; (3) is a number, meant was (3,)."""
    if isinstance(shape, int):
        raise TypeError(f"{type(layer).__name__} wants the shape of a sample, such as ({shape},); "
                        f"got the number {shape}")
    return tuple(shape)


def check_padding(layer, padding):
    """`padding` of a convolution or pooling layer: a name, in small letters, or integers."""
    if not isinstance(padding, str):
        return padding
    if padding.lower() not in ("valid", "same"):
        raise ValueError(f"{type(layer).__name__} wants padding to be 'valid', 'same' or integers, "
                         f"got {padding!r}")
    return padding.lower()


def positive(owner, name, value):
    """`value` if it is an integer above 0, otherwise a ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{type(owner).__name__} wants {name} to be an integer above 0, got "
                         f"{value!r}")
    return int(value)


def check_shape(layer, shape, axes, size=None):
    """Raise ValueError unless `shape` has the axes that are named ("N T C"), the last of length
    `size` (None before the layer is built: then it must only be known)."""
    names = axes.split()
    if len(shape) != len(names):
        raise ValueError(f"{layer.name} takes an input of shape ({', '.join(names)}), got {shape}; "
                         "reshape it, or add the missing axis with a [None] or [..., None] index")
    if shape[-1] is None or size is not None and shape[-1] != size:
        raise ValueError(f"{layer.name} " + (
            f"needs to know the last axis of its input, got {shape}" if shape[-1] is None else
            f"was built for inputs with a last axis ({names[-1]}) of {size}, got {shape}"))


def _layers_in(value, name):
    if isinstance(value, Layer):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, v in items:
            yield from _layers_in(v, f"{name}.{key}")


def _tensors(x):
    """Tensors and arrays in nested lists and dictionaries."""
    if isinstance(x, Tensor) or backend.is_array(x):
        yield x
    elif isinstance(x, (list, tuple, dict)):
        for v in x.values() if isinstance(x, dict) else x:
            yield from _tensors(v)


def _shapes(x):
    if isinstance(x, Tensor):
        return x.shape
    if isinstance(x, dict):
        return {name: _shapes(v) for name, v in x.items()}
    return [_shapes(v) for v in x]
