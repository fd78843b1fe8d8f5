"""On a real GPU: every rung, every op, a training run and the demo give the CPU's numbers; the kernels
under compute-sanitizer; the benchmark.

`make test-gpu` runs these; elsewhere they are skipped, which is not a pass. Where there is a GPU,
`check_rungs` runs every rung there as well, on all shapes of the tests of each op.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import two_devices
from hypothesis import given, settings, strategies as st
from two_devices import compare_demos

import kernels
import minideep
import kernels.cuda
from kernels import backend, conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.bench import cases
from minideep import layers, models

try:
    backend.require_cuda()
    MISSING = None
except RuntimeError as error:
    MISSING = str(error)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

TESTS = pathlib.Path(__file__).parent
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", two_devices.cases.CASES)
@settings(max_examples=10)
@given(data=st.data())
def test_every_op_equals_the_cpu(name, dtype, data):
    """Values, first and second derivatives; test_strict_device.py sees that no op is left out."""
    two_devices.compare_case(name, data.draw, "cuda", dtype)


def test_a_training_run_equals_the_cpu():
    x, y = random(32, 12, 12, 3), (random(32, 1) > 0).astype("float32")
    losses = []
    for device in ("cpu", "cuda"):
        minideep.seed(0)
        with minideep.device(device):
            model = models.Sequential([
                layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(2),
                layers.BatchNormalization(), layers.Flatten(), layers.Dense(1, activation="sigmoid")])
            model.compile(optimizer="adam", loss="binary_crossentropy")
            losses.append(model.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize("name", kernels.ladders())
def test_every_rung_equals_the_formula(name):
    for check in cases.check([name], "cuda"):
        assert check["verdict"] != "WRONG", check
        if check["rung"].startswith("cuda") and check["rung"] != "cuda_tf32":  # that only if asked
            assert check["verdict"] == "ok", check


# Several tiles, edges inside of tiles, both alignments, a sum that is split over blocks.
CONVOLUTIONS = {
    "aligned": ((4, 56, 56, 32), (3, 3, 32, 64), 1, "same", 1, 1),
    "not aligned": ((2, 61, 47, 3), (5, 3, 3, 33), (2, 1), ((2, 1), (0, 3)), (1, 2), 1),
    "groups": ((2, 30, 30, 48), (3, 3, 16, 60), 1, 1, 1, 3),
}


def convolutions(x_shape, w_shape, *geometry):
    """(op, normal arguments) of the three contractions, on the CPU."""
    x, w = random(*x_shape), random(*w_shape)
    g = random(*conv2d(x, w, *geometry).shape)
    for op, args in [(conv2d, (x, w)), (conv2d_input_grad, (g, w, x.shape)),
                     (conv2d_weight_grad, (g, x, w.shape))]:
        yield op, op.contract(*args, *geometry)


@pytest.mark.parametrize("narrow", [kernels.cuda.NARROW, 0], ids=["int", "long long"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_large_convolutions(name, narrow, monkeypatch):
    """Also with 64-bit indices, in a stream of its own, and twice: the same to the bit."""
    monkeypatch.setattr(kernels.cuda, "NARROW", narrow)
    cupy = backend.require_cuda()
    for op, arguments in convolutions(*CONVOLUTIONS[name]):
        want = op.rungs["im2col"](*(a.astype(float) if backend.is_array(a) else a
                                    for a in arguments))
        there = cases.on_device(arguments, "cuda", True)
        for rung in (rung for rung in op.rungs.values() if rung.device == "cuda"):
            if rung.refusal("cuda", there) is not None:
                continue
            with cupy.cuda.Stream(non_blocking=True) as stream:
                first, again = rung(*there), rung(*there)
                stream.synchronize()
            message = f"{op.name}, {rung.name}"
            np.testing.assert_allclose(backend.to_numpy(first), want, rtol=0, err_msg=message,
                                       atol=1e-5 * np.abs(want).max())
            np.testing.assert_array_equal(backend.to_numpy(again), backend.to_numpy(first))


# As kernels/bench/cases.py makes them: sizes that take every path of the CUDA C kernels.
ROWS = [(5000, 10), (700, 1000), (60, 3000), (5, 50257)]
NORMALIZED = [(3000, 1, 512, 1), (3, 1, 20000, 2), (1, 25088, 64, 64), (8, 3136, 64, 8), (2, 777, 3, 3)]
CELLS = [(32, 8, 128), (300, 4, 257), (64, 3, 512)]  # one launch; one a step; products by cuBLAS
PATHS = {
    **{kind + grad: ROWS for grad in ("", "_grad")
       for kind in ("softmax", "log_softmax", "softmax_crossentropy", "sigmoid_crossentropy")},
    **dict.fromkeys(["moments", "normalize", "normalize_grad"], NORMALIZED),
    **{op: [(2, 111, 112, 32), (2, 37, 38, 3)] for op in
       ("max_pool2d", "max_pool2d_grad", "max_pool2d_pick", "avg_pool2d", "avg_pool2d_grad")},
    **dict.fromkeys(["crop", "crop_image_grad"], [(300, 400, 500)]),
    **{kind + grad: CELLS for grad in ("", "_grad") for kind in ("rnn", "gru", "lstm")},
}


@pytest.mark.parametrize("name, size", [(name, size) for name in PATHS for size in PATHS[name]])
def test_every_path_of_the_kernels(name, size):
    """Equal to NumPy in float64, and twice the same to the bit."""
    op = kernels.ladders()[name]
    arguments = op.contract(*cases.make(name, *size))
    there = cases.on_device(arguments, "cuda", True)
    runs = [op.rungs["cuda_raw"](*there) for _ in range(2)]
    first, again = (run if isinstance(run, tuple) else (run,) for run in runs)
    want = op.rungs["array"](*arguments)
    assert cases.largest_error(first, want if isinstance(want, tuple) else (want,)) < cases.TOLERANCE
    for one, other in zip(first, again):
        np.testing.assert_array_equal(backend.to_numpy(other), backend.to_numpy(one))


@pytest.mark.parametrize("channels", [3, 32])
def test_windows_that_overlap(channels):
    x, g = random(2, 55, 56, channels), random(2, 28, 28, channels)
    _, winners = kernels.max_pool2d(x, 3, 2, 1, keep=True)
    for op, args in [(kernels.max_pool2d, (x,)), (kernels.max_pool2d_grad, (g, winners, x.shape)),
                     (kernels.max_pool2d_pick, (x, winners)),
                     (kernels.avg_pool2d, (x,)), (kernels.avg_pool2d_grad, (g, x.shape))]:
        normal = op.contract(*args, 3, 2, 1)
        got = op.rungs["cuda_raw"](*cases.on_device(normal, "cuda", True))
        assert cases.largest_error(got, op.rungs["array"](*normal)) < cases.TOLERANCE
    _, found = kernels.max_pool2d.rungs["cuda_raw"](
        *cases.on_device(kernels.max_pool2d.contract(x, 3, 2, 1, True), "cuda", True))
    np.testing.assert_array_equal(backend.to_numpy(found), winners)


def test_tensor_cores():
    """TF32 keeps 10 bits: an error of 2^-11 in each factor, less in their sum."""
    for op, arguments in convolutions(*CONVOLUTIONS["aligned"]):
        want = op.rungs["im2col"](*arguments)
        with kernels.use(**{op.name: "cuda_tf32"}):
            got = backend.to_numpy(op(*cases.on_device(arguments, "cuda", True)))
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * np.abs(want).max())
    a, b = random(300, 128), random(128, 72)
    with kernels.use(matmul="cuda_tf32"):
        got = backend.to_numpy(kernels.matmul(*cases.on_device((a, b), "cuda", True)))
    np.testing.assert_allclose(got, a @ b, rtol=0, atol=2e-3 * np.abs(a @ b).max())


def test_an_array_of_more_than_4_gigabytes():
    """Indices above 2^31 are reached, not only compiled: the last image is as if it were alone."""
    cupy = backend.require_cuda()
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 24 * 2**30:
        pytest.skip(f"needs 24 GiB of GPU memory, {free / 2**30:.0f} are free")
    x = cupy.zeros((2**31 // (1024 * 1024 * 8) + 1, 1024, 1024, 8), "float32")
    x[-1] = cupy.asarray(random(1024, 1024, 8))
    w = cupy.asarray(random(3, 3, 8, 4))
    for op, args in [(conv2d, (w, 2)), (kernels.max_pool2d, (2,)), (kernels.avg_pool2d, (2,))]:
        rung = op.rungs["cuda_raw"]
        y, alone = (rung(*op.contract(image, *args)) for image in (x, x[-1:]))
        assert bool((y[-1:] == alone).all()) and not bool(y[0].any())
        del y


SANITIZER = shutil.which("compute-sanitizer")
CHECK_ALL = """
from kernels import backend, ladders
from kernels.bench import cases
backend.require_cuda().cuda.set_allocator(None)  # every array an allocation of its own
for check in cases.check(ladders(), "cuda"):
    assert check["verdict"] != "WRONG", check
"""
PROGRAMS = {"rungs": ["-c", CHECK_ALL], "kernels": [str(TESTS / "every_kernel.py")]}


@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed: it comes with "
                    "the CUDA toolkit (Debian, Ubuntu: cuda-sanitizer-12-9 of NVIDIA's repository)")
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer(tool, program):
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", sys.executable, *PROGRAMS[program]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]


@pytest.mark.parametrize("op", ["adam", "conv2d"])
def test_the_benchmark(op, tmp_path):
    command = [sys.executable, "-m", "kernels", "bench", op, "--device", "cuda", "--seconds", "0.01",
               "--json", str(tmp_path / "a.json")]
    result = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert all(speed > 0 for speed in found["ceilings"]["1"].values())
    names = {row["name"] for row in found["rows"] if row["op"] == op}
    assert names >= ({"array", "cuda_raw"} if op == "adam" else {"im2col", "cuda_raw", "cuda_tf32"})
    assert all(0 < row["milliseconds"] < 10_000 for row in found["rows"])
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        assert any(name.startswith("torch") for name in names)


def test_the_demo(tmp_path):
    """The word is said by the environment, as `make test-gpu` does, and then as an option."""
    demo(tmp_path / "cuda", MINIDEEP_DEVICE="cuda")
    demo(tmp_path / "cpu", "--device", "cpu")
    compare_demos(tmp_path / "cuda", tmp_path / "cpu")
    assert {json.loads((tmp_path / d / "cup.json").read_text())["device"] for d in ("cuda", "cpu")} == {
        "cuda", "cpu"}


def demo(folder, *options, **environment):
    command = [sys.executable, "-m", "tracker", "demo", "--output", str(folder), *options]
    result = subprocess.run(command, cwd=TESTS.parent, env={**os.environ, **environment},
                            capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr


