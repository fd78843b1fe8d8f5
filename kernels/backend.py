"""Where arrays live: NumPy arrays on "cpu", CuPy arrays on "cuda".

This is the only file that imports CuPy, and it does so inside functions, so that everything above
it works, and starts quickly, on a machine that has neither CuPy nor a GPU.

Code that must run on both asks `xp = array_module(x)` and then writes `xp.` where it would have
written `np.`. A test proves that it did by registering a third, strict array module (`register`).
Such a module behaves as CuPy does in two places: `module.asarray(ndarray)` brings an array in,
`module.asnumpy(array)` takes it out.
"""

from __future__ import annotations

import functools
import sys

import numpy as np

_SCALARS = (np.generic, bool, int, float, complex)
_device_of_type = {np.ndarray: "cpu"}  # and None for a type known to be no array
_module_of_device = {"cpu": np}


def register(device, module, array_type):
    """Add an array module: `device` is its name, `array_type` the class of its arrays."""
    _module_of_device[device] = module
    _device_of_type[array_type] = device


def array_module(*arrays):
    """The module (numpy, cupy, ...) that computes with `arrays`.

    Scalars fit every module; scalars alone are NumPy's.
    Raises TypeError where the arrays live on different devices or are no arrays at all.
    """
    if len(arrays) == 1 and type(arrays[0]) is np.ndarray:
        return np
    return _module_of_device[common_device(arrays)]


def common_device(arrays):
    """The one device on which all of `arrays` live; scalars live anywhere ("cpu" if alone)."""
    found = None
    for array in arrays:
        device = _device_of_type.get(type(array))
        if device is None:
            if isinstance(array, _SCALARS):
                continue
            device = device_of(array)
        if found is None:
            found = device
        elif device != found:
            devices = ", ".join(device_of(a) for a in arrays)
            raise TypeError(
                f"arrays on different devices ({devices}) cannot be combined; "
                f"move them to one device first with .to({found!r}) or kernels.backend.to_device"
            )
    return found or "cpu"


def is_array(value):
    """Whether `value` is an array of any known module (scalars and lists are not)."""
    try:
        return _device_of_type[type(value)] is not None
    except KeyError:
        return _find_device(type(value)) is not None


def device_of(array):
    """The device's name: "cpu", "cuda" or a registered one. Scalars count as "cpu"."""
    device = _device_of_type.get(type(array)) or _find_device(type(array))
    if device is None:
        if isinstance(array, _SCALARS):
            return "cpu"
        raise TypeError(
            f"expected an array of NumPy or CuPy, got {type(array).__name__}; "
            "convert it first with numpy.asarray"
        )
    return device


def _find_device(array_type):
    """A type met for the first time: CuPy's own array, or a subclass of a known one."""
    if array_type.__module__.split(".")[0] == "cupy" and "cupy" in sys.modules:
        register("cuda", _cupy(), _cupy().ndarray)
    device = None
    for known, name in _device_of_type.items():
        if name is not None and issubclass(array_type, known):
            device = name
    _device_of_type[array_type] = device  # None is remembered too: no array
    return device


def module_of(device):
    """The array module of a device's name. Raises DeviceError if "cuda" cannot be used here."""
    if device == "cuda":
        require_cuda()
    try:
        return _module_of_device[device]
    except KeyError:
        names = ", ".join(repr(name) for name in devices())
        raise ValueError(f"unknown device {device!r}; the devices are {names}") from None


def devices():
    """Names of all devices that one may ask for (asking for "cuda" may still fail)."""
    return list(dict.fromkeys(["cpu", "cuda", *_module_of_device]))


def to_device(array, device):
    """`array` on `device`; the same object if it is there already."""
    if device_of(array) == device and not isinstance(array, _SCALARS):
        return array
    return module_of(device).asarray(to_numpy(array))


def to_numpy(array):
    """`array` as a NumPy array in host memory; the same object if it is one already."""
    device = device_of(array)
    if device == "cpu":
        return np.asarray(array)
    return _module_of_device[device].asnumpy(array)


def cuda_is_available():
    """Whether CuPy, a driver and a device are here and can add two numbers."""
    return _cuda_problem() is None


class DeviceError(RuntimeError):
    """A device cannot be used on this machine."""


def require_cuda():
    """Raise a DeviceError that says what is missing and what mends it, or return CuPy."""
    problem = _cuda_problem()
    if problem is not None:
        raise DeviceError(f"CUDA cannot be used here: {problem}")
    return _cupy()


def compile_cuda(source):
    """The CUDA C `source` as a cupy.RawModule: compiled at first use, for each GPU that uses it."""
    return require_cuda().RawModule(code=source, options=("-std=c++17",))


def _cupy():
    import cupy

    return cupy


@functools.lru_cache(maxsize=1)
def _cuda_problem():
    """None if CUDA works, or what is missing in words. Asked once per process: it is slow."""
    try:
        cupy = _cupy()
    except ImportError as error:
        if getattr(error, "name", None) != "cupy":
            return f"CuPy is installed but does not import ({error})"
        return (
            "CuPy is not installed. For a driver of CUDA 12: pip install cupy-cuda12x "
            "(or 'minideep[cuda12]'); for CUDA 13: pip install cupy-cuda13x (or 'minideep[cuda13]')"
        )
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own CUDARuntimeError, or OSError for a library
        return (
            f"the NVIDIA driver does not answer ({error}). Install or update it "
            "(nvidia-smi should list a device), and match the wheel to it: "
            "cupy-cuda12x for CUDA 12, cupy-cuda13x for CUDA 13"
        )
    if count == 0:
        return "the driver sees no device (is CUDA_VISIBLE_DEVICES set and empty?)"
    try:
        if int((cupy.ones(2, dtype="float32") + 1).sum()) != 4:
            return "the device computed 1 + 1 wrongly"
    except Exception as error:
        return (
            f"a first addition on the device failed ({error}). A missing compiler library is "
            "mended by the wheel's extra: pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]'"
        )
    register("cuda", cupy, cupy.ndarray)
    return None


def erf(array):
    """The error function, elementwise: SciPy's on the CPU, CuPy's own on the GPU."""
    device = device_of(array)
    if device == "cpu":
        from scipy.special import erf as function
    elif device == "cuda":
        from cupyx.scipy.special import erf as function
    else:
        function = _module_of_device[device].erf
    return function(array)
