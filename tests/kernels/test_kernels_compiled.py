"""Compiled rungs on more than a line of channels, on several threads' parts, and beside memory that
must not be touched."""

import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from guard_pages import CONVOLUTIONS, guarded, guarded_modules

import kernels
from kernels.bench import cases as examples
from kernels.jit import _Compiled, problem, simd

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

POOL = "max_pool2d max_pool2d_grad max_pool2d_pick avg_pool2d avg_pool2d_grad".split()
DEPTHWISE = "conv2d conv2d_input_grad conv2d_weight_grad".split()
RUNGS = {"conv2d": ("depthwise", "shifts")}  # others: compiled, and array to compare with


def pool_cases():
    for c in (3, 16, 17, 40):
        for size, stride, padding in [(2, 2, 0), (3, 2, 1), ((2, 3), 1, "same"), (2, 3, 0)]:
            x = np.random.default_rng(c).integers(0, 4, (2, 7, 9, c)) / 4
            g = np.random.default_rng(1).standard_normal(
                kernels.avg_pool2d(x, size, stride, padding).shape
            )
            _, winners = kernels.max_pool2d(x, size, stride, padding, True)
            firsts = (x,), (g, winners, x.shape), (x + 1, winners), (x,), (g, x.shape)
            for name, first in zip(POOL, firsts):
                yield name, (*first, size, stride, padding)
            yield "max_pool2d", (x, size, stride, padding, True)


def depthwise_cases():
    for c, m in ((3, 1), (16, 1), (17, 1), (33, 1), (6, 3)):
        for k, stride, padding, dilation in [
            (3, 1, 1, 1), ((2, 5), (1, 2), ((2, 0), (1, 3)), (2, 1)), (6, 1, 0, 1), (1, 3, 2, 1),
        ]:  # fmt: skip
            rng = np.random.default_rng(c)
            kernel = k if isinstance(k, tuple) else (k, k)
            x, w = rng.standard_normal((2, 9, 11, c)), rng.standard_normal((*kernel, 1, c * m))
            arguments = stride, padding, dilation, c
            g = rng.standard_normal(kernels.conv2d(x, w, *arguments).shape)
            for name, first in zip(DEPTHWISE, ((x, w), (g, w, x.shape), (g, x, w.shape))):
                yield name, (*first, *arguments)


def cell_cases():
    for cell, blocks in {"rnn": 1, "gru": 3, "lstm": 4}.items():
        for n, t, u in [(1, 3, 16), (7, 2, 17), (13, 4, 40), (12, 1, 33), (2, 0, 3), (0, 2, 3)]:
            for gate, masked in [(None, False), ((0.9, 1.0), True), ((1.0, 0.2), False)]:
                rng = np.random.default_rng(u)
                xw = rng.standard_normal((n, t, blocks * u))
                first = rng.standard_normal((2 if cell == "lstm" else 1, n, u))
                weights = [rng.standard_normal((u, blocks * u)) / np.sqrt(u)]
                if cell == "gru":
                    weights.append(rng.standard_normal(blocks * u))
                mask = rng.random((n, t)) < 0.7 if masked else None
                inputs = xw, *first, *weights
                yield cell, (*inputs, mask, gate)
                states = kernels.ladders()[cell](*inputs, mask, gate)
                g = rng.standard_normal(states.shape)
                yield cell + "_grad", (g, states, *inputs, mask, gate)
                if cell == "lstm":
                    yield cell, (*inputs, mask, gate, True)
                    _, gates = kernels.lstm(*inputs, mask, gate, keep=True)
                    yield cell + "_grad", (g, states, *inputs, mask, gate, gates)


def softmax_cases():
    names = """softmax softmax_grad log_softmax log_softmax_grad softmax_crossentropy
        softmax_crossentropy_grad sigmoid_crossentropy sigmoid_crossentropy_grad""".split()
    for shape in [(1, 1), (3, 16), (7, 17), (2, 5, 40), (0, 3), (300, 64)]:
        rng = np.random.default_rng(shape[-1])
        x, g, y = rng.standard_normal((3, *shape))
        labels = rng.integers(0, shape[-1], shape[:-1])
        every = (x,), (g, y), (x,), (g, y), (x, labels), (g[..., 0], x, labels), (x, y), (g, x, y)
        yield from zip(names, every)


def normalization_cases():
    for n, p, c, groups in [(1, 2, 3, 1), (2, 65, 16, 16), (2, 130, 40, 8), (0, 2, 4, 2),
                            (1, 3, 33, 33), (1, 4, 20, 2), (5, 1, 33, 1), (70, 1, 16, 1),
                            (2, 1, 7, 1)]:  # fmt: skip
        rng = np.random.default_rng(c)
        x, g = rng.standard_normal((2, n, p, c))
        gamma, beta = rng.standard_normal((2, c))
        moments = kernels.moments(x, groups)
        yield "moments", (x, groups)
        yield "normalize", (x, moments, gamma, beta, 0.01)
        yield "normalize_grad", (g, x, moments, gamma, 0.01)


def crop_cases():
    for images, n, c in [(1, 3, 3), (2, 2, 1), (1, 1, 17), (0, 0, 3)]:
        rng = np.random.default_rng(c)
        x, g = rng.standard_normal((images, 9, 7, c)), rng.standard_normal((n, 5, 6, c))
        boxes = np.concatenate([rng.uniform(-9, 9, (n, 2)), rng.uniform(0.5, 20, (n, 2))], axis=1)
        yield "crop", (x, boxes, (5, 6))
        yield "crop_image_grad", (g, boxes, x.shape)
        yield "crop_box_grad", (g, x, boxes)


def matmul_cases():
    for m, k, n in [(1, 1, 1), (7, 5, 3), (50, 64, 17), (97, 13, 33), (145, 3, 48),
                    (1, 65, 1), (7, 130, 49), (64, 67, 97), (17, 100, 16), (77, 530, 35)]:
        rng = np.random.default_rng(k)
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        for turned in itertools.product((False, True), repeat=2):
            yield "matmul", tuple(np.asfortranarray(x) if t else x for x, t in zip((a, b), turned))


def stream_cases():
    rng = np.random.default_rng(0)
    for few, many, wide in [(1, 9, 16), (2, 33, 48), (3, 100, 16), (5, 130, 544), (8, 70, 1040)]:
        x, w, g = (rng.standard_normal(s) for s in ((few, many), (many, wide), (few, wide)))
        for a, b in ((x, w), (g, w.T), (x.T, g)):
            yield "matmul", (a, b)


def rectify_cases():
    for shape in [(1,), (3, 1), (5, 16), (2, 7, 17), (3, 3, 33), (0, 5), (2, 40), (700, 41)]:
        g, y = np.random.default_rng(shape[-1]).standard_normal((2, *shape))
        yield "rectify_grad", (g, np.maximum(y, 0))


def hog_cases():
    for n, h, w, c, cell in [(1, 8, 12, 3, 4), (2, 12, 20, 1, 4), (1, 2, 6, 3, 2), (1, 24, 16, 17, 8),
                             (1, 41, 7, 3, 1), (1, 66, 9, 2, 3), (0, 8, 8, 3, 4)]:
        yield "hog", (np.random.default_rng(h).integers(0, 256, (n, h, w, c)).astype(float), cell)


def lab_cases():
    for n, h, w, cell in [(1, 8, 12, 4), (2, 6, 10, 2), (1, 5, 7, 1), (1, 32, 16, 16), (0, 4, 4, 2)]:
        yield "lab", (np.random.default_rng(h).uniform(0, 255, (n, h, w, 3)), cell)


def gram_cases():
    for k, q, c in [(1, 1, 1), (3, 4, 2), (2, 7, 16), (5, 3, 17), (4, 130, 33), (0, 2, 3)]:
        rng = np.random.default_rng(c)
        yield "gram", (rng.standard_normal((k, q, c, 2)), rng.random(k), rng.standard_normal((q, c, 2)))


def patch_cases():
    for h, w, c, size in [(9, 7, 3, (5, 6)), (1, 1, 1, (3, 2)), (30, 41, 17, (4, 3)), (8, 64, 2, (1, 9))]:
        rng = np.random.default_rng(w)
        boxes = np.concatenate([rng.integers(-90, 90, (3, 2)), rng.integers(4, 400, (3, 2))], axis=1) / 8
        yield "patch", (rng.standard_normal((h, w, c)), boxes, size)
        yield "patch", (rng.integers(0, 256, (h, w, c), np.uint8), boxes, size)
        yield "patch", (rng.standard_normal((h, w, c)), np.array([[0., 0, w, h]]), size)  # to the edge


CASES = {"matmul": matmul_cases, "stream": stream_cases, "rectify": rectify_cases,
         "softmax": softmax_cases, "normalization": normalization_cases, "crop": crop_cases,
         "pool": pool_cases, "depthwise": depthwise_cases, "cells": cell_cases, "hog": hog_cases,
         "lab": lab_cases, "gram": gram_cases, "patch": patch_cases}
# What allocates for them: kernels.*
MODULES = """pool2d.compiled conv2d.depthwise rnn.compiled gru.compiled lstm.compiled cells
    softmax.compiled normalization.compiled normalization.rows crop.compiled matmul.blocked
    matmul.few_rows matmul.stream rectify.compiled hog.compiled lab.compiled gram.compiled
    patch.compiled optimizer.compiled memory""".split()


def run(name, arguments, rung, convert):
    """The results of a rung on converted arrays, as a tuple."""
    op = kernels.ladders()[name]
    normal = op.contract(*arguments)
    converted = [convert(a) if isinstance(a, np.ndarray) and a.dtype in (float, np.uint8) else a
                 for a in normal]
    result = op.rungs[rung](*converted)
    return result if isinstance(result, tuple) else (result,)


def single(a):
    return a.astype(np.float32) if a.dtype == float else a


def rungs(name, arguments=()):
    if name in ("moments", "normalize", "normalize_grad") and arguments[0].shape[1] == 1:
        return "rows", "array"
    if name == "matmul":
        a, b = arguments
        if min(len(a), len(b)) <= 8 and (b if b.flags.c_contiguous else b.T).shape[1] % 16 == 0:
            return "stream", "array"
        return ("blocked" if b.flags.c_contiguous or len(a) > 64 else "few_rows"), "array"
    return RUNGS.get(name.split("_")[0], ("compiled", "array"))


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_every_rung_on_two_threads(name, monkeypatch):
    numba = pytest.importorskip("numba")
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread only (NUMBA_NUM_THREADS, or one core)")
    monkeypatch.setattr("kernels.jit._WORTH_THREADS", -1)  # as large arrays are: in parallel
    before = numba.get_num_threads()
    numba.set_num_threads(2)
    try:
        found = examples.check([name])
    finally:
        numba.set_num_threads(before)
    assert [row for row in found if row["verdict"] == "WRONG"] == []


@pytest.mark.parametrize("cases", CASES)
def test_wide_arrays_equal_the_array_rung(cases):
    for name, arguments in CASES[cases]():
        fast, slow = rungs(name, arguments)
        got = run(name, arguments, fast, single)
        want = run(name, arguments, slow, lambda a: a)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == (np.float32 if b.dtype.kind == "f" else b.dtype)
            tolerance = 3e-6 * np.abs(b).max(initial=1)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)


def test_bands_of_rows(monkeypatch):
    import importlib

    module = importlib.import_module("kernels.conv2d.depthwise")
    for size in (1, 5000, 20000):
        monkeypatch.setattr(module, "FRAME_BYTES", size)
        for name, arguments in depthwise_cases():
            for a, b in zip(*(run(name, arguments, rung, np.array) for rung in rungs(name))):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("function, tolerance", [("tanh", 4e-7), ("sigmoid", 0)])
def test_functions_of_lines(function, tolerance):
    ends = [np.inf, -np.inf]
    x = np.concatenate([np.linspace(-20, 20, 100_001), np.geomspace(1e-30, 1, 999), ends])
    x = np.resize(x, -(-len(x) // 16) * 16).astype(np.float32)
    y = apply(function)(x)
    exact = np.tanh(x.astype(float)) if function == "tanh" else 1 / (1 + np.exp(-x.astype(float)))
    np.testing.assert_allclose(y, exact, rtol=tolerance, atol=1e-37 if tolerance else 2e-7)
    assert np.isnan(apply(function)(np.full(16, np.nan, np.float32))).all()


def apply(name):
    import numba

    lines, function = simd.resolve(), getattr(simd.resolve(), name)

    @numba.njit
    def loop(x, y):
        for i in range(0, x.size, 16):
            lines.store(y, i, function(lines.load(x, i)))

    def whole(x):
        y = np.empty_like(x)
        loop(x, y)
        return y

    return whole


def guard(family):
    """Run in a process of its own: every array ends, then begins, at memory that cannot be read."""
    modules = [sys.modules[f"kernels.{name}"] for name in MODULES]
    for name, arguments in CASES[family]() if family in CASES else ():
        run(name, arguments, rungs(name, arguments)[0], single)  # compiled now
        for at_end in (True, False):
            with guarded_modules(*modules, at_end=at_end):
                run(name, arguments, rungs(name, arguments)[0],
                    lambda a: guarded(single(a), at_end))  # noqa: B023
    for size in (1, 16, 50, 2**14 + 5) if family == "adam" else ():
        for at_end in (True, False):
            w, g, m, v = (guarded(np.ones(size, np.float32), at_end) for _ in range(4))
            kernels.adam(w, g, m, v, 0.1, 1)
    print("untouched")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages need Linux")
@pytest.mark.parametrize("family", [*CASES, "adam"])
def test_no_access_outside_of_the_arrays(family):
    here = pathlib.Path(__file__).parent
    paths = [here, here.parent, here.parent.parent, os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-c", f"import test_kernels_compiled as t; t.guard({family!r})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True, text=True, timeout=580, check=False,  # for what is compiled first
    )  # fmt: skip
    assert result.stdout.strip() == "untouched", (result.returncode, result.stderr)


def test_every_compiled_rung_meets_guard_pages():
    """Here, or in test_kernels_direct. Compiled: its module has functions under `kernels.jit.jit`."""
    every = {(name, rung.name): sys.modules[rung.function.__module__]
             for name, op in kernels.ladders().items() for rung in op.rungs.values()
             if rung.device == "cpu"}
    compiled = {which: module for which, module in every.items()
                if any(isinstance(value, _Compiled) for value in vars(module).values())}
    met = {(name, rungs(name, arguments)[0]) for make in CASES.values() for name, arguments in make()}
    assert {f"kernels.{name}" for name in MODULES} >= {compiled[which].__name__ for which in met}
    met |= {("adam", "compiled")}
    met |= {(name, rung) for name in DEPTHWISE for rung in CONVOLUTIONS}
    assert len(compiled) > 40 and set(compiled) <= met
