"""Where tensors are made, and what is said where there is no GPU."""

import os
import subprocess
import sys

import pytest

import minideep
from kernels import backend

needs_no_gpu = pytest.mark.skipif(backend.cuda_is_available(), reason="this machine has a GPU")


def python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment},
                          capture_output=True, text=True)


@needs_no_gpu
def test_asking_for_cuda_says_what_is_missing_and_what_mends_it():
    before = minideep.tensor([1.0]).device
    message = r"CUDA cannot be used here: (CuPy|the NVIDIA driver|the driver|a first addition)"
    for ask in (lambda: minideep.tensor([1.0]).to("cuda"),
                lambda: minideep.tensor([1.0], device="cuda"),
                lambda: minideep.device("cuda").__enter__()):
        with pytest.raises(RuntimeError, match=message) as caught:
            ask()
        assert "cupy-cuda12x" in str(caught.value) or "CUDA_VISIBLE_DEVICES" in str(caught.value)
    assert minideep.tensor([1.0]).device == before


@needs_no_gpu
def test_the_environment_asks_for_cuda():
    result = python("import minideep; minideep.tensor([1.0])", MINIDEEP_DEVICE="cuda")
    assert result.returncode and "DeviceError: CUDA cannot be used here" in result.stderr


def test_an_unknown_device_is_named():
    for ask in (lambda: minideep.tensor([1.0]).to("gpu"), lambda: minideep.device("gpu").__enter__()):
        with pytest.raises(ValueError, match="unknown device 'gpu'; the devices are 'cpu', 'cuda'"):
            ask()
    result = python("import minideep; minideep.tensor([1.0])", MINIDEEP_DEVICE="tpu")
    assert "unknown device 'tpu'" in result.stderr


def test_the_environment_and_the_context_choose():
    result = python("import minideep; print(minideep.tensor([1.0]).device)", MINIDEEP_DEVICE="cpu")
    assert result.stdout.strip() == "cpu", result.stderr
    with minideep.device("cpu"):
        assert minideep.tensor([1.0]).device == "cpu"


def test_to_the_device_where_it_is():
    x = minideep.tensor([1.0])
    assert x.to(x.device) is x
    x = minideep.tensor([1.0], device="cpu")
    assert x.to("cpu") is x


def test_import_brings_in_numpy_alone():
    heavy = "scipy cv2 matplotlib numba cupy safetensors rich typer torch keras".split()
    result = python(f"import sys, minideep; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
