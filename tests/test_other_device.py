"""The tests that run on a GPU by `make test-gpu` ask nothing of the CPU: those of the engine pass with
tensors made on the strict device (strict_array) as well, which refuses what CuPy refuses."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
SHORT = [*(f"minideep/test_{name}.py" for name in (
    "tensor", "device", "autograd", "graph", "gradcheck", "inspect", "ops_values", "ops_adjoint",
    "losses", "optimizers", "schedules", "serialization")), "tracker/test_differentiable_filter.py"]
ELSEWHERE = [  # a process of its own, which knows no strict device
    "minideep/test_graph.py::test_a_graph_loaded_in_a_fresh_process",
    "examples/test_course.py::test_14",
]


def run(*paths):
    """pytest on these files, in a process where new tensors are made on the strict device."""
    environment = {**os.environ, "MINIDEEP_DEVICE": "strict",
                   "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, "-m", "pytest", "-p", "strict_array", "-p", "no:cacheprovider", "-q",
               *(f"--deselect=tests/{test}" for test in ELSEWHERE), *(f"tests/{path}" for path in paths)]
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


def test_the_engine_on_the_strict_device():
    run(*SHORT)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("folder", ["minideep", "tracker", "examples"])
def test_everything_on_the_strict_device(folder):
    run(folder)
