"""The compiled convolutions: against the formula, next to guarded memory, and what they refuse."""

import importlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from check_rungs import peak_of
from guard_pages import CONVOLUTIONS, guarded, guarded_modules
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import conv2d, conv2d_input_grad, conv2d_weight_grad, memory
from kernels.conv2d import output_shape
from kernels.jit import lanes, problem, threads

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))
NAMES = "direct", "winograd", "scatter", "fft"
direct, winograd, scatter, fft = (importlib.import_module(f"kernels.conv2d.{n}") for n in NAMES)


def case(n, h, w, c, o, kernel, seed=0, **arguments):
    """(x, w, g, arguments) in float32."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c)).astype(np.float32)
    w = rng.standard_normal((*kernel, c // arguments.get("groups", 1), o)).astype(np.float32)
    shape = output_shape(x.shape, w.shape, **arguments)
    return x, w, rng.standard_normal(shape).astype(np.float32), arguments


def three(rung, x, w, g, arguments):
    """What `rung` (a name) makes of the contractions that it has, whatever its `needs` says."""
    return [
        op.rungs[rung if rung in op.rungs else "direct"](*op.contract(*args, **arguments))
        for op, args in [
            (conv2d, (x, w)),
            (conv2d_input_grad, (g, w, x.shape)),
            (conv2d_weight_grad, (g, x, w.shape)),
        ]
    ]


def check(rung, case, tolerance):
    x, w, g, arguments = case
    exact = three("im2col", *(a.astype(np.float64) for a in (x, w, g)), arguments)
    for got, want in zip(three(rung, *case), exact, strict=True):
        assert got.dtype == np.float32 and got.shape == want.shape
        largest = np.abs(want).max(initial=1)
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


@st.composite
def cases(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    side = st.tuples(st.integers(0, 5), st.integers(0, 5))
    padding = draw(st.tuples(side, side))
    reach = [(k - 1) * d for k, d in zip(kernel, dilation)]
    h, w = (draw(st.integers(1 + r, 12 + r)) for r in reach)
    groups = draw(st.sampled_from([1, 1, 2, 3, 4, 6]))
    c, o = (draw(st.integers(0, most // groups)) * groups for most in (9, 35))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return case(draw(st.integers(0, 3)), h, w, c, o, kernel, draw(st.integers(0, 99)), **arguments)


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([1, 7, 256]))
def test_direct_equals_the_exact_result(case, pixels):
    with pytest.MonkeyPatch.context() as patch:  # blocks of a row, of some rows, of images
        patch.setattr(direct, "PIXELS", pixels)
        check("direct", case, 2e-6)


def test_direct_equals_the_formula():
    x, w, g, arguments = case(1, 6, 7, 2, 3, (3, 2), stride=2, padding=((2, 0), (1, 1)))
    for got, want in zip(three("direct", x, w, g, arguments), three("formula", x, w, g, arguments)):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_direct_takes_any_strides_in_memory():
    x, w, g, arguments = case(2, 9, 9, 5, 7, (3, 3), padding=1)
    apart = [np.asfortranarray(a)[::1] for a in (x, w, g)]
    for array in apart:
        array.flags.writeable = False
    for got, want in zip(three("direct", *apart, arguments), three("direct", x, w, g, arguments)):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("o, groups", [(16, 1), (32, 1), (32, 2), (48, 1), (48, 3), (64, 2), (20, 1)])
def test_gradients_of_every_width(o, groups):
    """Those of few channels are multiplied where they lie, of many in a copy; several blocks."""
    check("direct", case(2, 40, 41, 6, o, (3, 2), groups=groups, padding=1), 2e-6)


def test_long_sums_are_exact_to_a_millionth():
    check("direct", case(8, 40, 40, 24, 16, (3, 3)), 1e-6)


@st.composite
def cases_few(draw):
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.integers(1, 3)), 1
    side = st.tuples(st.integers(0, 5), st.integers(0, 5))
    padding = draw(st.tuples(side, side))
    reach = [(k - 1) * d for k, d in zip(kernel, dilation)]
    n, c, o = (draw(st.integers(0, most)) for most in (3, 8, 19))
    h, w = (draw(st.integers(1 + r, 12 + r)) for r in reach)
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    return case(n, h, w, c, o, kernel, draw(st.integers(0, 99)), **arguments)


@settings(max_examples=100, deadline=None)
@given(cases_few(), st.sampled_from([1, 60, 2**16]))
def test_scatter_equals_the_exact_result(case, frame):
    with pytest.MonkeyPatch.context() as patch:  # bands of a row, of some, of all
        patch.setattr(scatter, "FRAME", frame)
        check("scatter", case, 2e-6)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([1, 2**24]))
def test_fft_equals_the_exact_result(case, size):
    x, w, g, arguments = case
    if arguments["stride"] != (1, 1) or 0 in x.shape[3:] + w.shape:
        arguments = {**arguments, "stride": 1}
        c, o = max(x.shape[3], arguments["groups"]), max(w.shape[3], arguments["groups"])
        kernel = w.shape[:2]
        x, w, g, arguments = globals()["case"](*x.shape[:3], c, o, kernel, 0, **arguments)
    with pytest.MonkeyPatch.context() as patch:  # images one by one, all together
        patch.setattr(fft, "BYTES", size)
        check("fft", (x, w, g, arguments), 3e-6)
        double = three("fft", *(a.astype(float) for a in (x, w, g)), arguments)
        exact = three("im2col", *(a.astype(float) for a in (x, w, g)), arguments)
        for got, want in zip(double, exact):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * np.abs(want).max(initial=1))


@pytest.mark.parametrize("rung", ["direct", "winograd", "im2col", "fft"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(2, 9, 10, 17, 19), (1, 6, 6, 16, 32), (2, 5, 5, 0, 3)])
def test_bias_and_relu(rung, relu, size):
    if size[3] == 0 and rung == "fft":
        return
    x, w, _, _ = case(*size, (3, 3))
    b = np.linspace(-3, 3, size[4]).astype(np.float32)
    y = conv2d.rungs["formula" if size[3] < 17 else "im2col"](*conv2d.contract(x, w, 1, 1)) + b
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv2d.rungs[rung], "condition", None)
        with kernels.use(conv2d=rung):
            got = kernels.conv2d_bias(x, w, b, 1, 1, relu=relu)
    want = np.maximum(y, 0) if relu else y
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(y).max())
    assert not relu or (got >= 0).all()


@pytest.mark.parametrize("rung", ["direct", "winograd", "im2col"])
def test_relu_lets_nan_through(rung):
    x, w, _, _ = case(2, 20, 20, 16, 16, (3, 3))
    x[0, 5, 5] = np.nan
    with kernels.use(conv2d=rung):
        y = kernels.conv2d_bias(x, w, np.zeros(16, np.float32), relu=True)
    assert np.isnan(y[0, 5, 5]).all()


def test_bias_of_the_wrong_shape():
    x, w, _, _ = case(1, 12, 12, 16, 16, (3, 3))
    with pytest.raises(ValueError, match="one number for each of the 16 outputs"):
        kernels.conv2d_bias(x, w, np.zeros(3, np.float32))


def test_fft_is_chosen_for_large_kernels():
    x, w, g, arguments = case(1, 128, 128, 1, 4, (31, 31))
    assert {e.chosen for e in explain_all(x, w, g, arguments)} == {"fft"}
    refused = explain_all(*case(1, 64, 64, 1, 4, (31, 31), stride=2))[0].refused["fft"]
    assert refused.startswith("stride 1 only")
    assert "from 7x7 on" in explain_all(*case(1, 64, 64, 16, 16, (3, 3)))[0].refused["fft"]


def test_results_of_two_calls_and_two_threads_do_not_share_memory():
    """Workspaces are used again; what they gave is kept."""
    import concurrent.futures

    some = [case(2, 18, 20, c, o, (3, 3), seed) for seed, (c, o) in enumerate([(16, 24), (3, 40)])]
    for rung in ("direct", "winograd", "scatter", "fft"):
        exact = [three(rung, *one) for one in some]
        first = three(rung, *some[0])
        second = three(rung, *some[1])
        for a in first:
            assert not any(np.shares_memory(a, b) for b in second)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda i: three(rung, *some[i % 2]), range(24)))  # noqa: B023
        for i, got in enumerate(results):
            for a, b in zip(got, exact[i % 2], strict=True):
                np.testing.assert_array_equal(a, b)


OPS = {op.name: op for op in (conv2d, conv2d_input_grad, conv2d_weight_grad)}
# Bytes besides the result: for each thread; in all, where a copy with its padding comes on top.
EACH = {"direct": 2**17, "winograd": 2**19, "scatter": 2**18, "depthwise": 2**18}
COPIES = dict.fromkeys(["im2col", "flipped", "shifts"], 5 * 2**18)
ROOM = {**EACH, **COPIES, "fft": 5 * fft.BYTES // 2}


@pytest.mark.parametrize("name, rung", [
    (name, rung) for name, op in OPS.items() for rung in op.rungs if rung in ROOM])
def test_a_call_holds_its_result_and_a_bounded_workspace(name, rung):
    """In an image and its gradients of 1, 4 and 16 times as many pixels."""
    for n in (1, 4, 16) if rung != "fft" else (4,):
        c, groups = (32, 32) if rung in ("shifts", "depthwise") else (8, 1)
        x, w, g, arguments = case(n, 96, 96, c, 32, (3, 3), padding=1, groups=groups)
        first = {"conv2d": (x, w), "conv2d_input_grad": (g, w, x.shape),
                 "conv2d_weight_grad": (g, x, w.shape)}[name]
        result, peak = peak_of(OPS[name].rungs[rung], *OPS[name].contract(*first, **arguments))
        room = ROOM[rung] * (threads() if rung in EACH else 1)
        if rung in COPIES:
            room += (g if rung == "flipped" else x).nbytes * 98**2 // 96**2
        assert peak <= result.nbytes + room


@st.composite
def cases_3x3(draw):
    side = st.tuples(st.integers(0, 5), st.integers(0, 5))
    limits = [(0, 3), (3, 19), (3, 19), (0, 35), (0, 35)]
    n, h, w, c, o = (draw(st.integers(*between)) for between in limits)
    padding = draw(st.tuples(side, side))
    return case(n, h, w, c, o, (3, 3), draw(st.integers(0, 99)), padding=padding)


@settings(max_examples=150, deadline=None)
@given(cases_3x3(), st.sampled_from([(6, 6), (6, 12), (24, 48)]))
def test_winograd_equals_the_exact_result(case, tiles):
    with pytest.MonkeyPatch.context() as patch:  # blocks of few tiles, of many
        patch.setattr(winograd, "FEWEST", tiles[0])
        patch.setattr(winograd, "MOST", tiles[1])
        patch.setattr(winograd, "_plan", winograd._plan.__wrapped__)
        check("winograd", case, 1e-5)


@pytest.mark.parametrize("channels, tolerance", [(16, 5e-6), (64, 8e-6), (256, 2e-5)])
def test_the_stated_error_of_winograd(channels, tolerance):
    check("winograd", case(4, 18, 18, channels, 16, (3, 3)), tolerance)


def test_winograd_equals_the_formula():
    x, w, g, arguments = case(1, 5, 7, 2, 3, (3, 3), padding=((2, 0), (1, 1)))
    exact = three("formula", x, w, g, arguments)
    for got, want in zip(three("winograd", x, w, g, arguments), exact):
        np.testing.assert_allclose(got, want, rtol=0, atol=4e-6 * np.abs(want).max())


def explain_all(x, w, g, arguments):
    return [
        kernels.explain(op, *args, **arguments)
        for op, args in [
            (conv2d, (x, w)),
            (conv2d_input_grad, (g, w, x.shape)),
            (conv2d_weight_grad, (g, x, w.shape)),
        ]
    ]


def test_winograd_is_chosen_where_it_is_faster():
    size = (2, 20, 20, 16, 16, (3, 3))
    assert {e.chosen for e in explain_all(*case(*size, padding=1))} == {"winograd"}
    for change in ({"stride": 2}, {"dilation": 2}):
        for explanation in explain_all(*case(*size, **change)):
            assert explanation.chosen == "direct"
            assert explanation.refused["winograd"] == "stride 1 and dilation 1 only"
    reasons = {
        (2, 20, 20, 16, 16, (3, 2)): "3x3 kernels only",
        (2, 20, 20, 8, 8, (3, 3)): "8 to 8 channels: the transforms cost more",
        (1, 14, 14, 64, 64, (3, 3)): f"9 tiles of 4x4 pixels, fewer than {24 if lanes() == 16 else 16}",
    }
    for size, reason in reasons.items():
        assert reason in explain_all(*case(*size))[0].refused["winograd"]
    x, w, _, _ = case(2, 20, 20, 16, 16, (3, 3))
    assert kernels.explain(conv2d, x.astype(float), w.astype(float)).chosen == "im2col"


@pytest.mark.parametrize("c, o, groups", [
    (70, 40, 1), (35, 19, 1), (33, 64, 1), (96, 80, 2), (12, 12, 4)
])
def test_deep_kernels_are_packed_as_they_are(c, o, groups):
    """More inputs than are packed at a time, panels that are not full, groups that share one."""
    arguments = case(2, 6, 9, c, o, (3, 3), padding=1, groups=groups)
    exact = three("im2col", *arguments)
    for name in ("direct",) + ("winograd",) * (groups == 1):
        for got, want in zip(three(name, *arguments), exact):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_results_do_not_depend_on_what_memory_held():
    """Not even NaN in it."""
    def full(shape, dtype=float):
        return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 0, dtype)

    for name, module in (("direct", direct), ("winograd", winograd), ("scatter", scatter)):
        arguments = case(3, 11, 10, 5, 19, (3, 3), padding=1)
        exact = three(name, *arguments)
        with pytest.MonkeyPatch.context() as patch:
            fake = type("FakeNumPy", (), {"__getattr__": lambda _, key: getattr(np, key)})()
            fake.empty = full
            patch.setattr(module, "np", fake)
            patch.setattr(kernels.memory, "empty", lambda shape, *_: full(shape, np.float32))
            patch.setattr(module, "workspace", lambda name, size: full(size, np.float32))
            for got, want in zip(three(name, *arguments), exact):
                np.testing.assert_array_equal(got, want)


def test_direct_is_chosen_where_it_is_faster():
    x, w, g, arguments = case(2, 40, 40, 16, 16, (3, 3), stride=2)
    assert {e.chosen for e in explain_all(x, w, g, arguments)} == {"direct"}
    refused = kernels.explain(conv2d, x.astype(np.float64), w.astype(np.float64)).refused
    assert refused["direct"] == "float32 only"
    assert kernels.explain(conv2d, x, w[:, :, :8], groups=2).chosen == "direct"
    refused = kernels.explain(conv2d, x[:1, :9, :9], w).refused
    assert "fewer than 131,072 multiplications" in refused["direct"]
    refused = kernels.explain(conv2d, x, w[..., :1]).refused
    assert "1 columns fill a part" in refused["direct"]


def guard(rung):
    """Run in a process of its own: every array ends, then begins, at memory that cannot be read."""
    rng = np.random.default_rng(1)
    module = {"direct": direct, "winograd": winograd, "scatter": scatter}[rung]
    three(rung, *case(1, 9, 9, 8, 16, (3, 3)))  # compiled now: with NumPy itself
    for _ in range(60):
        kernel, stride, dilation = (3, 3), 1, (1, 1)
        if rung == "direct":
            kernel, stride = tuple(rng.integers(1, 4, 2)), tuple(map(int, rng.integers(1, 3, 2)))
            dilation = tuple(map(int, rng.integers(1, 3, 2)))
        if rung == "scatter":
            kernel, stride = tuple(rng.integers(1, 7, 2)), tuple(map(int, rng.integers(1, 4, 2)))
        h, w = (int(rng.integers(1 + (k - 1) * d, 14 + k * d)) for k, d in zip(kernel, dilation))
        arguments = {"stride": stride, "padding": int(rng.integers(0, 3)), "dilation": dilation}
        groups = int(rng.integers(1, 4)) if rung == "direct" else 1
        n, c, o = (int(rng.integers(1, most)) for most in (3, 20, 40))
        c, o, arguments["groups"] = c * groups, o * groups, groups
        x, w, g, _ = case(n, h, w, c, o, kernel, **arguments)
        for at_end in (True, False):
            with guarded_modules(module, memory, at_end=at_end):
                safe = [guarded(a, at_end) for a in (x, w, g)]
                three(rung, *safe, arguments)
                if rung != "scatter":
                    b = guarded(np.ones(o, np.float32), at_end)
                    args = conv2d.contract(*safe[:2], **arguments)
                    conv2d.rungs[rung](*args, b, True)
    print("untouched")


def in_a_process(code):
    here = pathlib.Path(__file__).parent
    paths = [here, here.parent, here.parent.parent, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", f"import test_kernels_direct as t; {code}"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages need Linux")
@pytest.mark.parametrize("rung", CONVOLUTIONS)
def test_no_access_outside_of_the_arrays(rung):
    result = in_a_process(f"t.guard({rung!r})")
    assert result.stdout.strip() == "untouched", (result.returncode, result.stderr)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages need Linux")
def test_guard_pages_catch_what_they_should():
    result = in_a_process(
        "import ctypes; a = t.guarded(t.np.ones(5)); ctypes.memset(a.ctypes.data, 0, 41)"
    )
    assert result.returncode < 0  # killed by a signal
