"""Holds every rung of a ladder to the formula rung, on every kind of array it may meet."""

import sys
import tracemalloc

import numpy as np
import strict_array

from kernels import backend, memory, microkernel
from kernels.cuda import on_cpu
from kernels.ladder import use

strict_array.install()
CUDA_ON_CPU = sys.modules["kernels.cuda.on_cpu"].problem() is None


def check_rungs(op, *args, tolerance32=1e-5, **kwargs):
    """Compare all eligible rungs of `op` with its formula. Returns the formula's result.

    Each rung gets the arguments as float64 arrays, as strict arrays that are not NumPy's, as arrays
    that are not contiguous, and as float32; all of them read-only. The float32 result may differ by
    `tolerance32`, relative to the largest number in the result (and in the arguments: a result may
    be small because large terms cancel). Rungs in CUDA C run on the CPU, in float32. Where there
    is a GPU, all rungs for it run there as well.
    """
    normal = op.contract(*args, **kwargs)
    expected = op.rungs["formula"](*map(_frozen, normal))
    for name, rung in op.rungs.items():
        if name == "formula":
            continue
        if rung.device != "cpu" and backend.cuda_is_available():
            _check_gpu(op, rung, normal, expected, tolerance32)
        if name == "cuda_numba":  # runs in a simulator, in a process of its own
            continue
        if rung.device == "cuda":
            check_cuda(op, rung, normal, expected, tolerance32)
            continue
        kinds = {"plain": _frozen, "scattered": _scattered, "float32": _float32}
        kinds["strict"] = strict_array.to_strict
        for kind, convert in kinds.items():
            device = "strict" if kind == "strict" else "cpu"
            if rung.refusal(device, [convert(value) for value in normal]) is not None:
                continue
            result = rung(*map(convert, normal))
            message = f"{op.name}, rung {name}, {kind} arrays"
            for got, want in zip(_tuple(result), _tuple(expected), strict=True):
                if kind == "strict":
                    assert type(got) is strict_array.StrictArray, message
                    got = strict_array.to_numpy(got)
                assert got.shape == want.shape, message
                single = kind == "float32" and want.dtype.kind == "f"
                assert got.dtype == (np.float32 if single else want.dtype), message
                if kind == "float32":
                    atol = tolerance32 * _largest(want, *normal)
                    np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)
                else:
                    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10, err_msg=message)
    return expected


def check_cuda(op, rung, normal, expected, tolerance32, asked=None):
    """Run the rung's kernels on the CPU under two schedules: equal to each other to the bit (else
    threads race), and to the formula. In the second, arguments are not contiguous.

    asked: what `kernels.use` has to say for the rung to run at all."""
    arguments = [_float32(value) for value in normal]
    with use(**asked or {}):
        refusal = rung.refusal("cuda", arguments)
    assert asked is None or refusal is None, refusal
    if not CUDA_ON_CPU or refusal is not None:
        return
    with on_cpu("forward"):
        results = _tuple(rung(*arguments))
    with on_cpu("backward"):
        again = _tuple(rung(*map(_scattered, arguments)))
    message = f"{op.name}, rung {rung.name}, run on the CPU"
    for got, second, want in zip(results, again, _tuple(expected), strict=True):
        dtype = np.float32 if want.dtype.kind == "f" else want.dtype
        assert got.shape == want.shape and got.dtype == dtype, message
        atol = tolerance32 * _largest(want, *normal)
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)
        race = f"{message}: the result depends on the order of the threads"
        np.testing.assert_array_equal(second, got, err_msg=race)


def _check_gpu(op, rung, normal, expected, tolerance32):
    arguments = [_float32(value) for value in normal]
    arguments = [backend.to_device(a, "cuda") if backend.is_array(a) else a for a in arguments]
    if rung.refusal("cuda", arguments) is not None:
        return
    message = f"{op.name}, rung {rung.name}, on the GPU"
    for got, want in zip(_tuple(rung(*arguments)), _tuple(expected), strict=True):
        assert backend.device_of(got) == "cuda" and got.shape == want.shape, message
        atol = tolerance32 * _largest(want, *normal)
        np.testing.assert_allclose(backend.to_numpy(got), want, rtol=0, atol=atol, err_msg=message)


def peak_of(run, *args):
    """(what run(*args) returns, the most bytes that the call holds at once, its result among them).

    No memory is there that an earlier call has left to it; what is compiled, and tables that are
    remembered, are."""
    run(*args)
    vars(microkernel._workspaces).clear()
    memory.release()
    tracemalloc.start()
    try:
        result = run(*args)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_adjoint(forward, backward, x, y):
    """<forward(x), y> = <x, backward(y)>."""
    left, right = (forward(x) * y).sum(), (x * backward(y)).sum()
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


def numeric_gradient(f, x, g, step=1e-6):
    """Σ g·f(x) differentiated by every number in x, by central differences in float64."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        moved = x.copy()
        moved[at] = x[at] + step
        up = (g * f(moved)).sum()
        moved[at] = x[at] - step
        gradient[at] = (up - (g * f(moved)).sum()) / (2 * step)
    return gradient


def _frozen(value):
    """The same array, in a view that cannot be written."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _scattered(value):
    """The same numbers, not contiguous in memory."""
    if not isinstance(value, np.ndarray):
        return value
    wide = np.full(tuple(2 * n + 1 for n in value.shape), 99, value.dtype)
    view = wide[(..., *(slice(1, None, 2) for _ in value.shape))]
    view[...] = value
    return _frozen(view)


def _float32(value):
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        value = value.astype(np.float32)
    return _frozen(value)


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _largest(want, *args):
    arrays = [a for a in (want, *args) if isinstance(a, np.ndarray) and a.size]
    finite = [np.abs(a[np.isfinite(a)]) for a in arrays if a.dtype.kind == "f"]
    return max([1.0, *(float(a.max()) for a in finite if a.size)])
