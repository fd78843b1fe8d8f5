"""Every op, first and second derivative, against finite differences in float64.

Each case draws a function and its inputs, away from kinks (those have tests of their own in
test_ops_kinks.py), in all sorts of shapes, of size zero too; `laid_out` then hands the op views
that are transposed, strided or reversed. The last tests fail for an op without a case.
"""

import types

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import kernels
import minideep
from kernels import backend
from kernels.window import window
from minideep import ops
from minideep.ops import elementwise
from minideep.autograd import Op
from minideep.device import current_device
from minideep.mode import mode
from minideep.ops import conv as conv_ops

CASES = {}
NO_DERIVATIVE = {"argmax": "integers"}


def case(*names):
    def add(function):
        for name in names:
            op = getattr(conv_ops, name, getattr(ops, name, None))
            CASES[name] = types.SimpleNamespace(draw=function, op=op)
        return function
    return add


# ------------------------------------------------------------------------------------- generators

def shape(draw, low=0, high=3, smallest=0, largest=3):
    return tuple(draw(st.lists(st.integers(smallest, largest), min_size=low, max_size=high)))


def values(draw, shape, kind="any"):
    """any: normal; positive: in [0.5, 2]; spread: far from one another, from 0 and from ties."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    n = int(np.prod(shape))
    if kind == "positive":
        return rng.uniform(0.5, 2.0, shape)
    if kind == "spread":
        return (0.37 * (rng.permutation(n) - n / 2 + 0.25)).reshape(shape)
    return rng.standard_normal(shape)


def broadcastable(draw, number=2):
    shapes = hnp.mutually_broadcastable_shapes(
        num_shapes=number, min_dims=0, max_dims=3, min_side=0, max_side=3)
    return draw(shapes).input_shapes


def an_axis(draw, ndim, none=True):
    one = st.integers(-ndim, ndim - 1)
    several = st.lists(st.integers(0, ndim - 1), unique=True, max_size=ndim).map(tuple)
    return draw((st.none() | one | several) if none else one) if ndim else None


def here(value):
    """An index, or whatever else an op takes as it is, with its arrays on the current device."""
    if isinstance(value, tuple):
        return tuple(map(here, value))
    if isinstance(value, minideep.Tensor):
        return value.to(current_device())
    return backend.to_device(value, current_device()) if type(value) is np.ndarray else value


def laid_out(draw, f, arrays):
    """The same function of the same numbers, that reaches them through views."""
    bases, views = [], []
    for a in arrays:
        layout = draw(st.sampled_from(["plain", "transposed", "strided", "reversed"]))
        if a.ndim == 0 or layout == "plain":
            base, view = a, lambda t: t
        elif layout == "transposed":
            base, view = a.T.copy(), ops.transpose
        elif layout == "strided":
            base = np.repeat(a, 2, axis=-1)
            view = lambda t: t[..., ::2]  # noqa: E731
        else:
            base, view = a[::-1].copy(), lambda t: t[::-1]
        bases.append(base)
        views.append(view)
    return lambda *ts: f(*[view(t) for view, t in zip(views, ts)]), bases


# ------------------------------------------------------------------------------------ elementwise

UNARY = dict(
    neg="any", square="any", identity="any", exp="any", log="positive", log1p="positive",
    sqrt="positive", sin="any", cos="any", erf="any", abs="spread", sign="spread", tanh="any",
    sigmoid="any", relu="spread", softplus="any", leaky_relu="spread", elu="spread", gelu="any",
    silu="any", hard_sigmoid="spread", hard_swish="spread")


def _unary(name, kind):
    @case(name)
    def draw_case(draw):
        return getattr(ops, name), [values(draw, shape(draw), kind)]


for _name, _kind in UNARY.items():
    _unary(_name, _kind)


@case("add", "sub", "mul")
def _(draw, op):
    return op, [values(draw, s) for s in broadcastable(draw)]


@case("div")
def _(draw):
    a, b = broadcastable(draw)
    return ops.div, [values(draw, a), values(draw, b, "positive")]


@case("power")
def _(draw):
    a, b = broadcastable(draw)
    exponent = draw(st.sampled_from([None, -2, -0.5, 0, 1, 2, 3]))
    if exponent is not None:
        kind = "spread" if isinstance(exponent, int) else "positive"
        return lambda x: x ** exponent, [values(draw, a, kind)]
    return ops.power, [values(draw, a, "positive"), values(draw, b)]


@case("maximum", "minimum")
def _(draw, op):
    a, b = broadcastable(draw)
    return op, [values(draw, a, "spread"), values(draw, b, "spread") + 0.19]


@case("clip")
def _(draw):
    low, high = draw(st.sampled_from([(-0.6, 0.8), (None, 0.1), (0.1, None)]))
    return lambda x: ops.clip(x, low=low, high=high), [values(draw, shape(draw), "spread")]


@case("where")
def _(draw):
    c, a, b = broadcastable(draw, 3)
    condition = values(draw, c) > 0
    return lambda a, b: ops.where(condition, a, b), [values(draw, a), values(draw, b)]


@case("real", "imag", "conj")
def _(draw, op):
    return lambda x, y: op(x + 1j * y) * (2 - 1j), [values(draw, s) for s in broadcastable(draw)]


COMPLEX = [ops.exp, ops.log, ops.sqrt, ops.sin, ops.cos, ops.tanh, ops.sigmoid, ops.log1p, ops.abs,
           lambda z: z ** 3, lambda z: 1 / z, lambda z: z * z * (1 + 2j),
           lambda z: ops.einsum("ij,kj->ik", z, z), lambda z: z @ z.T]


@given(st.data())
@pytest.mark.parametrize("function", COMPLEX)
def test_functions_of_complex_numbers(function, data):
    x, y = (values(data.draw, (2, 3), "positive") for _ in "xy")
    minideep.gradcheck(lambda x, y: function(x + 1j * y), x, y)


@case("astype")
def _(draw):
    return lambda x: (x * x).astype("complex128").astype("float64"), [values(draw, shape(draw))]


@case("to_device")
def _(draw):
    move = elementwise._to_device  # to_device leaves out a move to where the tensor is
    return (lambda x: ops.to_device(move(x * x, device="cpu", origin=x.device), x.device),
            [values(draw, shape(draw))])


# -------------------------------------------------------------------------------------- reductions

@case("sum", "mean", "var", "logsumexp")
def _(draw, op):
    s = shape(draw, smallest=0 if op is ops.sum else 1)
    axis, keepdims = an_axis(draw, len(s)), draw(st.booleans())
    return lambda x: op(x, axis, keepdims), [values(draw, s)]


@case("std")
def _(draw):
    s = shape(draw, 1, smallest=2)
    axis = an_axis(draw, len(s), none=False)
    return lambda x: ops.std(x, axis), [values(draw, s, "spread")]


@case("max", "min")
def _(draw, op):
    s = shape(draw, smallest=1)
    axis, keepdims = an_axis(draw, len(s)), draw(st.booleans())
    return lambda x: op(x, axis, keepdims), [values(draw, s, "spread")]


@case("softmax", "log_softmax")
def _(draw, op):
    s = shape(draw, 1, smallest=1)
    axis = an_axis(draw, len(s), none=False)
    return lambda x: op(x, axis), [values(draw, s)]


@case("softmax_crossentropy")
def _(draw):
    s = shape(draw, 1, smallest=1)
    labels = np.random.default_rng(0).integers(0, s[-1], s[:-1])

    def loss(z):
        return ops.softmax_crossentropy(z, ops.to_device(minideep.tensor(labels), z.device).data)
    return loss, [values(draw, s)]


@case("sigmoid_crossentropy")
def _(draw):
    s = shape(draw)
    return ops.sigmoid_crossentropy, [values(draw, s), values(draw, s)]


@case("batch_norm", "group_norm", "layer_norm")
def _(draw, op):
    n, p, k, groups = (draw(st.integers(1, 3)) for _ in range(4))
    c = k * groups
    inputs = [values(draw, s) for s in ((n, p + 1, c), (c,), (c,))]
    if op is ops.group_norm:
        return lambda *a: op(*a, groups, 0.5), inputs
    return lambda *a: op(*a, 0.5)[0] if op is ops.batch_norm else op(*a, 0.5), inputs


# ------------------------------------------------------------------------------------------- shape

@case("reshape")
def _(draw):
    s = shape(draw)
    new = draw(st.permutations(s)) + [1]
    return lambda x: ops.reshape(x, shape=tuple(new)), [values(draw, s)]


@case("transpose")
def _(draw):
    s = shape(draw)
    axes = draw(st.none() | st.permutations(range(len(s))))
    axes = axes and tuple(a - len(s) if a % 2 else a for a in axes)
    return lambda x: ops.transpose(x, axes=axes), [values(draw, s)]


@case("swapaxes")
def _(draw):
    s = shape(draw, 1)
    a, b = an_axis(draw, len(s), False), an_axis(draw, len(s), False)
    return lambda x: ops.swapaxes(x, a, b), [values(draw, s)]


@case("expand_dims")
def _(draw):
    s = shape(draw)
    axis = draw(st.integers(-len(s) - 1, len(s)))
    return lambda x: ops.expand_dims(x, axis), [values(draw, s)]


@case("squeeze")
def _(draw):
    s = list(shape(draw))
    axis = draw(st.integers(0, len(s)))
    s.insert(axis, 1)
    axis = draw(st.sampled_from([None, axis, axis - len(s)]))
    return lambda x: ops.squeeze(x, axis), [values(draw, tuple(s))]


@case("broadcast_to")
def _(draw):
    a, b = broadcastable(draw)
    full = np.broadcast_shapes(a, b)
    return lambda x: ops.broadcast_to(x, shape=full), [values(draw, a)]


@case("sum_to")
def _(draw):
    a, b = broadcastable(draw)
    full = np.broadcast_shapes(a, b)
    return lambda x: ops.sum_to(x, shape=a), [values(draw, full)]


INDICES = [
    1, -1, slice(None), slice(None, None, -1), slice(1, None, 2), slice(3, 0, -2), Ellipsis, None,
    slice(2, 2), (0, 1), (slice(1, 3), -1), (Ellipsis, 0), (None, 1, None, Ellipsis),
    [0, 2, 2], np.array([[0, 1], [1, 1]]), (slice(None), [0, 0, -1]), ([0, 1], [1, 1]),
    (0, slice(None), [1, 1]), ([0, 2], slice(None), [1, 1]), np.zeros((0,), int),
    np.array([True, False, True, True]), (Ellipsis, np.array([True, False])),
    np.arange(24).reshape(4, 3, 2) % 5 == 0, (np.array([[1], [0]]), np.array([0, 2, 2])), np.int64(2),
    (slice(None), minideep.tensor([1, 1]))]


@case("getitem")
def _(draw):
    index = draw(st.sampled_from(INDICES))
    return lambda x: x[here(index)], [values(draw, (4, 3, 2))]


@case("index_add")
def _(draw):
    index = draw(st.sampled_from(INDICES))
    plain = tuple(i.numpy() if isinstance(i, minideep.Tensor) else i for i in index) if isinstance(
        index, tuple) else index
    g = values(draw, np.zeros((4, 3, 2))[plain].shape)
    return lambda g: ops.index_add(g, index=here(index), shape=(4, 3, 2)), [g]


@case("take")
def _(draw):
    s = shape(draw, 1, smallest=1)
    axis = an_axis(draw, len(s), False)
    indices = draw(hnp.arrays(int, shape(draw, 0, 2), elements=st.integers(-s[axis], s[axis] - 1)))
    return lambda x: ops.take(x, here(indices), axis), [values(draw, s)]


@case("gather")
def _(draw):
    s = shape(draw, 1, smallest=1)
    axis = an_axis(draw, len(s), False)
    other = list(s)
    other[axis] = draw(st.integers(0, 4))
    index = draw(hnp.arrays(int, tuple(other), elements=st.integers(0, s[axis] - 1)))
    return lambda x: ops.gather(x, here(index), axis), [values(draw, s)]


@case("scatter")
def _(draw):
    s = shape(draw, 1)
    axis, length = an_axis(draw, len(s), False), draw(st.integers(1, 4))
    index = draw(hnp.arrays(int, s, elements=st.integers(0, length - 1)))
    return lambda x: ops.scatter(x, here(index), axis, length), [values(draw, s)]


@case("flip")
def _(draw):
    s = shape(draw, 1)
    axis = an_axis(draw, len(s), False)
    return lambda x: ops.flip(x, axis), [values(draw, s)]


@case("concatenate")
def _(draw):
    s = list(shape(draw, 1))
    axis = an_axis(draw, len(s), False)
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        s[axis] = draw(st.integers(0, 3))
        arrays.append(values(draw, tuple(s)))
    return lambda *xs: ops.concatenate(xs, axis), arrays


@case("stack")
def _(draw):
    s = shape(draw)
    axis = draw(st.integers(-len(s) - 1, len(s)))
    return lambda *xs: ops.stack(xs, axis), [values(draw, s) for _ in range(draw(st.integers(1, 3)))]


@case("split")
def _(draw):
    s = list(shape(draw, 1))
    axis, parts = an_axis(draw, len(s), False), draw(st.sampled_from([1, 2, 3, [1], [0, 2], []]))
    s[axis] = 6 if isinstance(parts, int) else 3
    return lambda x: ops.split(x, parts, axis), [values(draw, tuple(s))]


@case("pad")
def _(draw):
    s = shape(draw, 1)
    width = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in s)
    value = draw(st.sampled_from([0.0, 1.5]))
    return lambda x: ops.pad(x, width=width, value=value), [values(draw, s)]


# ------------------------------------------------------------------------------------------ linear

@case("matmul")
def _(draw):
    shapes = draw(hnp.mutually_broadcastable_shapes(
        signature=np.matmul.signature, max_dims=2,
        min_side=0, max_side=3)).input_shapes
    return ops.matmul, [values(draw, s) for s in shapes]


@case("affine")
def _(draw):
    n, i, k = (draw(st.integers(0, 3)) for _ in range(3))
    steps = draw(st.sampled_from([(), (1,), (2,)]))
    return ops.affine, [values(draw, s) for s in ((n, *steps, i), (i, k), (k,))]


EINSUMS = ["ij,jk->ik", "ij->ji", "ij->", "ij->j", "ij,ij->i", "ij,kj", "bij,bjk->bik", "i,j->ij",
           "ijk,j->ki", "ij,jk,kl->il", "...i,ij->...j", "...i,...i->...", "ij,k->j", ",ij->i"]


@case("einsum")
def _(draw):
    subscripts = draw(st.sampled_from(EINSUMS))
    sizes = {c: draw(st.integers(1, 3)) for c in "ijklb"}
    shapes = []
    for term in subscripts.split("->")[0].split(","):
        lead = shape(draw, 1, 1) if "..." in term and not shapes else ()
        lead = shapes[0][:-1] if "..." in term and shapes else lead
        shapes.append((*lead, *(sizes[c] for c in term if c != ".")))
    return lambda *xs: ops.einsum(subscripts, *xs), [values(draw, s) for s in shapes]


def _axes_of_image(draw):
    return draw(st.sampled_from([(-2, -1), (0, 1), (1, 2), (2, 0), (-1, -3)]))


@case("rfft2")
def _(draw):
    axes = _axes_of_image(draw)
    s = shape(draw, 3, smallest=1, largest=4)
    return lambda x: ops.rfft2(x, axes=axes), [values(draw, s)]


@case("irfft2")
def _(draw):
    axes = _axes_of_image(draw)
    s = list(shape(draw, 3, smallest=1, largest=4))
    size = s[axes[0]], s[axes[1]]
    s[axes[1]] = size[1] // 2 + 1
    return (lambda x, y: ops.irfft2(x + 1j * y, shape=size, axes=axes),
            [values(draw, tuple(s)), values(draw, tuple(s))])


# ----------------------------------------------------------------------------- convolution, pooling

def pairs(draw, low, high):
    return draw(st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high)))


def paddings(draw, high):
    if draw(st.booleans()):
        return draw(st.sampled_from(["same", "valid"]))
    one = st.integers(0, high)
    return draw(one | st.tuples(one, one) | st.tuples(st.tuples(one, one), st.tuples(one, one)))


def convolution(draw):
    groups = draw(st.integers(1, 3))
    c, o = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    if groups == 3:
        c = 1  # depthwise
    options = dict(stride=pairs(draw, 1, 3), padding=paddings(draw, 2), dilation=pairs(draw, 1, 2),
                   groups=groups)
    w = draw(st.integers(1, 3)), draw(st.integers(1, 3)), c, o
    x = draw(st.integers(0, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 5)), c * groups
    try:
        size = window(x[1:3], w[:2], options["stride"], options["padding"], options["dilation"])[-1]
    except ValueError:
        assume(False)
    return x, w, (x[0], *size, o), options


@case("conv2d")
def _(draw):
    x, w, y, options = convolution(draw)
    arrays = [values(draw, x), values(draw, w)]
    if draw(st.booleans()):
        arrays.append(values(draw, y[-1:]))
    return lambda *xwb: ops.conv2d(*xwb, **options), arrays


@case("_conv2d_bias_relu")
def _(draw):
    x, w, y, options = convolution(draw)
    b = np.where(np.arange(y[-1]) % 2, 100.0, -100.0)  # far from where ReLU has no derivative
    arrays = [values(draw, x), values(draw, w), b]
    return lambda *xwb: ops.conv2d(*xwb, relu=True, **options), arrays


@case("conv2d_transpose")
def _(draw):
    x, w, y, options = convolution(draw)
    arrays = [values(draw, y), values(draw, w)]
    if draw(st.booleans()):
        arrays.append(values(draw, x[-1:]))
    return lambda *zwb: ops.conv2d_transpose(*zwb, output_size=x[1:3], **options), arrays


def pooling(draw):
    x = draw(st.integers(0, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 5)), 2
    size, stride = pairs(draw, 1, 3), draw(st.none() | st.integers(1, 3))
    smallest = min(size) if isinstance(size, tuple) else size
    padding = paddings(draw, smallest - 1)
    try:
        window(x[1:3], size if isinstance(size, tuple) else (size, size), stride or size, padding)
    except ValueError:
        assume(False)
    return x, size, stride, padding


@case("max_pool2d", "avg_pool2d")
def _(draw, op):
    x, *options = pooling(draw)
    return lambda x: op(x, *options), [values(draw, x, "spread")]


@case("global_avg_pool2d", "global_max_pool2d")
def _(draw, op):
    s = (draw(st.integers(0, 2)), *shape(draw, 3, smallest=1))
    keepdims = draw(st.booleans())
    return lambda x: op(x, keepdims), [values(draw, s, "spread")]


@case("crop")
def _(draw):
    n = draw(st.integers(0, 2))
    x = draw(st.sampled_from([1, n])), *shape(draw, 2, 2, 2, 5), draw(st.integers(1, 2))
    assume(n or x[0] == 1)
    boxes = values(draw, (n, 4), "positive") * [1, 1, 2, 2] - [0.8, 0.8, 0, 0]
    size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return lambda x, boxes: ops.crop(x, boxes, size), [values(draw, x), boxes]


@case("resize")
def _(draw):
    size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    s = (draw(st.integers(0, 2)), *shape(draw, 3, 3, 1))
    return lambda x: ops.resize(x, size), [values(draw, s)]


@case("_conv2d_weight_grad")  # the ops below are the gradients of the ones above
def _(draw):
    x, w, y, options = convolution(draw)
    return (lambda z, x: conv_ops._conv2d_weight_grad(z, x, w_shape=w, **options),
            [values(draw, y), values(draw, x)])


@case("_max_pool2d_scatter", "_avg_pool2d_grad", "_max_pool2d_pick")
def _(draw, op):
    x, size, stride, padding = pooling(draw)
    options = dict(size=size, stride=stride, padding=padding)
    y, winners = kernels.max_pool2d(values(draw, x, "spread"), **options, keep=True)
    if op is conv_ops._max_pool2d_pick:
        return lambda u: op(u, winners=here(winners), **options), [values(draw, x)]
    if op is conv_ops._max_pool2d_scatter:
        return (lambda z: op(z, winners=here(winners), x_shape=x, **options),
                [values(draw, y.shape)])
    return lambda z: op(z, x_shape=x, **options), [values(draw, y.shape)]


# --------------------------------------------------------------------------------------- recurrent

def sequence(draw, gates, states, extra=()):
    n, t, u = draw(st.integers(0, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shapes = [(n, t, gates * u), *[(n, u)] * states, (u, gates * u), *[(gates * u,) for _ in extra]]
    mask = draw(st.none() | hnp.arrays(bool, (n, t)))
    return mask, [values(draw, s) for s in shapes]


@case("rnn")
def _(draw):
    mask, arrays = sequence(draw, 1, 1)
    return lambda *xs: ops.rnn(*xs, mask=mask), arrays


@case("lstm")
def _(draw):
    mask, arrays = sequence(draw, 4, 2)
    return lambda *xs: ops.lstm(*xs, mask=mask), arrays


@case("gru")
def _(draw):
    mask, arrays = sequence(draw, 3, 1, ["rb"])
    return lambda *xs: ops.gru(*xs, mask=mask), arrays


@case("gradient_gate")
def _(draw):
    """Its way back is no derivative of its way forward; but it must itself be differentiated."""
    s = shape(draw, 1, 2, 1)
    scale, limit = draw(st.sampled_from([(1.0, None), (0.5, None), (2.0, 1e-3), (2.0, 100.0)]))

    def way_back(g):
        x = minideep.tensor(np.zeros(s), requires_grad=True)
        y = ops.gradient_gate(x, scale, limit)
        return minideep.grad(y, x, g, create_graph=True)

    return way_back, [values(draw, s, "spread")]


# ------------------------------------------------------------------------------------------- tests

def draw_case(name, draw):
    one = CASES[name]
    takes_op = one.draw.__code__.co_argcount == 2
    return one.draw(draw, one.op) if takes_op else one.draw(draw)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_first_and_second_derivative(name, data):
    f, arrays = draw_case(name, data.draw)
    f, arrays = laid_out(data.draw, f, arrays)
    minideep.gradcheck(f, *arrays, order=2)


PUBLIC = sorted(name for name, value in vars(ops).items()
                if not name.startswith("_") and not isinstance(value, types.ModuleType))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_has_a_case(name):
    assert name in CASES or name in NO_DERIVATIVE, f"minideep.ops.{name} needs a case in this file"


def ops_gone_through(monkeypatch, counts):
    """A set that takes the name of each op that is gone back through from here on with a gradient g
    for which counts(g) is true."""
    reached, pull = set(), Op.pull

    def recording(self, node, g):
        if counts(g):
            reached.add(self.name)
        return pull(self, node, g)

    monkeypatch.setattr(Op, "pull", recording)
    return reached


def test_every_op_is_reached_by_a_case(monkeypatch):
    """By what is run, not by name: the vjp of each op runs in the way back of some case."""
    reached = ops_gone_through(monkeypatch, lambda g: mode.grad)

    @settings(max_examples=5)
    @given(st.data())
    def run(data):
        f, arrays = draw_case(name, data.draw)
        inputs = [minideep.tensor(a, requires_grad=True) for a in arrays]
        ys = f(*inputs)
        terms = [(y * y).sum() for y in ([ys] if isinstance(ys, minideep.Tensor) else ys)]
        seeds = [minideep.tensor(1.0, dtype=y.dtype) for y in terms]
        minideep.grad(terms, inputs, seeds, create_graph=True, allow_unused=True)

    for name in CASES:
        run()
    ours = {op.name for op in Op.registry.values() if op.__module__.startswith("minideep.")}
    assert ours - reached == set(), "these ops need a case in this file"
