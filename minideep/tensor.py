"""Tensor: an array that remembers how it was made.

`data` is a NumPy or CuPy array, `node` the op that made it (None for a leaf), `grad` what
`backward()` left on a leaf. All arithmetic is in `minideep.ops`; the methods here only name it.
"""

import sys
import weakref

import numpy as np

from kernels import backend

__all__ = ["Tensor", "tensor"]


class Tensor:
    """An array with a gradient.

    data: NumPy or CuPy array, not copied (`minideep.tensor` copies). requires_grad: leaves with
    True receive `.grad` from `backward()`. Change `data` in place only when no graph waits for its
    backward pass; a graph that saved it will refuse to give wrong gradients.
    """

    __slots__ = ("data", "grad", "requires_grad", "node", "hooks", "__weakref__")
    __array_ufunc__ = None  # ndarray + tensor is the tensor's __radd__
    __hash__ = object.__hash__

    def __init__(self, data, requires_grad=False, node=None):
        self.data, self.grad, self.node, self.hooks = data, None, node, None
        self.requires_grad = requires_grad

    def backward(self, gradient=None, retain_graph=False, create_graph=False):
        """Add the gradient of this tensor to `.grad` of every leaf that it was computed from.

        gradient: the gradient to start from, of this tensor's shape; 1 for a scalar.
        retain_graph=True keeps the graph for another pass; create_graph=True also records this one.
        """
        start = autograd.seed_gradient(self, gradient)
        found = autograd.run_backward([(self, start)], create_graph, retain_graph)
        taken = {id(start.data)}  # each leaf gets an array of its own: one may change it in place
        for leaf, g in found.items():
            if leaf.grad is not None:
                g = leaf.grad + g
            elif g.requires_grad:  # it can be differentiated, and stays so
                g = g + 0 if id(g.data) in taken else g
            elif id(g.data) in taken or _references(g.data) > _ALONE:  # others have it too
                g = Tensor(g.data.copy())
            taken.add(id(g.data))
            leaf.grad = g

    def register_hook(self, hook):
        """Call hook(gradient) when this tensor's whole gradient is known; what it returns, unless
        None, takes the gradient's place. Returns a function that removes the hook."""
        if not self.requires_grad:
            raise RuntimeError("a tensor without requires_grad gets no gradient to hook")
        edge = self if self.node is None else self.node
        edge.hooks = edge.hooks or {}
        key = object()
        edge.hooks[key] = hook
        return lambda: edge.hooks.pop(key, None)

    def retain_grad(self):
        """Make `backward()` leave `.grad` on this tensor although it is not a leaf."""
        if self.node is not None:
            me = weakref.ref(self)

            def keep(g):
                if me() is not None:
                    me().grad = g if me().grad is None else me().grad + g
            self.node.hooks = {**(self.node.hooks or {}), "retain_grad": keep}  # once

    def detach(self):
        """The same data, cut off from the graph."""
        return Tensor(self.data)

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    T = property(lambda self: ops.transpose(self))
    device = property(lambda self: backend.device_of(self.data))

    def to(self, device):
        """This tensor on "cpu" or "cuda"; the gradient flows back to where it came from."""
        return ops.to_device(self, device)

    def numpy(self):
        """A NumPy array with this tensor's values (shared with it on the CPU)."""
        return backend.to_numpy(self.data)

    def item(self):
        """The value of a tensor of one element, as a Python number."""
        return self.data.item()

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise TypeError("NumPy would lose this tensor's graph; use a function of minideep.ops, "
                            "or take the values with .detach().numpy()")
        array = backend.to_numpy(self.data)
        return np.array(array, dtype=dtype) if copy else np.asarray(array, dtype=dtype)

    def __repr__(self):
        made = f", node={self.node.op.name}" if self.node else (
            ", requires_grad=True" if self.requires_grad else "")
        where = "" if self.device == "cpu" else f", device={self.device!r}"
        values = np.array2string(backend.to_numpy(self.data), separator=", ", prefix="tensor(")
        return f"tensor({values}, dtype={self.dtype}{where}{made})"

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of a tensor of no dimension")
        return self.shape[0]

    def __iter__(self): return (self[i] for i in range(len(self)))
    def __bool__(self): return bool(self.data)
    def __float__(self): return float(self.item())
    def __int__(self): return int(self.item())
    def __format__(self, spec): return format(self.item() if spec else str(self), spec)

    def __setitem__(self, index, value):
        raise TypeError("tensors do not change in place: a graph may need their old values. Make a "
                        "new one (ops.where, ops.scatter), or write to t.data outside any graph")

    def __add__(self, other): return ops.add(self, other)
    def __radd__(self, other): return ops.add(other, self)
    def __sub__(self, other): return ops.sub(self, other)
    def __rsub__(self, other): return ops.sub(other, self)
    def __mul__(self, other): return ops.mul(self, other)
    def __rmul__(self, other): return ops.mul(other, self)
    def __truediv__(self, other): return ops.div(self, other)
    def __rtruediv__(self, other): return ops.div(other, self)
    def __pow__(self, other): return ops.power(self, other)
    def __rpow__(self, other): return ops.power(other, self)
    def __matmul__(self, other): return ops.matmul(self, other)
    def __rmatmul__(self, other): return ops.matmul(other, self)
    def __neg__(self): return ops.neg(self)
    def __abs__(self): return ops.abs(self)
    def __getitem__(self, index): return ops.getitem(self, index=index)

    # Comparisons, and what joins them, give tensors of booleans; they have no gradient.
    def __eq__(self, other): return _plain(self.data == _raw(other))
    def __ne__(self, other): return _plain(self.data != _raw(other))
    def __lt__(self, other): return _plain(self.data < _raw(other))
    def __le__(self, other): return _plain(self.data <= _raw(other))
    def __gt__(self, other): return _plain(self.data > _raw(other))
    def __ge__(self, other): return _plain(self.data >= _raw(other))
    def __and__(self, other): return _plain(self.data & _raw(other))
    def __or__(self, other): return _plain(self.data | _raw(other))
    def __invert__(self): return _plain(~self.data)

    def sum(self, axis=None, keepdims=False): return ops.sum(self, axis, keepdims)
    def mean(self, axis=None, keepdims=False): return ops.mean(self, axis, keepdims)
    def var(self, axis=None, keepdims=False): return ops.var(self, axis, keepdims)
    def max(self, axis=None, keepdims=False): return ops.max(self, axis, keepdims)
    def min(self, axis=None, keepdims=False): return ops.min(self, axis, keepdims)
    def argmax(self, axis=None): return ops.argmax(self, axis)
    def exp(self): return ops.exp(self)
    def log(self): return ops.log(self)
    def sqrt(self): return ops.sqrt(self)
    def tanh(self): return ops.tanh(self)
    def sigmoid(self): return ops.sigmoid(self)
    def relu(self): return ops.relu(self)
    def astype(self, dtype): return ops.astype(self, dtype=dtype)

    def reshape(self, *shape):
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return ops.transpose(self, axes=axes or None)


def _references(array):
    """To the array that this one is a view of; 0 if it has its own numbers, many if it has a part
    of that or has some twice (sum's gradient: one number, broadcast)."""
    base = getattr(array, "base", None)
    if type(base) is not type(array):
        return 0
    lent = base.size != array.size or 0 in array.strides or not getattr(array.flags, "writeable", True)
    return sys.maxsize if lent else sys.getrefcount(base)


_ALONE = _references(np.zeros(2)[:])  # of a view that nobody shares


def _raw(x):
    return x.data if isinstance(x, Tensor) else x


def _plain(y):
    return Tensor(np.asarray(y) if isinstance(y, np.generic) else y)  # a scalar is no array


def tensor(data, dtype=None, requires_grad=False, device=None):
    """A new tensor with a copy of `data` (numbers, nested lists, an array or a tensor).

    dtype: that of an array is kept; Python floats become float32. device: "cpu", "cuda", or None for
    the one of `minideep.device(...)`. Only floating or complex tensors can require a gradient.
    """
    from minideep.device import current_device
    data = data.data if isinstance(data, Tensor) else data
    listed = not hasattr(data, "dtype")
    data = data if backend.is_array(data) else np.asarray(data)
    if data.dtype.kind not in "biufc":
        raise ValueError(f"tensor() wants numbers in a regular shape, not dtype {data.dtype}")
    if dtype is None and listed:
        dtype = {"f": np.float32, "c": np.complex64}.get(data.dtype.kind)
    target = device or current_device()
    array = backend.module_of(target).array(backend.to_device(data, target), dtype=dtype)  # a copy
    if requires_grad and array.dtype.kind not in "fc":
        raise TypeError(f"a tensor of dtype {array.dtype} cannot have a gradient; give it "
                        "dtype='float32' or 'float64'")
    return Tensor(array, requires_grad)


from minideep import autograd, ops  # noqa: E402  (ops are made of tensors, tensors use ops)
