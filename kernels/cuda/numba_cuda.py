"""CUDA kernels written in Python: Numba compiles them at their first launch, and not before.

    @kernel
    def _double(x, y):                     # what one thread does
        i = cuda.grid(1)
        if i < x.size:
            y[i] = 2 * x[i]

    _double(blocks, threads, x, y)         # launches it; y is written

This is the only file that imports numba.cuda. A kernel takes contiguous CuPy arrays, numbers and
tuples of integers, and runs on CuPy's current stream. Without a GPU it can be proven in two ways:
under NUMBA_ENABLE_CUDASIM=1, set before the first launch, Numba's simulator runs it on NumPy
arrays, every thread in Python; inside `compiled_to_ptx` a launch compiles and runs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import types

from kernels.backend import device_of, is_array, require_cuda

_ptx = None  # inside `compiled_to_ptx`: the compute capability, and what was compiled


def kernel(function):
    """Decorator: a function that `blocks` of `threads` (numbers, or tuples of up to 3) run.

    It sees numba.cuda as `cuda` (from kernels.cuda.numba_cuda import cuda), and functions under
    `device` in its module's globals or its closure. Nothing is launched where there are 0 blocks.
    """
    return _Kernel(function)


def device(function):
    """Decorator: a function for kernels to call. The simulator lets it have no `cuda` of its own:
    arithmetic only."""
    return _Device(function)


def usable(*arrays):
    """True if Numba's kernels can take these arrays here, or the reason why not."""
    for array in arrays:
        if array.dtype != "float32" and array.dtype != "float64":
            return f"float32 and float64 only, not {array.dtype}"
        if array.dtype != arrays[0].dtype:
            return f"one dtype only, not {arrays[0].dtype} and {array.dtype}"
    return problem() or True


@functools.lru_cache(maxsize=1)
def problem():
    """None if Numba can compile for CUDA, or what is missing in words. Asked once per process."""
    try:
        import numba.cuda  # noqa: F401
    except ImportError as error:
        return f"numba.cuda does not import ({error}): pip install numba-cuda"
    return None


@contextlib.contextmanager
def compiled_to_ptx(capability):
    """Inside, launches only compile, for the types of their arguments (NumPy arrays will do).

    capability: (major, minor), such as (8, 0). Gives a dictionary that fills with the PTX of every
    (kernel's name, signature).
    """
    global _ptx
    import numba.cuda.dispatcher as dispatcher

    # For device functions Numba asks the GPU what it is; here the answer is the one asked for.
    asks, gpu = dispatcher.get_current_device, types.SimpleNamespace(compute_capability=capability)
    _ptx, dispatcher.get_current_device = (capability, {}), lambda: gpu
    try:
        yield _ptx[1]
    finally:
        _ptx, dispatcher.get_current_device = None, asks


class _Device:
    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def compiled(self):
        import numba.cuda

        return numba.cuda.jit(device=True)(_resolved(self.function))


class _Kernel:
    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def compiled(self):
        import numba.cuda

        return numba.cuda.jit(_resolved(self.function))

    def __call__(self, blocks, threads, *args):
        import numba.cuda

        if 0 in (blocks if isinstance(blocks, tuple) else (blocks,)):
            return
        if _ptx is not None:
            capability, texts = _ptx
            signature = numba.types.void(*map(numba.typeof, args))
            key = self.function.__qualname__, str(signature)
            if key not in texts:
                function = _resolved(self.function)
                texts[key], _ = numba.cuda.compile_ptx(function, signature, cc=capability)
        elif numba.config.ENABLE_CUDASIM:
            self.compiled[blocks, threads](*args)
        else:
            first = next(arg for arg in args if is_array(arg) and device_of(arg) == "cuda")
            with first.device:  # streams belong to devices
                pointer = require_cuda().cuda.get_current_stream().ptr
                stream = numba.cuda.external_stream(pointer)
                self.compiled[blocks, threads, stream](*map(_borrowed, args))


class _Cuda:
    """Stands for the module numba.cuda in the globals of kernels until they are compiled."""

    @property
    def compiled(self):
        import numba.cuda

        return numba.cuda


cuda = _Cuda()


def _resolved(function):
    """The function with what Numba made of the names that it uses."""
    names = dict(function.__globals__)
    for name in function.__code__.co_names:
        if name in names:
            names[name] = _compiled(names[name])
    cells = tuple(
        types.CellType(_compiled(cell.cell_contents)) for cell in function.__closure__ or ()
    )
    resolved = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, cells
    )
    resolved.__qualname__ = function.__qualname__
    return resolved


def _compiled(value):
    return value.compiled if isinstance(value, (_Device, _Cuda)) else value


def _borrowed(arg):
    """A CuPy array as Numba's, on the same memory. Numba would wait for the array's stream on every
    launch; the kernel runs on that very stream, so there is nothing to wait for."""
    import numba.cuda

    return numba.cuda.as_cuda_array(arg, sync=False) if is_array(arg) else arg
