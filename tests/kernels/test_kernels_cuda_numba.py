"""Numba CUDA rungs without a GPU: compiled to PTX, and run in Numba's simulator."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from simulate_cuda_numba import cases

import kernels
from kernels.cuda import numba_cuda

ROOT = pathlib.Path(__file__).parents[2]
OPS = [name for name, op in kernels.ladders().items() if "cuda_numba" in op.rungs]
FAMILIES = ["conv2d", "pool2d", "lstm"]

needs_compiler = pytest.mark.skipif(
    numba_cuda.problem() is not None, reason=str(numba_cuda.problem())
)


def simulate(folder, *ops):
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    program = [sys.executable, ROOT / "tests" / "simulate_cuda_numba.py", folder, *ops]
    return subprocess.run(program, env=environment, capture_output=True, text=True, cwd=folder)


def test_every_family_has_its_rungs():
    assert len(OPS) == 10
    assert all(any(family in op for family in FAMILIES) for op in OPS)


@needs_compiler
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # results are never written
@pytest.mark.parametrize(
    "dtype, capability",
    [
        ("float32", (7, 5)),
        ("float32", (8, 0)),
        ("float32", (9, 0)),
        pytest.param("float64", (8, 0), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", OPS)
def test_compiles_without_a_gpu(name, dtype, capability):
    op = kernels.ladders()[name]
    arguments = [
        a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype == float else a
        for a in op.contract(*next(cases(name)))
    ]
    assert op.rungs["cuda_numba"].refusal("cuda", arguments) is None
    with numba_cuda.compiled_to_ptx(capability) as texts:
        op.rungs["cuda_numba"](*arguments)
    assert texts
    for kernel, ptx in texts.items():
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        assert ".visible .entry" in ptx
        assert ".local" not in ptx, f"{kernel}: sums must live in registers"
        if dtype == "float32":
            assert not re.search(r"\.f64\b", ptx), f"{kernel} computes in float64"


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_formula_in_the_simulator(family):
    ops = [op for op in OPS if family in op]
    run = simulate(ROOT, *ops)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("equal the formula") == len(ops)


FAULTS = {
    "wrong index": ("conv2d", "conv2d", "i * sh + k * dh - top, j", "i * sh + l * dh - top, j"),
    "missing barrier": (
        "conv2d", "conv2d", "cuda.syncthreads()\n            for d", "for d"
    ),
    "out of bounds": ("pool2d", "avg_pool2d", "if item < y.size:", "if item <= y.size:"),
    "a window too few": ("pool2d", "max_pool2d_grad", "length + stride) //", "stride) //"),
    "the wrong tie": ("pool2d", "max_pool2d", "not value <= best", "not value < best"),
    "a forgotten mask": ("lstm", "lstm", "if mask[n, t]:", "if True:"),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_the_simulator_catches(fault, tmp_path):
    folder, op, right, wrong = FAULTS[fault]
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=no_caches)
    file = tmp_path / "kernels" / folder / "cuda_numba.py"
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong))
    run = simulate(tmp_path, op)
    assert run.returncode != 0
    assert "AssertionError" in run.stderr or "IndexError" in run.stderr, run.stderr[-2000:]


def test_arrays_that_it_cannot_take_are_refused_with_a_reason():
    bytes_, single, double = np.zeros(1, np.uint8), np.zeros(1, np.float32), np.zeros(1)
    assert "float32 and float64 only" in numba_cuda.usable(bytes_)
    assert "one dtype only" in numba_cuda.usable(single, double)
    conv2d, empty = kernels.ladders()["conv2d"], np.ones((1, 3, 3, 0))
    normal = conv2d.contract(empty, np.ones((2, 2, 0, 3)))
    assert "no empty arrays" in conv2d.rungs["cuda_numba"].refusal("cuda", normal)


def test_without_numba_cuda_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba.cuda", None)  # an import of it fails
    numba_cuda.problem.cache_clear()
    try:
        assert "pip install numba-cuda" in numba_cuda.usable(np.zeros(1))
    finally:
        monkeypatch.undo()
        numba_cuda.problem.cache_clear()


def test_kernels_are_imported_without_numba():
    code = "import sys, kernels, minideep; print([m for m in sys.modules if m.startswith('numba')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
