"""An array module that is not NumPy: finds, without a GPU, code that would fail on CuPy arrays.

`strict` offers NumPy's functions on a class of arrays of its own. Like CuPy it refuses every
implicit conversion to NumPy and every mixture with NumPy arrays, and its reductions give arrays
with no axes, not scalars; stricter than CuPy, it refuses NumPy's functions on its arrays as well.
`install()` registers it as the device "strict"; `to_strict` and `to_numpy` move arrays. Whole test
files run on it by `MINIDEEP_DEVICE=strict PYTHONPATH=tests python -m pytest -p strict_array FILE`.
"""

import operator
import types

import numpy as np
import scipy.special

from kernels import backend

# In NumPy and not in CuPy (its documentation's comparison table).
_MISSING = {"block", "einsum_path", "errstate", "frompyfunc", "nditer", "spacing"}


class StrictArray:
    """Wraps a NumPy array and shows it to nobody."""

    __slots__ = ("_array", "__weakref__")
    __hash__ = None

    def __init__(self, array):
        self._array = np.asarray(array)

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion to a NumPy array; CuPy refuses this too")

    def __array_function__(self, function, *args, **kwargs):
        raise TypeError(f"np.{function.__name__} was called on a device array; use xp.")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        # A NumPy scalar on the left of an operator ends here, and CuPy lets it.
        if method == "__call__" and any(isinstance(value, np.generic) for value in inputs):
            return _call(ufunc, inputs, kwargs)
        raise TypeError(f"np.{ufunc.__name__} was called on a device array; use xp.")

    def __getattr__(self, name):
        if name.startswith("__"):  # no __array_interface__, no buffer
            raise AttributeError(name)
        value = getattr(self._array, name)
        if not callable(value):
            return _wrap(value)
        if name in ("item", "tolist"):  # explicit, and CuPy has them
            return value
        return lambda *args, **kwargs: _call(value, args, kwargs)

    def __getitem__(self, index):
        return _wrap(self._array[_unwrap(index)])

    def __setitem__(self, index, value):
        self._array[_unwrap(index)] = _unwrap(value)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"Strict{self._array!r}"

    def __bool__(self):
        return bool(self._array)

    def __int__(self):
        return int(self._array)

    def __float__(self):
        return float(self._array)

    def __index__(self):
        return operator.index(self._array)

    def __copy__(self):
        return StrictArray(self._array.copy())

    def __deepcopy__(self, memo):
        return StrictArray(self._array.copy())


def _add_operators():
    def forward(name):
        function = getattr(operator, name)
        return lambda self, other: _binary(function, self, other)

    def reflected(name):
        function = getattr(operator, name)
        return lambda self, other: _binary(function, other, self)

    def in_place(name):
        function = getattr(operator, f"i{name.strip('_')}")

        def method(self, other):
            self._array = function(self._array, _unwrap(other))
            return self

        return method

    for name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
        dunder = f"__{name}__"
        setattr(StrictArray, dunder, forward(dunder))
        setattr(StrictArray, f"__r{name}__", reflected(dunder))
        setattr(StrictArray, f"__i{name}__", in_place(name))
    for name in "eq ne lt le gt ge".split():
        setattr(StrictArray, f"__{name}__", forward(f"__{name}__"))
    for name in "neg pos abs invert".split():
        function = getattr(operator, f"__{name}__")
        method = lambda self, function=function: _wrap(function(self._array))  # noqa: E731
        setattr(StrictArray, f"__{name}__", method)


def _binary(function, left, right):
    if any(value is not None and not _operand(value) for value in (left, right)):
        return NotImplemented
    return _wrap(function(_unwrap(left), _unwrap(right)))


def _operand(value):
    scalars = (bool, int, float, complex, np.generic, np.ndarray)
    return isinstance(value, (StrictArray, *scalars))


def _wrap(value):
    """Results come out wrapped, NumPy scalars as arrays without axes."""
    if isinstance(value, (np.ndarray, np.generic)):
        return StrictArray(value)
    if isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
        return tuple(map(_wrap, value))
    if isinstance(value, list) and any(isinstance(v, np.ndarray) for v in value):
        return list(map(_wrap, value))
    if isinstance(value, np.random.Generator):
        return _Module(value)
    return value


def _unwrap(value):
    """Arguments go in unwrapped; NumPy's own arrays do not go in at all."""
    if isinstance(value, StrictArray):
        return value._array
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("a NumPy array was mixed with device arrays; CuPy refuses this too")
    if type(value) in (tuple, list):
        return type(value)(map(_unwrap, value))
    if isinstance(value, dict):
        return {key: _unwrap(item) for key, item in value.items()}
    return value


def _call(function, args, kwargs):
    result = function(*_unwrap(args), **_unwrap(kwargs))
    if isinstance(kwargs.get("out"), StrictArray):
        return kwargs["out"]
    return _wrap(result)


class _Module:
    """NumPy, or a part of it, whose functions take and give StrictArrays."""

    def __init__(self, wrapped):
        self._wrapped = wrapped
        self.__name__ = f"strict.{getattr(wrapped, '__name__', '')}"

    def __getattr__(self, name):
        if name in _MISSING:
            raise AttributeError(f"CuPy has no {name}")
        value = getattr(self._wrapped, name)
        if isinstance(value, (types.ModuleType, np.ufunc)):
            return _Module(value)
        if isinstance(value, type) or not callable(value):
            return value
        return lambda *args, **kwargs: _call(value, args, kwargs)

    def __call__(self, *args, **kwargs):  # a ufunc; np.add.at and the like are its attributes
        return _call(self._wrapped, args, kwargs)


class _StrictModule(_Module):
    ndarray = StrictArray

    def asarray(self, value, dtype=None, **kwargs):
        """Takes NumPy arrays too: as in CuPy, this is the way onto the device."""
        array = np.array(_host(value), dtype=dtype, copy=not isinstance(value, StrictArray) or None)
        return value if isinstance(value, StrictArray) and array is value._array else _wrap(array)

    def array(self, value, dtype=None, **kwargs):
        return _wrap(np.array(_host(value), dtype=dtype, **kwargs))

    def asnumpy(self, value):
        return value._array.copy()

    def erf(self, value):  # kernels.backend.erf asks for it
        return _call(scipy.special.erf, (value,), {})


def _host(value):
    if isinstance(value, (list, tuple)):
        return [_host(item) for item in value]
    return value._array if isinstance(value, StrictArray) else value


_add_operators()
strict = _StrictModule(np)


def install():
    """Register the device "strict" with kernels.backend (any number of times)."""
    backend.register("strict", strict, StrictArray)


def pytest_configure(config):
    install()


def to_strict(value):
    """A NumPy array as a StrictArray; anything else as it is."""
    return StrictArray(value.copy()) if isinstance(value, np.ndarray) else value


def to_numpy(value):
    """A StrictArray, or a tuple of them, as NumPy arrays; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(to_numpy, value))
    return value._array if isinstance(value, StrictArray) else value
