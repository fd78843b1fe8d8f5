"""Kernels in CUDA C: compiled and launched by one launcher, on a GPU or, for tests, on the CPU.

    # scale.cu                                          beside the Python file that launches it
    extern "C" __global__ void scale(const float* x, float* y, float factor, Index n)
    {
        for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < n;
             i += gridDim.x * (Index)blockDim.x)
            y[i] = factor * x[i];
    }

    # scale.py
    _cu = cuda.module(__file__, "scale.cu")

    def raw(x, factor):
        y = cuda.empty(x.shape, like=x)
        _cu["scale"](cuda.blocks(x.size, 256), 256, x, y, factor, x.size)
        return y

A line `#include "rows.h"` puts that header, which lies beside this file, in its place.

CuPy arrays run on their GPU, in CuPy's current stream; CuPy compiles the source at the first
launch and keeps the result on disk. Inside `with cuda.on_cpu():` the very same call takes NumPy
arrays and runs the very same source on the CPU, every access watched (`kernels.cuda.on_cpu`).

The launcher reads each kernel's parameters from the source and holds the arguments to them:
- `const T*` takes an array of that dtype (a copy, where it is not contiguous) or None (null);
- `T*` takes a contiguous array that is written in place;
- a number becomes exactly the C type, and one that does not fit is an error;
- `Index` is int, or long long where an array or a number has 2^30 or more: the source is compiled
  a second time for that.
Nothing is launched where all arrays to write are empty, or the grid is.
"""

from __future__ import annotations

import functools
import math
import operator
import pathlib
import re
from typing import NamedTuple

import numpy as np

from kernels import backend
from kernels.cuda.on_cpu import on_cpu, run_on_cpu, schedule

__all__ = ["blocks", "empty", "module", "on_cpu", "row_block", "usable", "width"]

EACH = 16  # numbers of a row that a thread reads at once: as in rows.h
NARROW = 2**30  # Index is int up to here: i += stride stays below 2^31
SHARED_BYTES = 48 * 2**10  # what every GPU grants without being asked
_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}

_DTYPES = {
    "float": "f4", "double": "f8", "bool": "?", "char": "i1", "signed char": "i1",
    "unsigned char": "u1", "short": "i2", "unsigned short": "u2", "int": "i4", "unsigned": "u4",
    "unsigned int": "u4", "long long": "i8", "unsigned long long": "u8",
}  # fmt: skip
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)
_INCLUDE = re.compile(r'#include "(\w+\.h)"')
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


class Parameter(NamedTuple):
    name: str
    ctype: str  # as in the source, without __restrict__: "const float*"
    dtype: np.dtype | None  # None: Index
    is_array: bool
    is_output: bool


class Module:
    """The kernels of one .cu file: `module["name"]` is one. Nothing is compiled before a launch."""

    def __init__(self, path, *macros):
        self.path = pathlib.Path(path)
        self.name = self.path.name
        self.macros = macros

    @functools.cached_property
    def text(self):
        return self.path.read_text()

    @functools.cached_property
    def kernels(self):
        """A dictionary from name to Kernel, in the order of the source."""
        bare = _COMMENT.sub(" ", self.text)
        return {
            name: Kernel(self, name, [_parameter(self, name, p) for p in parameters.split(",")])
            for name, parameters in _KERNEL.findall(bare)
        }

    def __getitem__(self, name):
        try:
            return self.kernels[name]
        except KeyError:
            known = ", ".join(self.kernels) or 'none: extern "C" __global__ void name(...)'
            raise KeyError(f"{self.name} has no kernel {name!r}; its kernels are {known}") from None

    def source(self, index="int"):
        """The source with Index and the macros defined, and the headers that it includes from this
        folder; line numbers stay those of the files."""
        defined = "".join(f"#define {macro}\n" for macro in (f"Index {index}", *self.macros))
        lines = [f'{defined}#line 1 "{self.name}"']
        for number, line in enumerate(self.text.split("\n"), 1):
            header = _INCLUDE.fullmatch(line)
            if header:
                text = pathlib.Path(__file__).with_name(header[1]).read_text()
                line = f'#line 1 "{header[1]}"\n{text}#line {number + 1} "{self.name}"'
            lines.append(line)
        return "\n".join(lines)

    @functools.lru_cache(maxsize=None)  # noqa: B019 - modules live as long as the program
    def compiled(self, index):
        return backend.compile_cuda(self.source(index))


class Kernel:
    """`kernel(grid, block, *args, shared=0)` launches it: see the contract above.

    grid, block: an integer or up to three (x, y, z). shared: bytes of dynamic shared memory.
    """

    def __init__(self, module, name, parameters):
        self.module = module
        self.name = name
        self.parameters = parameters

    def __call__(self, grid, block, *args, shared=0):
        grid, block = self._size("grid", grid), self._size("block", block)
        if len(args) != len(self.parameters):
            names = ", ".join(p.name for p in self.parameters)
            raise self._error(TypeError, f"takes {len(self.parameters)} arguments ({names}), "
                                         f"got {len(args)}")  # fmt: skip
        if shared > SHARED_BYTES:
            raise self._error(ValueError, f"shared={shared} bytes, the limit is {SHARED_BYTES}")
        values = [self._value(p, value) for p, value in zip(self.parameters, args)]
        pairs = list(zip(self.parameters, values))
        outputs = [value for p, value in pairs if p.is_output]
        if 0 in grid or (outputs and all(array.size == 0 for array in outputs)):
            return
        arrays = [value for p, value in pairs if p.is_array and value is not None]
        numbers = [value for p, value in pairs if p.dtype is None]
        reach = [math.prod(grid) * math.prod(block), *numbers, *(array.size for array in arrays)]
        index, index_type = ("int", np.int32) if max(reach) < NARROW else ("long long", np.int64)
        values = [index_type(v) if p.dtype is None else v for p, v in pairs]
        device = backend.common_device(arrays)
        if device == "cuda":
            self._run_on_gpu(index, grid, block, arrays, values, shared)
        elif device == "cpu" and schedule() is not None:
            run_on_cpu(self, index, grid, block, values, shared)
        else:
            raise self._error(
                TypeError,
                f"takes CuPy arrays, got arrays on {device!r}. Move them with "
                'kernels.backend.to_device(array, "cuda") or .to("cuda"); to test a kernel '
                "without a GPU, call it with NumPy arrays inside `with kernels.cuda.on_cpu():`",
            )

    def _run_on_gpu(self, index, grid, block, arrays, values, shared):
        gpu = arrays[0].device
        if any(array.device != gpu for array in arrays):
            found = ", ".join(str(array.device) for array in arrays)
            raise self._error(ValueError, f"the arrays are on different GPUs: {found}")
        null = np.uint64(0)
        with gpu:
            function = self.module.compiled(index).get_function(self.name)
            arguments = tuple(null if value is None else value for value in values)
            function(grid, block, arguments, shared_mem=shared)

    def _value(self, parameter, value):
        """The argument as the kernel takes it: an array, None, or a number (for Index: an int)."""
        if parameter.is_array:
            return self._array(parameter, value)
        try:
            if parameter.dtype is None:
                return operator.index(value)
            if parameter.dtype.kind in "iu":
                value = operator.index(value)
                range_ = np.iinfo(parameter.dtype)
                if not range_.min <= value <= range_.max:
                    raise self._error(
                        OverflowError,
                        f"{parameter.name}={value} does not fit into {parameter.ctype}; "
                        "a number that may grow is declared Index",
                    )
            return parameter.dtype.type(value)
        except (TypeError, ValueError):
            raise self._error(
                TypeError, f"{parameter.name} must be a number for {parameter.ctype}, got {value!r}"
            ) from None

    def _array(self, parameter, value):
        if value is None and not parameter.is_output:
            return None
        if not backend.is_array(value):
            found = type(value).__name__
            raise self._error(TypeError, f"{parameter.name} must be an array, got {found}")
        if value.dtype != parameter.dtype:
            raise self._error(
                TypeError, f"{parameter.name} must hold {parameter.dtype}, got {value.dtype}"
            )
        if value.flags.c_contiguous:
            return value
        if parameter.is_output:
            raise self._error(
                ValueError,
                f"{parameter.name} is written, so it must be contiguous; "
                f"got shape {value.shape}, strides {value.strides}",
            )
        return backend.array_module(value).ascontiguousarray(value)

    def _size(self, what, size):
        sizes = (size,) if isinstance(size, (int, np.integer)) else tuple(size)
        sizes = (*map(int, sizes), 1, 1, 1)[: max(3, len(sizes))]
        limits = _LIMITS[what]
        fits = len(sizes) == 3 and all(0 <= n <= limit for n, limit in zip(sizes, limits))
        if what == "block":
            fits = fits and 0 < math.prod(sizes) <= limits[0]
        if not fits:
            product = ", 1 to 1024 threads in all" if what == "block" else ""
            raise self._error(ValueError, f"{what} may be at most {limits}{product}, got {size}")
        return sizes

    def _error(self, kind, message):
        return kind(f"{self.module.name}, kernel {self.name}: {message}")


def module(file, name, *macros):
    """The kernels of the .cu file `name` that lies beside the Python file `file` (__file__),
    compiled with these macros defined."""
    return Module(pathlib.Path(file).with_name(name), *macros)


def blocks(items, each):
    """How many blocks of `each` items hold all `items`: a grid's size along one axis."""
    return -(-items // each)


def row_block(size):
    """The block for rows of `size` numbers (rows.h): the threads of a row, and the rows.

    As few threads as hold the row in registers, EACH numbers each, but 1024 at most.
    """
    threads = blocks(size, EACH)
    if threads > 32:
        return min(1024, 32 * blocks(threads, 32)), 1
    threads = 1 << (threads - 1).bit_length()
    return threads, 256 // threads


def width(count, *arrays):
    """4 where `count` neighbours may be read and written four at a time: a multiple of 4, in arrays
    that begin at a multiple of 16 bytes; else 1. For modules that are compiled for both."""
    aligned = all(_address(array) % 16 == 0 for array in arrays)
    return 4 if count % 4 == 0 and aligned else 1


def _address(array):
    return array.ctypes.data if backend.device_of(array) == "cpu" else array.data.ptr


def empty(shape, *, like, dtype=None):
    """A new array on the device of the array `like`, for a kernel to write; by default its dtype.

    On the CPU it is filled with NaN (integers: with -1), so that a test sees what is not written.
    """
    dtype = np.dtype(dtype or like.dtype)
    if backend.device_of(like) == "cpu":
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xFF)
        return array
    return backend.array_module(like).empty(shape, dtype)


def usable(*arrays):
    """True if the float32 kernels can take these arrays, or the reason why not (for `needs`)."""
    for array in arrays:
        if array.dtype != np.float32:
            return f"float32 only, not {array.dtype}"
    return True


def _parameter(module, kernel, text):
    words = text.replace("__restrict__", " ").replace("*", " * ").split()
    is_array, is_const = "*" in words, "const" in words
    name = words[-1]
    base = " ".join(word for word in words[:-1] if word not in ("const", "*"))
    known = base in _DTYPES or (base == "Index" and not is_array)
    if not known or words.count("*") > 1:
        raise ValueError(
            f"{module.name}, kernel {kernel}: cannot pass the parameter `{text.strip()}`; the types "
            f"are Index, {', '.join(_DTYPES)}, and pointers to all but Index"
        )
    dtype = np.dtype(_DTYPES[base]) if base in _DTYPES else None
    ctype = ("const " if is_const else "") + base + ("*" if is_array else "")
    return Parameter(name, ctype, dtype, is_array, is_array and not is_const)
