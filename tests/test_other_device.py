"""The tests that run on a GPU by `make test-gpu` ask nothing of the CPU: those of the engine pass with
tensors made on the strict device (strict_array) as well, which refuses what CuPy refuses."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import strict_array
from two_devices import compare_demos

import minideep
from tracker.demo import NAMES, demo

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
@pytest.mark.parametrize("path", ["minideep", "tracker", "examples", "kernels/test_kernels_matmul.py",
                                  "test_readme.py"])
def test_everything_on_the_strict_device(path):
    run(path)


def write_demo(folder, boxes, auc):
    folder.mkdir()
    for name in NAMES:
        np.savetxt(folder / f"{name}-boxes.txt", boxes, delimiter=",")
        (folder / f"{name}.json").write_text(json.dumps({"auc": auc}))
    return folder


def test_which_demos_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 300, (50, 2)), rng.uniform(60, 80, (50, 2))], axis=1)
    one = write_demo(tmp_path / "one", boxes, 0.72)
    leap = boxes.copy()
    leap[7, 0] += 100
    compare_demos(one, write_demo(tmp_path / "same", leap + rng.normal(0, 0.4, boxes.shape), 0.73))
    for other in [(boxes + [4, 0, 0, 0], 0.72), (boxes, 0.75), (boxes[:-1], 0.72),
                  (boxes * [1, 1, 1.2, 1.2], 0.72)]:
        with pytest.raises(AssertionError):
            compare_demos(one, write_demo(tmp_path / str(rng.integers(2**60)), *other))


@pytest.mark.slow
def test_the_demo_on_the_strict_device(tmp_path):
    strict_array.install()
    for device in ("strict", "cpu"):
        with minideep.device(device):
            demo(tmp_path / device, device=device)
    compare_demos(tmp_path / "strict", tmp_path / "cpu")
