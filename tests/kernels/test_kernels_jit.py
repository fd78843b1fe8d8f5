"""Compilation at the first call: what it says, and that everything works where it cannot be had."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from kernels import jit
from kernels.jit import plain, usable

ROOT = pathlib.Path(__file__).parent.parent.parent
needs_numba = pytest.mark.skipif(jit.problem() is not None, reason=str(jit.problem()))

USE_ALL = """
import numpy as np, kernels
from kernels import adam, conv2d, explain, lstm, matmul, max_pool2d
x = np.arange(2 * 8 * 8 * 3, dtype="float32").reshape(2, 8, 8, 3)
w = np.ones((3, 3, 1, 3), "float32")
print(max_pool2d(x, 2).sum(), conv2d(x, w, groups=3).sum())
print(lstm(x[0, :, :, :2] @ np.ones((2, 8), "float32"), *np.ones((2, 8, 2), "float32"),
           np.ones((2, 8), "float32")).shape)
adam(x, x.copy(), x.copy(), x * x, 0.1, 1)
matmul(*np.ones((2, 128, 128), "float32"))
"""


def run(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result


def test_importing_loads_no_numba():
    run("import sys, kernels, minideep; assert 'numba' not in sys.modules and 'llvmlite' not in "
        "sys.modules")


def test_everything_works_without_numba():
    result = run(
        "import sys; sys.modules['numba'] = None" + USE_ALL
        + "print(explain('max_pool2d', x, 2)); print(explain('conv2d', x, w, groups=3))"
    )
    assert "pip install numba" in result.stdout
    assert "> array" in result.stdout and "> shifts" in result.stdout


@needs_numba
def test_a_cpu_without_avx2_warns_once():
    result = run(
        "import llvmlite.binding as b; b.get_host_cpu_features = lambda: {'avx2': False}" + USE_ALL
        + "print(explain('max_pool2d', x, 2).refused['compiled'])"
    )
    assert "this CPU has no AVX2" in result.stdout
    assert result.stderr.count("RuntimeWarning: this CPU has no AVX2") == 1


READ_ONLY = """
import numba.core.caching
def refuse(self): raise OSError("read-only")
numba.core.caching._CacheLocator.ensure_cache_path = refuse
"""


@needs_numba
def test_a_folder_that_cannot_be_written_warns_once():
    result = run(
        READ_ONLY + "from numba.core import event\n"
        "heard = event.RecordingListener(); event.register('numba:compile', heard)\n" + USE_ALL
        + "print(explain('conv2d', x, w, groups=3))\n"
        "print(explain('max_pool2d', x, 2).refused['compiled'], len(heard.buffer), sep='\\n')\n"
    )
    *table, refused, compilations = result.stdout.splitlines()
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in refused and compilations == "0"
    assert any("> shifts" in line for line in table)
    assert f"    depthwise   not used: {refused}" in table
    assert result.stderr.count("RuntimeWarning") == 1
    assert f"RuntimeWarning: {refused}: kernels run on slower rungs" in result.stderr


@needs_numba
def test_a_rung_that_is_called_by_its_name_runs_without_a_folder():
    code = "from kernels import ladders; import numpy as np; f = ladders()['adam'].rungs['compiled']\n"
    result = run(READ_ONLY + code + "print(f(*np.ones((4, 9)), .1, .9, .999, 1e-7)[0].shape)")
    assert result.stdout == "(9,)\n" and result.stderr.count("RuntimeWarning") == 1


@needs_numba
def test_long_compilations_are_told(tmp_path):
    code = (
        "from kernels import adam, jit; jit._PATIENCE = 0.01\n"
        "import numpy as np; adam(*np.ones((4, 20000)), 0.1, 1)\n"
    )
    first, again = (run(code, NUMBA_CACHE_DIR=str(tmp_path)).stderr for _ in range(2))
    told = "compiling kernels.optimizer.compiled._adam_block for this machine (kept for the next run) ..."
    assert told in first and "RuntimeWarning" not in first + again and "compiling" not in again


@needs_numba
def test_the_compiler_may_be_the_first_that_is_asked_for():
    """Nothing asked whether Numba works before: the listener must not miss a compilation's begin."""
    result = run(
        "from kernels.jit import jit\n"
        "from kernels.microkernel import lanes\n"
        "@jit()\n"
        "def f(): return lanes()\n"
        "print(f())"
    )
    assert result.stdout.strip() == str(jit.lanes())


def test_a_switched_off_compiler_is_a_reason():
    result = run(USE_ALL + "print(explain('max_pool2d', x, 2))", NUMBA_DISABLE_JIT="1")
    assert "> array" in result.stdout


@needs_numba
def test_usable_says_why_not():
    floats, doubles = np.ones(2, np.float32), np.ones(2)
    assert usable(floats) is True and usable(doubles, doubles) is True
    assert usable(floats, doubles) == "one dtype only, not float32 and float64"
    assert usable(np.ones(2, np.float16)) == "float32 and float64 only, not float16"
    assert usable(np.ones(2, ">f4")) == "float32 and float64 only, not >f4"


def test_plain_copies_only_what_it_must():
    array = np.arange(6.0).reshape(2, 3)
    assert plain(array) is array
    frozen = array.view()
    frozen.flags.writeable = False
    alias = plain(frozen)
    assert alias.flags.writeable and np.shares_memory(alias, array)
    np.testing.assert_array_equal(alias, array)
    for scattered in (array.T, array[:, ::2], np.broadcast_to(array[0], (4, 3))):
        copy = plain(scattered)
        assert copy.flags.c_contiguous and copy.flags.writeable
        assert not np.shares_memory(copy, array)
        np.testing.assert_array_equal(copy, scattered)
    odd = np.frombuffer(b"\0" + array.tobytes(), offset=1).reshape(2, 3)
    assert plain(odd).flags.aligned
    np.testing.assert_array_equal(plain(odd), array)
    assert plain(np.ones((0, 3))).shape == (0, 3)


@needs_numba
def test_what_a_function_calls_belongs_to_its_stamp():
    from kernels.rnn import compiled  # noqa: F401
    import importlib

    forward = importlib.import_module("kernels.rnn.compiled")._forward
    forward.resolve()
    names = {pathlib.Path(file).name for file in forward.files}
    assert names == {"compiled.py", "cells.py", "simd.py", "microkernel.py"}


@needs_numba
def test_idle_threads_of_openmp_sleep_soon_unless_the_user_says_otherwise():
    if jit.most_threads() < 2:
        pytest.skip("one thread only (NUMBA_NUM_THREADS, or one core): none is started")
    code = (
        "import os; from kernels import jit; before = dict(os.environ); jit.threads()\n"
        "assert dict(os.environ) == before\n"
        "import numba; print(numba.threading_layer())"
    )
    told = run(code, OMP_DISPLAY_ENV="verbose")
    if told.stdout.strip() != "omp" or "GOMP_SPINCOUNT" not in told.stderr:
        pytest.skip(f"Numba's threads are not GNU OpenMP's here, but {told.stdout.strip()}")
    assert f"GOMP_SPINCOUNT = '{jit._SPINS}'" in told.stderr
    asked = run(code, OMP_DISPLAY_ENV="verbose", GOMP_SPINCOUNT="77")
    assert "GOMP_SPINCOUNT = '77'" in asked.stderr
