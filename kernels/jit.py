"""Python functions compiled to machine code by Numba, at their first call and not before.

    @jit(parallel=True)
    def _double(x, y):                      # arrays in, arrays written: the loops of the formula
        for i in prange(x.size):
            y[i] = 2 * x[i]

    @rung(double, device="cpu", why="one pass, on all cores")
    def compiled(x):
        y = np.empty_like(x)
        _double(plain(x), y)
        return y

    @compiled.needs
    def _(x):
        return usable(x)                    # True, or the reason why not

Numba is imported here, inside functions, and by `kernels.simd`, which only a compilation imports:
`import kernels` stays quick, and everything works without Numba, on lower rungs. Compiled code is
kept on disk (in __pycache__, or in NUMBA_CACHE_DIR); a compilation of more than a second says so on
stderr. Where no folder can be written, or the CPU has no AVX2, one warning says so and lower rungs
run; NUMBA_DISABLE_JIT=1 runs on them too. NUMBA_NUM_THREADS sets the number of threads, by default
all cores.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import pathlib
import sys
import threading
import types
import warnings

import numpy as np

prange = range  # in a compiled function: a loop whose passes are spread over the threads
_lock = threading.RLock()
_PATIENCE = 1.0  # seconds of silence
_WORTH_THREADS = 2**14  # numbers
_SPINS = "10000"  # about a tenth of a millisecond


def jit(**options):
    """Decorator: compile the function at its first call, for the types of that call.

    options: parallel (allow prange), fastmath, inline, ... as numba.njit has them. The function may
    call other functions decorated with `jit` or `intrinsic` that are globals of its module, and
    what is in `kernels.simd` (from kernels.jit import simd).
    """
    return lambda function: _Compiled(function, options)


def intrinsic(function):
    """Decorator: a function of (typing context, types...) that returns a signature and emits LLVM
    instructions, as numba.extending.intrinsic has it. For use inside functions under `jit` only;
    `numba.types` and `llvmlite.ir` must be imported inside."""
    return _Intrinsic(function)


def usable(*arrays):
    """True if compiled code can take these arrays and run here, or the reason why not."""
    for array in arrays:
        if array.dtype != np.float32 and array.dtype != np.float64:
            return f"float32 and float64 only, not {array.dtype}"
        if array.dtype != arrays[0].dtype:
            return f"one dtype only, not {arrays[0].dtype} and {array.dtype}"
    return problem() or True


def float32_only(*arrays):
    """As `usable`, for what calls functions of `kernels.simd` that are made for float32."""
    if arrays[0].dtype == np.float64:
        return "float32 only"
    return usable(*arrays)


def plain(array):
    """The numbers as a contiguous array: `array` itself where it is that already, else a copy.

    A read-only array comes back as a writable one on the same memory: its type is another to
    Numba, which would compile everything twice. Only for arrays that are read.
    """
    array = np.ascontiguousarray(array)
    if not array.flags.aligned:
        array = array.copy()
    return array if array.flags.writeable else np.asarray(_Writable(array))


def threads():
    """How many threads share the passes of a prange."""
    return 1 if most_threads() == 1 else _numba().get_num_threads()


@functools.lru_cache(maxsize=1)
def most_threads():
    """How many threads there may be in this process; `numba.set_num_threads` does not change it."""
    import numba

    return numba.config.NUMBA_NUM_THREADS


@functools.lru_cache(maxsize=1)
def _numba():
    """Numba, with its threads started.

    GNU OpenMP's threads, where Numba uses those, wait for the next loop without sleeping, for
    milliseconds. Then BLAS, or PyTorch, wants the cores for its own threads, and gets half of them:
    a step of a recurrent network took five times as long. OpenMP reads how long when it is loaded;
    what the user has set holds.
    """
    import numba

    with _lock:
        ours = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
        if ours:
            os.environ["GOMP_SPINCOUNT"] = _SPINS
        try:
            numba.get_num_threads()
        finally:
            if ours:
                os.environ.pop("GOMP_SPINCOUNT", None)
    return numba


@functools.lru_cache(maxsize=1)
def problem():
    """None if Numba works here and can keep what it compiles, or what is missing in words. Asked once
    per process."""
    try:
        import numba
        from llvmlite.binding import get_host_cpu_features
    except ImportError as error:
        if getattr(error, "name", None) == "numba":
            return "Numba is not installed: pip install numba"
        return f"Numba is installed but does not import ({error})"
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set"
    features, reason = get_host_cpu_features(), None
    if not (features.get("avx2") and features.get("fma")):
        reason = "this CPU has no AVX2"
    else:
        try:
            numba.njit(cache=True)(_announce)  # any function of ours: Numba looks for a folder
        except RuntimeError:  # its "no locator available"
            reason = (
                "compiled code cannot be kept, neither in the package's folder nor in the user's "
                "cache folder (set NUMBA_CACHE_DIR to a folder that can be written)"
            )
    if reason:
        warnings.warn(f"{reason}: kernels run on slower rungs", RuntimeWarning, stacklevel=2)
        return reason
    from numba.core import event

    event.register("numba:compile", _announcer(event))
    return None


@functools.lru_cache(maxsize=1)
def lanes():
    """How many float32 numbers a vector register holds that Numba compiles for: 16 with AVX-512,
    else 8; 8 without Numba. NUMBA_CPU_FEATURES, where the user has set it, has the last word."""
    if problem() is not None:
        return 8
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return 16 if "+avx512f" in features.split(",") else 8


class _Compiled:
    def __init__(self, function, options, suffix=""):
        self.function = function
        self.options = options
        self.suffix = suffix
        self.dispatcher = None
        self.files = {function.__code__.co_filename}  # and those of the functions that it calls
        functools.update_wrapper(self, function)

    def __call__(self, *args):
        dispatcher = self.dispatcher or self.resolve()
        if not self.options.get("parallel"):
            return dispatcher(*args)
        with _lock:  # not every threading layer of Numba can be entered from two threads at once
            return dispatcher(*args)

    @functools.cached_property
    def alone(self):
        """The same function without threads: for little work, which is done before they wake."""
        return _Compiled(self.function, {**self.options, "parallel": False}, "_alone")

    def shared(self, work):
        """The function, or `alone` where `work` (about as many numbers) is not worth threads."""
        return self if work > _WORTH_THREADS and threads() > 1 else self.alone

    def resolve(self):
        """The function as Numba has it, with the compiled functions that it calls."""
        with _lock:
            if self.dispatcher is None:
                self.dispatcher = self._make()
            return self.dispatcher

    def _make(self):
        problem()  # its listener is to hear all of a compilation, not the end alone
        numba = _numba()
        names = dict(self.function.__globals__)
        for name in self.function.__code__.co_names:
            if isinstance(names.get(name), (_Compiled, _Intrinsic, _Module)):
                later = names[name]
                names[name] = later.resolve()
                self.files |= later.files
            elif names.get(name) is prange:
                names[name] = numba.prange
        original = self.function
        function = types.FunctionType(
            original.__code__, names, original.__name__, original.__defaults__, original.__closure__
        )
        functools.update_wrapper(function, original)
        del function.__wrapped__
        function.__qualname__ += self.suffix  # of which the cache makes the name of a file
        dispatcher = numba.njit(**self.options)(function)
        try:
            dispatcher.enable_caching()
        except RuntimeError:  # no folder (see `problem`): whoever calls the rung by its name waits
            return dispatcher
        # Numba asks only whether the function's own file is as it was
        dispatcher._cache._cache_file._source_stamp = _digest(self.files)
        return dispatcher


class _Intrinsic:
    def __init__(self, function):
        self.function = function
        self.files = {function.__code__.co_filename}

    @functools.lru_cache(maxsize=None)  # noqa: B019 - intrinsics live as long as their module
    def resolve(self):
        from numba.extending import intrinsic

        return intrinsic(self.function)


class _Module:
    def __init__(self, name):
        self.name = name

    def resolve(self):
        module = importlib.import_module(self.name)
        self.files = {module.__file__}
        return module


simd = _Module("kernels.simd")  # in a compiled function: that module


class _Writable:
    """NumPy's array protocol over memory that says it is read-only. Keeps its owner alive."""

    def __init__(self, array):
        self.owner = array
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (array.ctypes.data, False),
        }


def _announcer(event):
    """A listener that tells of a compilation of this package's functions that takes long."""

    class Announcer(event.Listener):
        timers = []

        def on_start(self, event):
            function = event.data["dispatcher"].py_func
            if not function.__module__.startswith("kernels."):
                return self.timers.append(None)
            name = f"{function.__module__}.{function.__name__}"
            timer = threading.Timer(_PATIENCE, _announce, [name])
            timer.daemon = True
            timer.start()
            self.timers.append(timer)

        def on_end(self, event):
            timer = self.timers.pop()
            if timer is not None:
                timer.cancel()

    return Announcer()


def _announce(name):
    print(f"compiling {name} for this machine (kept for the next run) ...", file=sys.stderr)


def _digest(files):
    contents = b"".join(pathlib.Path(file).read_bytes() for file in sorted(files))
    return hashlib.sha256(contents).hexdigest()
