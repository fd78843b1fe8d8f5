"""kernels.memory: memory is used again, never by two arrays at once, and none is hoarded."""

import gc
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import kernels
from kernels import memory
from kernels.jit import problem

MB = 2**20
FOLDER = os.path.dirname(kernels.__file__)


@pytest.fixture(autouse=True)
def nothing_free():
    memory.release()
    yield
    memory.release()


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 7, 11), (2 * MB,), (16, 128, 513)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_an_array_like_any_other(shape, dtype):
    a = memory.empty(shape, dtype)
    assert a.shape == shape and a.dtype == dtype and type(a) is np.ndarray
    assert a.flags.c_contiguous and a.flags.writeable and a.ctypes.data % memory.LINE == 0
    a[...] = 1
    assert a.sum() == a.size


def test_memory_comes_again():
    a = memory.empty((MB,))
    address = a.ctypes.data
    del a
    assert memory.empty((MB,)).ctypes.data == address


@pytest.mark.parametrize("view", [lambda a: a[5:7], lambda a: a.reshape(2, -1).T[3:], memoryview,
                                  lambda a: a.view("uint8"), np.broadcast_to, iter])
def test_a_view_keeps_its_memory(view):
    a = memory.empty((MB,))
    address = a.ctypes.data
    kept = view(a, (2, MB)) if view is np.broadcast_to else view(a)
    del a
    other = memory.empty((MB,))
    assert other.ctypes.data != address
    del kept
    assert memory.empty((MB,)).ctypes.data == address


def test_no_two_arrays_share_memory_in_many_threads():
    wrong = []

    def work(number):
        rng = np.random.default_rng(number)
        mine = []
        for step in range(60):
            if mine and rng.random() < 0.5:
                array, value = mine.pop(int(rng.integers(len(mine))))
                if not (array == value).all():
                    wrong.append(number)
            else:
                mine.append((memory.empty((int(rng.integers(1, 4)) * MB // 4,)), 100 * number + step))
                mine[-1][0].fill(mine[-1][1])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_never_more_than_half_as_much_again_as_was_in_use_at_once(monkeypatch):
    monkeypatch.setattr(memory, "SLACK", 0)
    memory.release()
    start = memory._bytes["in use"]
    memory._bytes["most in use"] = start
    for megabytes in (8, 4, 12, 2, 16, 1, 3):  # one at a time: none fits the one before
        a = memory.empty((megabytes * MB,), "uint8")
        del a
        most = memory._bytes["most in use"]
        assert most - start <= 16 * MB
        assert memory._bytes["in use"] + memory._bytes["free"] <= 3 * most // 2


def test_the_longest_unused_is_given_up_first(monkeypatch):
    monkeypatch.setattr(memory, "SLACK", 0)
    monkeypatch.setattr(memory, "_bytes", {"in use": 0, "free": 0, "most in use": 0})
    arrays = [memory.empty((size * MB,), "uint8") for size in (8, 4, 4)]
    addresses = [a.ctypes.data for a in arrays]
    for i in (1, 0, 2):  # the first of 4 MB, then that of 8, then the second of 4
        arrays[i] = None
    large = memory.empty((14 * MB,), "uint8")   # 24 are the most, 16 are free
    assert memory._bytes["free"] == 4 * MB
    again = memory.empty((4 * MB,), "uint8")
    assert again.ctypes.data == addresses[2] and large.size == 14 * MB


def test_many_sizes_leave_nothing_behind():
    rng = np.random.default_rng(0)
    for size in rng.integers(memory.SMALL, 40 * memory.SMALL, 3000):
        memory.empty((int(size),), "uint8")
    memory.release()
    assert not memory._free and not memory._by_size and memory._bytes["free"] == 0
    one = memory.empty((MB,))
    assert not memory._by_size
    del one


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of signals here")
def test_a_signal_may_want_memory_meanwhile():
    handled, going = [], [True]

    def tick(*_):
        handled.append(memory.empty((5000,)).size)
        if going:  # a last signal, handled late, would set it for whoever comes next
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)

    before = signal.signal(signal.SIGVTALRM, tick)  # pytest-timeout has SIGALRM
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)
        for size in np.random.default_rng(0).integers(1024, 1200, 30_000):
            memory.empty((int(size),))
    finally:
        going.clear()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert len(handled) > 3


def rungs_with_workspaces():
    """(op, rung) of all whose module takes `kernels.microkernel.workspace`."""
    return [(op, name) for op in kernels.ladders().values() for name, rung in op.rungs.items()
            if hasattr(sys.modules[rung.function.__module__], "workspace")]


@pytest.mark.skipif(problem() is not None, reason=str(problem()))
@pytest.mark.parametrize("op, name", [*rungs_with_workspaces(), (kernels.matmul, "few_rows")])
def test_a_signal_may_compute_the_same_meanwhile(op, name):
    """Between any two bytecodes, where Python runs the handlers of signals: these compute with other
    numbers, in the same workspaces. (`memory` itself, which would never come to an end: see above.)"""
    random = np.random.default_rng(0).standard_normal
    x, w, g, a, b = (random(shape, np.float32) for shape in (
        (1, 24, 24, 20), (3, 3, 20, 35), (1, 24, 24, 35), (33, 100), (60, 100)))
    args = op.contract(*{"conv2d": (x, w, 1, 1), "conv2d_input_grad": (g, w, x.shape, 1, 1),
                         "conv2d_weight_grad": (g, x, w.shape, 1, 1), "matmul": (a, b.T)}[op.name])
    other = [3 * arg if isinstance(arg, np.ndarray) else arg for arg in args]
    want, handled, before = op.rungs[name](*args), [], sys.gettrace()

    def handle(frame, event, _):
        file = frame.f_code.co_filename
        if not file.startswith(FOLDER) or file == memory.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            handled.append(op.rungs[name](*other).shape)
        return handle

    sys.settrace(handle)
    try:
        got = op.rungs[name](*args)
    finally:
        sys.settrace(before)
    np.testing.assert_array_equal(got, want)
    assert len(handled) > 100


FORKS = """
import os, signal, threading
from kernels import memory

def work():
    while True:
        memory.empty((5000,))

threading.Thread(target=work, daemon=True).start()
for _ in range(60):
    child = os.fork()
    if child == 0:
        memory.empty((500_000,))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("ok", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_busy_process():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True,
                         timeout=60)
    assert run.stdout == "ok\n", run.stderr


def test_what_is_derived_from_a_lease_is_none(capfd):
    a = memory.empty((MB,))
    some = a.base[2:] + 1, a.base.copy()
    with pytest.raises(ValueError):
        memory.empty((2**14,) + (1,) * 70)
    in_use = memory._bytes["in use"]
    memory.release()
    del some
    gc.collect()
    assert memory._bytes["in use"] < in_use and not capfd.readouterr().err


def test_memory_that_there_is_not_is_not_counted():
    before = dict(memory._bytes)
    with pytest.raises(MemoryError):
        memory.empty((2**50,), "uint8")
    assert memory._bytes["in use"] == before["in use"]
    assert memory._bytes["most in use"] == before["most in use"]
