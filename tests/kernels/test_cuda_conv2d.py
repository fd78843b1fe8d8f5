"""Convolution and pooling in CUDA C: what the small cases of the shared tests do not reach."""

import importlib
import sys

import numpy as np
import pytest
from check_rungs import check_adjoint, check_rungs

import kernels.cuda
from kernels import conv2d, conv2d_input_grad, conv2d_weight_grad, ladders
from kernels.conv2d.im2col import fold, unfold
from kernels.cuda import on_cpu

cuda_raw = importlib.import_module("kernels.conv2d.cuda_raw")
PROBLEM = sys.modules["kernels.cuda.on_cpu"].problem()
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape)


# x, w, arguments: more than one tile in every direction, edges inside of tiles, all alignments
CASES = {
    "tiles": ((2, 13, 12, 9), (3, 2, 9, 70), {"padding": "same"}),
    "aligned": ((1, 12, 14, 20), (3, 3, 20, 68), {"padding": 1}),
    "strided": ((1, 17, 16, 36), (3, 3, 36, 8), {"stride": (2, 3), "padding": ((0, 1), (2, 0))}),
    "dilated": ((1, 15, 14, 5), (2, 3, 5, 6), {"dilation": (3, 2), "stride": (1, 2)}),
    "grouped": ((1, 12, 12, 24), (3, 3, 8, 24), {"groups": 3, "padding": 1}),
    "odd groups": ((1, 12, 12, 27), (3, 3, 9, 33), {"groups": 3, "padding": 1}),
    "narrow": ((1, 12, 12, 9), (3, 2, 3, 6), {"groups": 3, "padding": 1, "stride": (2, 1)}),
    "depthwise": ((1, 9, 9, 16), (3, 3, 1, 16), {"groups": 16, "padding": 1}),
    "1x1": ((1, 12, 12, 33), (1, 1, 33, 17), {}),
}


def three(x_shape, w_shape, arguments):
    """(op, normal arguments) of the three contractions."""
    x, w = random(*x_shape), random(*w_shape)
    g = random(*conv2d(x, w, **arguments).shape)
    for op, args in [(conv2d, (x, w)), (conv2d_input_grad, (g, w, x.shape)),
                     (conv2d_weight_grad, (g, x, w.shape))]:
        yield op, op.contract(*args, **arguments)


def run(op, arguments, schedule="forward", rung="cuda_raw"):
    """(result of the rung in float32 on the CPU, what it should be)."""
    single = [a.astype(np.float32) if isinstance(a, np.ndarray) else a for a in arguments]
    assert op.rungs[rung].refusal("cuda", single) is None
    with on_cpu(schedule):
        return op.rungs[rung](*single), op.rungs["im2col"](*arguments)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("parts", [1, 3])
def test_several_tiles(name, parts, monkeypatch):
    """parts: the weight gradient's sum is split over that many blocks."""
    monkeypatch.setattr(cuda_raw, "_split", lambda pixels, *_: split(pixels, parts))
    for op, arguments in three(*CASES[name]):
        got, want = run(op, arguments)
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-5 * np.abs(want).max(),
                                   err_msg=op.name)
        if parts > 1:
            again, _ = run(op, arguments, "shuffled")
            np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("name", ["aligned", "strided", "grouped"])
def test_tensor_cores(name):
    """By shuffles here, so without their rounding: who holds which number is what can be tested."""
    for op, arguments in three(*CASES[name]):
        assert "keeps 3 digits" in op.rungs["cuda_tf32"].refusal("cuda", arguments)
        with kernels.use(**{op.name: "cuda_tf32"}):
            got, want = run(op, arguments, rung="cuda_tf32")
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-5 * np.abs(want).max(),
                                   err_msg=op.name)


def split(pixels, parts):
    chunk = 16 * kernels.cuda.blocks(pixels, parts * 16)
    return kernels.cuda.blocks(pixels, chunk), chunk


@pytest.mark.parametrize("pixels, result_bytes, grid", [
    (10**6, 147456, (3, 1, 1)), (100, 4, (1, 1, 1)), (0, 4, (1, 1, 1)), (10**7, 2**26, (1, 1, 1)),
    (10**6, 4, (1, 1, 60000)), (12544 * 32, 36864, (3, 1, 1)),
])
def test_the_split_is_whole_and_keeps_its_bounds(pixels, result_bytes, grid):
    parts, chunk = cuda_raw._split(pixels, result_bytes, grid)
    assert parts * chunk >= pixels and (parts - 1) * chunk < max(pixels, 1)
    assert chunk % cuda_raw.TILE_K == 0 and parts * grid[2] <= 65535
    assert parts == 1 or parts * result_bytes <= cuda_raw.WORKSPACE_BYTES


_, WINNERS = kernels.max_pool2d(random(2, 7, 6, 3), 3, 2, 1, keep=True)


@pytest.mark.parametrize("op, arguments", [
    *[pytest.param(op, args, id=f"{op.name}, {name}") for name in ("dilated", "narrow")
      for op, args in three(*CASES[name])],
    *[pytest.param(ladders()[name], ladders()[name].contract(*args, 3, 2, 1), id=name)
      for name, args in {"max_pool2d": (random(2, 7, 6, 3),), "avg_pool2d": (random(2, 7, 6, 3),),
                         "max_pool2d_grad": (random(2, 4, 3, 3), WINNERS, (2, 7, 6, 3)),
                         "max_pool2d_pick": (random(2, 7, 6, 3), WINNERS),
                         "avg_pool2d_grad": (random(2, 4, 3, 3), (2, 7, 6, 3))}.items()],
])
def test_wide_indices(op, arguments, monkeypatch):
    """As if an array had more than 2^30 numbers: the source compiled with 64-bit indices."""
    narrow, _ = run(op, arguments, rung="cuda_raw") if op.name.startswith("conv") else (None, None)
    monkeypatch.setattr(kernels.cuda, "NARROW", 0)
    single = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
              for a in arguments]
    with on_cpu():
        wide = op.rungs["cuda_raw"](*single)
    want = op.rungs["formula"](*arguments)
    np.testing.assert_allclose(wide, want, rtol=0, atol=1e-5 * np.abs(want).max())
    if narrow is not None:
        np.testing.assert_array_equal(wide, narrow)


@pytest.mark.parametrize("geometry", [((3, 2), 2, ((1, 0), (2, 1)), 2), ((2, 2), 1, 0, 1)])
def test_unfold_and_fold(geometry):
    x = random(2, 9, 8, 3).astype(np.float32)
    with on_cpu():
        columns = cuda_raw.unfold(x, *geometry)
        np.testing.assert_array_equal(columns, unfold(x, *geometry))
        other = RNG.integers(-9, 9, columns.shape).astype(np.float32)  # sums without rounding
        np.testing.assert_array_equal(cuda_raw.fold(other, x.shape, *geometry[1:]),
                                      fold(other, x.shape, *geometry[1:]))
        check_adjoint(lambda x: cuda_raw.unfold(x, *geometry),
                      lambda p: cuda_raw.fold(p, x.shape, *geometry[1:]),
                      RNG.integers(-9, 9, x.shape).astype(np.float32), other)


def test_check_rungs_runs_cuda_rungs(monkeypatch):
    """The check that all other tests rely on would find a wrong rung, and one whose threads race."""
    rung = conv2d.rungs["cuda_raw"]
    x, w, right = random(1, 6, 6, 4), random(3, 3, 4, 4), rung.function
    check_rungs(conv2d, x, w)
    monkeypatch.setattr(rung, "function", lambda *args: right(*args) * np.float32(1.001))
    with pytest.raises(AssertionError, match="cuda_raw, run on the CPU"):
        check_rungs(conv2d, x, w)
    runs = iter([1, 1 + 1e-6])
    monkeypatch.setattr(rung, "function", lambda *args: right(*args) * np.float32(next(runs)))
    with pytest.raises(AssertionError, match="depends on the order of the threads"):
        check_rungs(conv2d, x, w)


@pytest.mark.parametrize("old, new, found", [
    ("        __syncthreads();\n    }", "    }", (AssertionError, "run on the CPU")),
    ("        __syncthreads();\n    }", "        if (more) __syncthreads();\n        else if "
     "(threadIdx.x) __syncthreads();\n    }", (RuntimeError, "divergent barrier")),
    ("if (row >= rows) continue;", "",
     (RuntimeError, "(access|writes) outside of y")),
    ("row = i * q.s0 - q.top", "row = i * q.s0 - q.left",
     (AssertionError, "run on the CPU")),
], ids=["race", "divergence", "write", "index"])
def test_a_fault_planted_in_the_convolution_is_found(old, new, found, tmp_path, monkeypatch):
    source = cuda_raw._cu.text
    assert source.count(old) == 1
    (tmp_path / "conv2d.cu").write_text(source.replace(old, new))
    monkeypatch.setattr(cuda_raw, "_cu", kernels.cuda.Module(tmp_path / "conv2d.cu"))
    x, w = random(1, 9, 11, 4), random(3, 3, 4, 4)
    kind, message = found
    with pytest.raises(kind, match=message):
        check_rungs(conv2d, x, w, padding=((0, 1), (1, 1)))
