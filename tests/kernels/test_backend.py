"""Where arrays live, and what is said where there is no GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
import strict_array
from strict_array import strict, to_strict

from kernels import backend

strict_array.install()


@pytest.fixture
def no_cupy(monkeypatch):
    """A machine without CuPy, whatever this one has."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    backend._cuda_problem.cache_clear()
    yield
    backend._cuda_problem.cache_clear()


def test_the_module_of_arrays():
    x = np.ones(2)
    assert backend.array_module(x) is np
    assert backend.array_module(x, 2.0, np.float32(1)) is np
    assert backend.array_module(2.0) is np
    assert backend.array_module(to_strict(x), 1) is strict
    assert backend.array_module(np.ones(2).view(np.recarray)) is np


def test_arrays_of_two_devices_do_not_mix():
    with pytest.raises(TypeError, match=r"\(strict, cpu\).*\.to\('strict'\)"):
        backend.array_module(to_strict(np.ones(2)), np.ones(2))


@pytest.mark.parametrize("value", [[1.0], "text", None, object()])
def test_what_is_no_array(value):
    assert not backend.is_array(value)
    with pytest.raises(TypeError, match="numpy.asarray"):
        backend.array_module(value, np.ones(2))
    with pytest.raises(TypeError, match="numpy.asarray"):
        backend.device_of(value)


def test_moving():
    x = np.arange(3.0)
    assert backend.to_device(x, "cpu") is x and backend.to_numpy(x) is x
    there = backend.to_device(x, "strict")
    assert backend.device_of(there) == "strict" and backend.to_device(there, "strict") is there
    back = backend.to_device(there, "cpu")
    assert type(back) is np.ndarray and back.tolist() == [0, 1, 2]
    assert backend.device_of(3.0) == "cpu"
    assert backend.module_of("cpu") is np and backend.module_of("strict") is strict


def test_an_unknown_device_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown device 'tpu'; the devices are 'cpu', 'cuda'"):
        backend.to_device(np.ones(2), "tpu")


def test_without_cupy_the_error_names_the_command(no_cupy):
    assert not backend.cuda_is_available()
    for ask in (backend.require_cuda, lambda: backend.to_device(np.ones(2), "cuda")):
        with pytest.raises(RuntimeError, match="pip install cupy-cuda12x.*cupy-cuda13x"):
            ask()


class _Cupy:
    """What CuPy shows to the check, with one thing broken."""

    def __init__(self, devices, error=None):
        self.cuda = self
        self.runtime = self
        self.devices = devices
        self.error = error

    def getDeviceCount(self):  # noqa: N802 - CuPy's name
        if isinstance(self.devices, Exception):
            raise self.devices
        return self.devices

    def ones(self, *args, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    "cupy, message",
    [
        (_Cupy(RuntimeError("cudaErrorXyz")), "driver does not answer.*cudaErrorXyz"),
        (_Cupy(0), "sees no device.*CUDA_VISIBLE_DEVICES"),
        (_Cupy(1, RuntimeError("no nvrtc")), r"first addition.*no nvrtc.*\[ctk\]"),
    ],
)
def test_cupy_that_does_not_work_is_not_available(no_cupy, monkeypatch, cupy, message):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert not backend.cuda_is_available()
    with pytest.raises(RuntimeError, match=message):
        backend.require_cuda()


def test_importing_kernels_needs_neither_cupy_nor_anything_slow():
    code = "import sys, kernels; print(sorted({m.split('.')[0] for m in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    for name in ("cupy", "torch", "scipy", "cv2", "minideep", "tracker"):
        assert f"'{name}'" not in result.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not backend.cuda_is_available(), reason=str(backend._cuda_problem()))
def test_on_a_gpu():
    x = backend.to_device(np.arange(3.0), "cuda")
    assert backend.device_of(x) == "cuda"
    assert backend.to_numpy(x * 2).tolist() == [0, 2, 4]


class TestStrictArray:
    """The stand-in must refuse what CuPy refuses, or it proves nothing."""

    x = to_strict(np.arange(6.0).reshape(2, 3))

    @pytest.mark.parametrize(
        "stray",
        [
            lambda x: np.asarray(x),
            lambda x: np.sum(x),
            lambda x: np.exp(x),
            lambda x: np.add(x, x),
            lambda x: np.concatenate([x, x]),
            lambda x: x + np.ones(3),
            lambda x: np.ones(3) * x,
            lambda x: strict.exp(np.ones(3)),
            lambda x: strict.where(x > 0, x, np.ones(3)),
            lambda x: x.__setitem__(0, np.ones(3)),
            lambda x: x[np.array([0, 1])],
            lambda x: memoryview(x),
            lambda x: np.zeros(6).reshape(2, 3).__iadd__(x),
        ],
    )
    def test_refuses(self, stray):
        with pytest.raises(TypeError):
            stray(self.x)

    def test_computes(self):
        x = self.x
        cases = [
            (x + 1, [[1, 2, 3], [4, 5, 6]]),
            (np.float64(2) * x, [[0, 2, 4], [6, 8, 10]]),
            (1 - x[0], [1, 0, -1]),
            (x[:, 1], [1, 4]),
            (x[strict.asarray([1])], [[3, 4, 5]]),
            (strict.stack([x[0], x[1]]).sum(axis=1), [3, 12]),
            (x @ x.T, [[5, 14], [14, 50]]),
            (strict.fft.ifft(strict.fft.fft(x[0])).real, [0, 1, 2]),
            (strict.linalg.norm(x[0:1, 1:2]), 1),
        ]
        for result, expected in cases:
            assert type(result) is strict_array.StrictArray
            np.testing.assert_allclose(result._array, expected, atol=1e-12)

    def test_scalars_stay_arrays(self):
        assert type(self.x.sum()) is strict_array.StrictArray and self.x.sum().ndim == 0
        assert float(self.x.max()) == 5.0 and self.x.sum().item() == 15.0

    def test_in_place(self):
        x = to_strict(np.zeros(3))
        same = x
        x += 1
        strict.add.at(x, strict.asarray([0, 0]), 1)
        strict.multiply(x, 2, out=x)
        assert same is x and x.tolist() == [6, 2, 2]
