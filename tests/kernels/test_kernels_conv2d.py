"""Convolution and its gradients: every rung against the formula, the formula against others."""

import importlib
import tracemalloc

import numpy as np
import pytest
from check_rungs import check_adjoint, check_rungs, numeric_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.conv2d.formula import literal_sum
from kernels.conv2d.im2col import fold, unfold
from kernels.window import window

im2col_module = importlib.import_module("kernels.conv2d.im2col")


@st.composite
def cases(draw, depthwise=False):
    """(x, w, g, arguments): any stride, padding, dilation, groups, also with nothing in them."""
    small = st.integers(1, 3)
    kernel = draw(st.tuples(small, small))
    stride = draw(st.one_of(small, st.tuples(small, small)))
    dilation = draw(st.one_of(small, st.tuples(small, small)))
    side = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = draw(
        st.one_of(
            st.sampled_from(["same", "valid"]), st.integers(0, 3), side, st.tuples(side, side)
        )
    )
    reach = [(k - 1) * d for k, d in zip(kernel, np.broadcast_to(dilation, 2))]
    height, width = (draw(st.integers(1 + r, 4 + r)) for r in reach)
    groups = draw(st.integers(2, 4) if depthwise else st.integers(1, 3))
    inputs = 1 if depthwise else draw(st.integers(0, 3))
    outputs = draw(st.integers(1, 2) if depthwise else st.integers(0, 3))
    n = draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((n, height, width, inputs * groups))
    w = rng.standard_normal((*kernel, inputs, outputs * groups))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    g = rng.standard_normal(conv2d(x, w, **arguments).shape)
    return x, w, g, arguments


@pytest.mark.parametrize("depthwise", [False, True])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), limit=st.sampled_from([1, 100, 1000, 2**26]))
def test_every_rung_equals_the_formula(depthwise, data, limit):
    x, w, g, arguments = data.draw(cases(depthwise))
    with pytest.MonkeyPatch.context() as patch:  # blocks of one pixel, a part of a row, rows, ...
        patch.setattr(im2col_module, "BUFFER_BYTES", limit)
        check_rungs(conv2d, x, w, **arguments)
        check_rungs(conv2d_input_grad, g, w, x.shape, **arguments)
        check_rungs(conv2d_weight_grad, g, x, w.shape, **arguments)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_three_are_contractions_of_one_form(case):
    x, w, g, arguments = case
    dx = conv2d_input_grad(g, w, x.shape, **arguments)
    dw = conv2d_weight_grad(g, x, w.shape, **arguments)
    form = (conv2d(x, w, **arguments) * g).sum()
    np.testing.assert_allclose([(dx * x).sum(), (dw * w).sum()], [form, form], atol=1e-9)


def test_formula_is_the_gradient_of_the_formula(rng=np.random.default_rng(0)):
    x, w = rng.standard_normal((1, 5, 4, 4)), rng.standard_normal((3, 2, 2, 4))
    arguments = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
    with kernels.use(
        conv2d="formula", conv2d_input_grad="formula", conv2d_weight_grad="formula"
    ):
        g = rng.standard_normal(conv2d(x, w, **arguments).shape)
        dx = conv2d_input_grad(g, w, x.shape, **arguments)
        dw = conv2d_weight_grad(g, x, w.shape, **arguments)
        by_x = numeric_gradient(lambda x: conv2d(x, w, **arguments), x, g)
        by_w = numeric_gradient(lambda w: conv2d(x, w, **arguments), w, g)
    np.testing.assert_allclose(dx, by_x, atol=1e-7)
    np.testing.assert_allclose(dw, by_w, atol=1e-7)


def test_against_scipy(rng=np.random.default_rng(1)):
    signal = pytest.importorskip("scipy.signal")
    x, w = rng.standard_normal((9, 7)), rng.standard_normal((3, 4))
    ours = conv2d(x[None, :, :, None], w[:, :, None, None])[0, :, :, 0]
    np.testing.assert_allclose(ours, signal.correlate2d(x, w, "valid"), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_against_pytorch(case):
    torch = pytest.importorskip("torch")
    x, w, g, arguments = case
    if 0 in x.shape or 0 in w.shape:
        return  # PyTorch has no convolution without channels
    _, _, stride, padding, dilation, groups = conv2d.contract(x, w, **arguments)
    (top, bottom), (left, right) = padding
    tx = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    tw = torch.from_numpy(w).permute(3, 2, 0, 1).requires_grad_()
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    ty = torch.nn.functional.conv2d(padded, tw, None, stride, 0, dilation, groups)
    dx, dw = torch.autograd.grad(ty, (tx, tw), torch.from_numpy(g).permute(0, 3, 1, 2))
    pairs = [
        (conv2d(x, w, **arguments), ty.permute(0, 2, 3, 1)),
        (conv2d_input_grad(g, w, x.shape, **arguments), dx.permute(0, 2, 3, 1)),
        (conv2d_weight_grad(g, x, w.shape, **arguments), dw.permute(2, 3, 1, 0)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("size, kernel, stride", [(5, 3, 2), (6, 3, 2), (6, 2, 1), (7, 4, 3)])
def test_same_padding_follows_keras(size, kernel, stride, rng=np.random.default_rng(2)):
    """ceil(size / stride) outputs, and the odd zero at the end."""
    x, w = rng.standard_normal((1, size, size, 1)), rng.standard_normal((kernel, kernel, 1, 1))
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    same = conv2d(x, w, stride, "same")
    assert same.shape == (1, outputs, outputs, 1)
    np.testing.assert_allclose(same, conv2d(padded, w, stride), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(*[st.integers(1, 3)] * 2, *[st.integers(0, 3)] * 2, st.integers(0, 9))
def test_literal_sum_is_the_correlation_numbered_backwards(kh, kw, extra_h, extra_w, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((kh + extra_h, kw + extra_w)), rng.standard_normal((kh, kw))
    bias = rng.standard_normal()
    printed = literal_sum(x, w, bias)
    with kernels.use(conv2d="formula"):
        correlation = conv2d(x[None, :, :, None], w[:, :, None, None])[0, :, :, 0] + bias
    np.testing.assert_allclose(printed[::-1, ::-1], correlation, rtol=1e-12)
    if printed.size > 1:  # and the mirror matters
        assert not np.allclose(printed, correlation)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_fold_is_the_adjoint_of_unfold(case):
    x, w, _, a = case
    geometry = (a["stride"], a["padding"], a["dilation"])
    patches = unfold(x, w.shape[:2], *geometry)
    other = np.random.default_rng(0).standard_normal(patches.shape)
    check_adjoint(
        lambda x: unfold(x, w.shape[:2], *geometry),
        lambda p: fold(p, x.shape, *geometry),
        x,
        other,
    )


def test_unfold_shows_the_patches():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    patches = unfold(x, (2, 2))
    assert patches.shape == (1, 2, 3, 2, 2, 1)
    np.testing.assert_array_equal(patches[0, 1, 2, :, :, 0], [[6, 7], [10, 11]])


@given(
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 50),
    st.integers(1, 5000),
)
def test_blocks_hold_every_pixel_once_and_keep_the_limit(n, oh, ow, pixel_bytes, limit):
    seen = np.zeros((n, oh, ow), int)
    sizes = [0]
    for at in im2col_module.blocks(n, oh, ow, pixel_bytes, limit):
        seen[at] += 1
        sizes.append(seen[at].size)
        rows = seen[at].reshape(-1)  # im2col writes through such a view: it must not be a copy
        assert np.shares_memory(rows, seen)
    assert (seen == 1).all()
    assert max(sizes) * pixel_bytes <= max(limit, pixel_bytes)
    assert max(sizes) == max(sizes[:2])  # the first is the largest: the buffer is made for it


@pytest.mark.parametrize("which", ["output", "input", "weight"])
def test_the_buffer_keeps_its_bound(which, monkeypatch):
    """The unfolded image would take 9 times the image; the buffer may take 64 KiB."""
    x = np.ones((2, 64, 64, 32), np.float32)
    w = np.ones((3, 3, 32, 8), np.float32)
    g = np.ones((2, 62, 62, 8), np.float32)
    monkeypatch.setattr(im2col_module, "BUFFER_BYTES", 2**16)
    calls = {
        "output": lambda: conv2d.rungs["im2col"](*conv2d.contract(x, w)),
        "input": lambda: conv2d_input_grad.rungs["im2col"](
            *conv2d_input_grad.contract(g, w, x.shape)
        ),
        "weight": lambda: conv2d_weight_grad.rungs["im2col"](
            *conv2d_weight_grad.contract(g, x, w.shape)
        ),
    }
    result_bytes = calls[which]().nbytes  # a first call, so that caches are filled
    tracemalloc.start()
    try:
        calls[which]()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    small_products = 3 * w.nbytes + 2**14  # of the weights' size, and Python's own objects
    assert peak <= result_bytes + 2**16 + small_products


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": np.ones((1, 5, 5, 3))}, "3 channels"),
        ({"x": np.ones((5, 5, 4))}, r"x must have 4 axes"),
        ({"x": [[1]]}, "numpy.asarray"),
        ({"groups": 3}, "groups=3 must divide"),
        ({"x": np.ones((1, 2, 9, 4))}, "does not fit"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"stride": 1.5}, "stride must be an integer"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"padding": "full"}, '"same", "valid"'),
        ({"dilation": (1, 2, 3)}, "dilation must be an integer or a pair"),
        ({"dilation": 3}, "does not fit"),
        ({"x": np.ones((1, 5, 5, 4), "uint8"), "w": np.ones((3, 3, 4, 2), int)}, "x uint8, w int64"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    arguments = {"x": np.ones((1, 5, 5, 4)), "w": np.ones((3, 3, 4, 2)), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        conv2d(**arguments)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_what_is_an_error_does_not_depend_on_earlier_calls(name):
    """To a dictionary 1, 1.0 and True are one key."""
    x, w = np.ones((1, 5, 5, 1)), np.ones((3, 3, 1, 2))
    wholes, floats = [1, np.int64(1), True], [1.0, np.float64(1)]
    if name != "groups":
        wholes += [(1, 1), [1, 1], (np.int64(1), 1), (True, 1)]
        floats += [(1.0, 1), (1, 1.0), [1.0, 1]]
    if name == "padding":
        wholes += [((1, 1), (1, 1)), [[1, 1], (1, np.int8(1))], ((1, True), 1)]
        floats += [((1.0, 1), (1, 1)), ((1, 1), (1, 1.0)), [[1, 1.0], [1, 1]], (1, (1, 1.0))]
    for _ in range(2):
        for value in wholes:
            normal = conv2d.contract(x, w, **{name: value})[2:]
            assert repr(normal) == repr(conv2d.contract(x, w, **{name: 1})[2:])
            if name != "groups":
                assert repr(window((5, 5), (3, 3), **{name: value})) == repr(
                    window((5, 5), (3, 3), **{name: 1}))
        for value in floats:
            with pytest.raises(ValueError, match=f"{name} must be an integer or a pair of integers"):
                conv2d(x, w, **{name: value})
            if name != "groups":
                with pytest.raises(ValueError, match="must be an integer"):
                    window((5, 5), (3, 3), **{name: value})


def test_gradient_of_the_wrong_shape():
    x, w = np.ones((1, 5, 5, 4)), np.ones((3, 3, 4, 2))
    with pytest.raises(ValueError, match=r"g must have the shape of the output, \(1, 3, 3, 2\)"):
        conv2d_input_grad(np.ones((1, 4, 3, 2)), w, x.shape)
    with pytest.raises(ValueError, match="g must have the shape of the output"):
        conv2d_weight_grad(np.ones((1, 4, 3, 2)), x, w.shape)


def test_lists_are_taken_as_pairs():
    x, w = np.ones((1, 5, 5, 1)), np.ones((2, 2, 1, 1))
    lists = conv2d(x, w, [2, 1], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(lists, conv2d(x, w, (2, 1), ((0, 1), (1, 0))))


def test_float32_of_a_long_sum(rng=np.random.default_rng(3)):
    """Error of a 3x3x256 sum in float32: below 1e-6 of the largest result in float64."""
    x = rng.standard_normal((1, 8, 8, 256))
    w = rng.standard_normal((3, 3, 256, 4))
    exact = conv2d(x, w)
    single = conv2d(x.astype(np.float32), w.astype(np.float32))
    assert single.dtype == np.float32
    assert np.abs(single - exact).max() < 1e-6 * np.abs(exact).max()
