"""What compute-sanitizer is given on a GPU (every_kernel.py), here under the header that watches every
access: it leaves no kernel out."""

import pathlib
import re
import sys

import pytest
from every_kernel import all_kernels, launch_all, launches

import kernels
from kernels.cuda import on_cpu

PROBLEM = sys.modules["kernels.cuda.on_cpu"].problem()


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_every_kernel_is_launched():
    with launches() as launched, on_cpu():
        launch_all("cpu")
    assert launched == all_kernels()


def test_all_kernels_are_known():
    """As the sources say."""
    written = [(path.name, name) for path in pathlib.Path(kernels.__file__).parent.rglob("*.cu")
               for name in re.findall(r"__global__[^;{]*?(\w+)\s*\((?=[^()]*\)\s*\{)", path.read_text())]
    assert len(written) == len(set(written)) > 50
    assert {(file, kernel) for file, _, kernel in all_kernels()} == set(written)
