"""CUDA C beyond convolution and pooling: run on the CPU, with wide indices, with planted faults.

The tests of each op hold its CUDA rungs to the formula over all shapes (`check_rungs`); here is
what those cannot see.
"""

import importlib
import sys

import numpy as np
import pytest
from check_rungs import check_cuda

import kernels.cuda
from kernels import ladders
from kernels.cuda import on_cpu

PROBLEM = sys.modules["kernels.cuda.on_cpu"].problem()
needs_gxx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
RNG = np.random.default_rng(0)
random = RNG.standard_normal


def recurrent(cell, masked=True):
    """Arguments of the cell, two tiles of samples and of units."""
    n, steps, units, blocks = 17, 3, 18, {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    states = [random((n, units)) for _ in range(2 if cell == "lstm" else 1)]
    weights = [random((units, blocks * units)) / 4]
    if cell == "gru":
        weights.append(random(blocks * units))
    mask = RNG.random((n, steps)) < 0.6 if masked else None
    return random((n, steps, blocks * units)), *states, *weights, mask


def through_time(cell, gate=None):
    arguments = recurrent(cell)
    states = ladders()[cell](*arguments)
    return random(states.shape), states, *arguments, gate


def cropping(op):
    x, boxes = random((2, 6, 7, 3)), np.array([[0.3, 1.2, 4.4, 3.7], [-2.1, -1.3, 11.7, 9.1]])
    g = random((2, 3, 4, 3))
    arguments = {"crop": (x, boxes, (3, 4)), "crop_image_grad": (g, boxes, x.shape)}
    return arguments.get(op, (g, x, boxes))


def classifying(op, classes=40):
    x, g, labels = random((9, classes)), random((9, classes)), RNG.integers(0, classes, 9)
    if op.startswith("sigmoid"):
        return (g, x, RNG.random(x.shape))[0 if op.endswith("grad") else 1 :]
    if op.startswith("softmax_cross"):
        return (random(9), x, labels)[0 if op.endswith("grad") else 1 :]
    return (g, ladders()[op[:-5]](x)) if op.endswith("grad") else (x,)


def normalizing(op, shape=(2, 150, 6), groups=3):
    x, gamma = random(shape), random(shape[2])
    moments = ladders()["moments"](x, groups)
    arguments = {"moments": (x, groups), "normalize": (x, moments, gamma, random(shape[2]))}
    return arguments.get(op, (random(shape), x, moments, gamma))


CASES = {
    **{cell: lambda cell=cell: recurrent(cell) for cell in ("rnn", "gru", "lstm")},
    **{f"{cell}_grad": lambda cell=cell: through_time(cell) for cell in ("rnn", "gru", "lstm")},
    **{op: lambda op=op: cropping(op) for op in ("crop", "crop_image_grad", "crop_box_grad")},
    **{op: lambda op=op: normalizing(op) for op in ("moments", "normalize", "normalize_grad")},
    **{
        op: lambda op=op: classifying(op)
        for kind in ("softmax", "log_softmax", "softmax_crossentropy", "sigmoid_crossentropy")
        for op in (kind, kind + "_grad")
    },
}


@needs_gxx
@pytest.mark.parametrize("name", CASES)
def test_wide_indices(name, monkeypatch):
    """As if an array had more than 2^30 numbers: the source compiled with 64-bit indices."""
    monkeypatch.setattr(kernels.cuda, "NARROW", 0)
    check(name)


@needs_gxx
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("moments", lambda: normalizing("moments", (3, 5, 64), 2)),  # a block a group
        ("moments", lambda: normalizing("moments", (1, 1000, 3), 3)),  # parts of the pixels
        ("normalize_grad", lambda: normalizing("normalize_grad", (1, 1000, 3), 3)),
        ("normalize_grad", lambda: normalizing("normalize_grad", (30, 7, 64), 2)),
        *[(f"{cell}_grad", lambda cell=cell: through_time(cell, gate))
          for cell in ("rnn", "gru", "lstm") for gate in [(0.7, None), (1.0, 0.3)]],
    ],
)  # fmt: skip
def test_other_paths(name, arguments):
    check(name, arguments())


def one_launch_a_step(monkeypatch, **limits):
    for name, value in {"SMALL": -1, **limits}.items():
        monkeypatch.setattr(sys.modules["kernels.through_time"], name, value)


@needs_gxx
@pytest.mark.parametrize("op", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("narrow", [kernels.cuda.NARROW, 0])
def test_cells_step_by_step(op, masked, narrow, monkeypatch):
    monkeypatch.setattr(kernels.cuda, "NARROW", narrow)
    one_launch_a_step(monkeypatch)
    check(op, recurrent(op, masked))


@needs_gxx
@pytest.mark.parametrize("op", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("units", [1, 16, 31, 33, 256, 257, 342])
def test_cells_in_one_launch(op, units):
    """Threads without a column, and as many columns as threads or more, which takes other kernels."""
    blocks = {"rnn": 1, "gru": 3, "lstm": 4}[op]
    states = [random((2, units)) for _ in range(2 if op == "lstm" else 1)]
    weights = [random((units, blocks * units)) / units**0.5, *[random(blocks * units)] * (op == "gru")]
    check(op, (random((2, 3, blocks * units)), *states, *weights, RNG.random((2, 3)) < 0.7))


@needs_gxx
@pytest.mark.parametrize("op", ["rnn", "rnn_grad", "gru", "gru_grad", "lstm", "lstm_grad"])
@pytest.mark.parametrize("gate", [None, (0.7, None), (1.0, 0.3)])
def test_cells_whose_products_are_made_elsewhere(op, gate, monkeypatch):
    """By cuBLAS, or here by BLAS, as where samples and units are many."""
    one_launch_a_step(monkeypatch, LARGE=0)
    ladder = ladders()[op]
    arguments = through_time(op[:-5], gate) if op.endswith("grad") else recurrent(op)
    normal = ladder.contract(*arguments)
    single = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == float else a
              for a in normal]  # fmt: skip
    with on_cpu():
        results = ladder.rungs["cuda_raw"](*single)
    expected = ladder.rungs["formula"](*normal)
    if not op.endswith("grad"):
        results, expected = [results], [expected]
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


BY_ROW = [op for op in CASES if "softmax" in op]


@needs_gxx
@pytest.mark.parametrize("op", BY_ROW)
@pytest.mark.parametrize("classes", [1, 16, 17, 300, 512, 513, 1500])
def test_rows_of_several_threads(op, classes):
    """From one thread a row, through several in a warp, to several warps; nine rows, which fill no
    block but leave a remainder to all."""
    check(op, classifying(op, classes))


@needs_gxx
@pytest.mark.parametrize("op", BY_ROW)
@pytest.mark.parametrize("classes", [16384, 16385, 33000])
def test_rows_of_all_threads(op, classes):
    """Such as stay in the registers of 1024 threads just so, and such as are read twice."""
    check(op, [a[:2] if isinstance(a, np.ndarray) else a for a in classifying(op, classes)])


NORMALIZATION = ["moments", "normalize", "normalize_grad"]


@needs_gxx
@pytest.mark.parametrize("op", NORMALIZATION)
@pytest.mark.parametrize("shape, groups", [
    ((9, 1, 1), 1), ((5, 1, 16), 1), ((9, 1, 17), 1), ((3, 1, 34), 2), ((40, 1, 6), 3), ((3, 1, 520), 1),
    ((2, 1, 17000), 1),
])  # fmt: skip
def test_normalization_of_rows(op, shape, groups):
    """Samples of one pixel: from one thread a row to rows that no registers hold."""
    check(op, normalizing(op, shape, groups))


@needs_gxx
@pytest.mark.parametrize("op", NORMALIZATION)
@pytest.mark.parametrize("shape, groups", [
    ((1, 2, 1), 1), ((1, 2049, 1), 1), ((2, 63, 32), 8), ((1, 64, 33), 33), ((2, 65, 32), 1),
    ((1, 200, 64), 64), ((3, 129, 48), 3), ((1, 7, 130), 130), ((1, 515, 3), 3), ((4, 9, 64), 2),
])  # fmt: skip
def test_normalization_of_channels(op, shape, groups, monkeypatch):
    """One pixel less and more than a block reads at once, several parts, idle threads, wide groups;
    threads that do so once, and more often."""
    check(op, normalizing(op, shape, groups))
    monkeypatch.setattr(sys.modules["kernels.normalization.cuda_raw"], "ENOUGH_BLOCKS", 1)
    check(op, normalizing(op, shape, groups))


@needs_gxx
@pytest.mark.parametrize("shape, groups", [((1, 5000, 3), 3), ((2, 700, 4), 1), ((3, 1, 1000), 1)])
def test_moments_with_a_large_mean_lose_no_digits(shape, groups):
    x = (1000 + random(shape)).astype(np.float32)
    x[:, 0, 0] = 0  # a first number that says nothing of the others
    want = ladders()["moments"].rungs["array"](x.astype(float), groups)
    with on_cpu():
        mean, variance = ladders()["moments"].rungs["cuda_raw"](x, groups)
    np.testing.assert_allclose(mean, want[0], rtol=3e-7)
    np.testing.assert_allclose(variance, want[1], rtol=1e-4)


@needs_gxx
@pytest.mark.parametrize("op", ["softmax", "log_softmax", "softmax_crossentropy"])
@pytest.mark.parametrize("size", [3, 40, 1000, 17000])
def test_rows_with_infinities(op, size):
    """In one place, in all places of some threads, in all places; and a NaN."""
    x = np.tile(np.linspace(-3, 3, size, dtype=np.float32), (8, 1))
    x[0, 1], x[1, -1], x[2, 0], x[3], x[4, : size // 2 + 1] = np.inf, -np.inf, np.nan, -np.inf, -np.inf
    x[5], x[6], x[7, 1:] = 1e30, np.finfo(np.float32).min, -1e38
    arguments = ladders()[op].contract(x, *[np.zeros(8, int)] * op.endswith("py"))
    with np.errstate(all="ignore"):
        want = ladders()[op].rungs["array"](*arguments)
    assert np.isnan(want[[0, 2, 3]]).any(axis=-1).all() and not np.isnan(want[[1, 4, 5, 6, 7]]).any()
    with on_cpu():
        np.testing.assert_allclose(ladders()[op].rungs["cuda_raw"](*arguments), want, 1e-5, 1e-6)


def unaligned(value):
    """The same numbers, contiguous, but 4 bytes behind a multiple of 16."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    memory = np.empty(value.size + 8, np.float32)
    first = 1 - memory.ctypes.data % 16 // 4 + 4
    view = memory[first : first + value.size].reshape(value.shape)
    view[...] = value
    assert view.ctypes.data % 16 == 4
    return view


POOLING = ["max_pool2d", "max_pool2d_grad", "max_pool2d_pick", "avg_pool2d", "avg_pool2d_grad"]


@needs_gxx
@pytest.mark.parametrize("op", POOLING)
@pytest.mark.parametrize("channels", [3, 4, 8, 40])
@pytest.mark.parametrize("geometry", [
    (2, 2, 0), (2, 3, 1), ((2, 3), (2, 4), ((1, 0), (2, 2))), (1, 1, 0), (3, 2, 1), ((2, 3), 1, 0),
    (2, 2, "same"), (5, (5, 1), 0),
])  # fmt: skip
def test_pooling(op, channels, geometry, monkeypatch):
    """Channels by ones and by fours, from aligned and unaligned memory; threads of one row and of
    several; windows that lie apart, also with pixels between and behind them, and that overlap;
    ties, -inf and NaN."""
    ladder, shape = ladders()[op], (2, 7, 8, channels)
    x = RNG.integers(0, 4, shape).astype(float)
    x[x == 0], x[0, :3, :5] = -np.inf, -np.inf
    x[1, 2, 3] = np.nan
    y, winners = kernels.max_pool2d(x, *geometry, keep=True)
    g, u = random(y.shape), random(shape)
    first = {"max_pool2d": (x,), "max_pool2d_grad": (g, winners, shape),
             "max_pool2d_pick": (u, winners), "avg_pool2d": (u,),
             "avg_pool2d_grad": (g, shape)}  # fmt: skip
    normal = ladder.contract(*first[op], *geometry, *[True] * (op == "max_pool2d"))
    expected = ladder.rungs["formula"](*normal)
    check_cuda(ladder, ladder.rungs["cuda_raw"], normal, expected, 1e-6)
    monkeypatch.setattr(sys.modules["kernels.pool2d.cuda_raw"], "ENOUGH_THREADS", 20)
    with on_cpu():
        got = ladder.rungs["cuda_raw"](*map(unaligned, normal))
    if op != "max_pool2d":
        got, expected = (got,), (expected,)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_four_at_a_time_takes():
    aligned = unaligned(random((8, 12)))[0, 3:]
    assert kernels.cuda.width(8, aligned) == 4
    assert kernels.cuda.width(6, aligned) == 1
    assert kernels.cuda.width(8, aligned, unaligned(random(8))) == 1


@needs_gxx
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crops_of_one_image(dtype, channels, monkeypatch):
    """Bytes, and one image that serves many boxes, whose gradients meet in it; channels by ones,
    threes and fours, from aligned and unaligned memory; threads of one row, and of several."""
    x = RNG.integers(0, 256, (1, 7, 6, channels)).astype(dtype)
    boxes = np.concatenate([RNG.uniform(-3, 4, (5, 2)), RNG.uniform(0.1, 9, (5, 2))], axis=1)
    check("crop", (x, boxes, (4, 5)))
    check("crop_image_grad", (random((5, 4, 5, channels)), boxes, x.shape))
    monkeypatch.setattr(sys.modules["kernels.crop.cuda_raw"], "ENOUGH_THREADS", 20)
    check("crop", (x, boxes, (9, 5)))
    boxes[0] = -50, -60, 1000, 2000
    for op, arguments in [("crop", (x.astype(np.float32), boxes, (4, 5))),
                          ("crop_image_grad", (random((5, 4, 5, channels)), boxes, x.shape))]:
        with on_cpu():
            got = ladders()[op].rungs["cuda_raw"](*map(unaligned, arguments))
        np.testing.assert_allclose(got, ladders()[op].rungs["formula"](*arguments), 1e-3, 1e-2)


@needs_gxx
@pytest.mark.parametrize("schedule", ["forward", "backward"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 15, 40, (3, 5, 7), 5001])
def test_adam(size, offset, schedule):
    adam = ladders()["adam"]
    numbers = [random(size) for _ in range(4)]
    numbers[3] = numbers[3] ** 2
    expected = adam.rungs["formula"](*adam.contract(*(a.copy() for a in numbers), 0.1, 3))
    ours = [a.astype(np.float32) for a in numbers]
    normal = adam.contract(*ours, 0.1, 3)
    assert adam.rungs["cuda_raw"].refusal("cuda", normal) is None
    with on_cpu(schedule):
        results = adam.rungs["cuda_raw"](*normal)
    for got, same, want in zip(results, (ours[0], ours[2], ours[3]), expected):
        assert got is same
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours[1], numbers[1].astype(np.float32))


def test_adam_refuses_what_it_cannot_change_in_place():
    arrays = [np.ones((4, 4), np.float32)[:, ::2] for _ in range(4)]
    adam = ladders()["adam"]
    assert "contiguous" in adam.rungs["cuda_raw"].refusal("cuda", adam.contract(*arrays, 0.1, 1))


@pytest.mark.parametrize("name", [n for n, op in ladders().items() if "cuda_raw" in op.rungs])
def test_cuda_rungs_stand_highest(name):
    """CUDA C above Numba's CUDA above what CuPy does."""
    rungs = [rung for rung in ladders()[name].rungs.values() if rung.device != "cpu"]
    heights = [0 if r.device == "any" else 1 if r.name == "cuda_numba" else 2 for r in rungs]
    assert heights == sorted(heights) and heights[-1] == 2


def check(name, arguments=None):
    """The CUDA rung runs, and equals the formula."""
    op = ladders()[name]
    normal = op.contract(*(CASES[name]() if arguments is None else arguments))
    single = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == float else a
              for a in normal]  # fmt: skip
    assert op.rungs["cuda_raw"].refusal("cuda", single) is None
    check_cuda(op, op.rungs["cuda_raw"], normal, op.rungs["formula"](*normal), 1e-4)


WRONG = AssertionError, "run on the CPU"
FAULTS = {
    "lstm index": ("lstm", "lstm", "c = gates[1] * c", "c = gates[0] * c", WRONG),
    "lstm write": (
        "lstm", "lstm", "if (n >= samples || u >= units) return false;", "",
        (RuntimeError, "access outside of"),
    ),
    "gru race": (
        "gru", "gru", "sums[q] += h_tile[y][k] * R_tile[q][k][x];\n        __syncthreads();",
        "sums[q] += h_tile[y][k] * R_tile[q][k][x];", WRONG,
    ),
    "rnn divergence": (
        "rnn", "rnn", "sum += h_tile[y][k] * R_tile[k][x];\n        __syncthreads();",
        "sum += h_tile[y][k] * R_tile[k][x];\n        if (n < samples) __syncthreads();",
        (RuntimeError, "divergent barrier"),
    ),
    "crop write": (
        "crop", "crop", "if (inside && left) before", "if (left) before",
        (RuntimeError, "access outside of x|writes outside|undefined"),
    ),
    "crop index": ("crop", "crop_image_grad", "? 1 - at.past", "? at.past", WRONG),
    "softmax divergence": (
        "softmax", "softmax", "const float largest = over_row",
        "if (threadIdx.x % 64 == 63) return {};\n    const float largest = over_row",
        (RuntimeError, "divergent barrier"),
    ),
    "moments index": (
        "normalization", "moments", "off * off * (a.count * share)", "off * off * share", WRONG,
    ),
}  # fmt: skip


@needs_gxx
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path, monkeypatch):
    folder, name, old, new, (kind, message) = FAULTS[fault]
    one_launch_a_step(monkeypatch)
    module = importlib.import_module(f"kernels.{folder}.cuda_raw")
    right = module._cu if isinstance(module._cu, dict) else {1: module._cu}
    assert old in right[1].text
    path = tmp_path / right[1].name
    path.write_text(right[1].text.replace(old, new))
    wrong = {width: kernels.cuda.Module(path, *cu.macros) for width, cu in right.items()}
    monkeypatch.setattr(module, "_cu", wrong if isinstance(module._cu, dict) else wrong[1])
    arguments = classifying(name, 1000) if folder == "softmax" else None
    with pytest.raises(kind, match=message):
        check(name, arguments)


@needs_gxx
def test_a_fault_in_the_gates_limit_is_found(tmp_path, monkeypatch):
    module = importlib.import_module("kernels.through_time")
    source = module._cu.text
    assert source.count("!mask[") == 1
    (tmp_path / "through_time.cu").write_text(source.replace("!mask[", "mask["))
    monkeypatch.setattr(module, "_cu", kernels.cuda.Module(tmp_path / "through_time.cu"))
    with pytest.raises(AssertionError):
        check("rnn_grad", through_time("rnn", (1.0, 0.3)))
