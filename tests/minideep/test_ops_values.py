"""Values and dtypes of every op against NumPy, SciPy and OpenCV's rule, and the gradients at ties
and kinks by the documented rules."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.special as special

import minideep
from minideep import ops

RNG = np.random.default_rng(0)
X, P = RNG.standard_normal((3, 4)), RNG.uniform(0.2, 2.0, (3, 4))
ROW, COLUMN = RNG.standard_normal(4), RNG.standard_normal((3, 1))


def sigmoid(x):
    return special.expit(x)


PAIRS = [  # ours, the oracle, inputs
    (ops.add, np.add, [X, ROW]), (ops.sub, np.subtract, [X, COLUMN]),
    (ops.mul, np.multiply, [ROW, COLUMN]), (ops.div, np.divide, [X, P]),
    (ops.power, np.power, [P, ROW]), (ops.neg, np.negative, [X]), (ops.square, np.square, [X]),
    (ops.identity, np.array, [X]), (ops.exp, np.exp, [X]), (ops.log, np.log, [P]),
    (ops.log1p, np.log1p, [P]), (ops.sqrt, np.sqrt, [P]), (ops.sin, np.sin, [X]),
    (ops.cos, np.cos, [X]), (ops.erf, special.erf, [X]), (ops.abs, np.abs, [X]),
    (ops.sign, np.sign, [X]), (ops.maximum, np.maximum, [X, ROW]),
    (ops.minimum, np.minimum, [X, COLUMN]), (ops.tanh, np.tanh, [X]), (ops.sigmoid, sigmoid, [X]),
    (ops.relu, lambda x: x * (x > 0), [X]), (ops.softplus, lambda x: np.log1p(np.exp(x)), [X]),
    (ops.leaky_relu, lambda x: np.where(x > 0, x, 0.2 * x), [X]),
    (ops.elu, lambda x: np.where(x > 0, x, np.expm1(x)), [X]),
    (ops.gelu, lambda x: x * special.ndtr(x), [X]), (ops.silu, lambda x: x * sigmoid(x), [X]),
    (ops.hard_sigmoid, lambda x: np.clip(x + 3, 0, 6) / 6, [4 * X]),
    (ops.hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6, [4 * X]),
    (lambda x: ops.clip(x, low=-0.5, high=0.4), lambda x: np.clip(x, -0.5, 0.4), [X]),
    (lambda a, b: ops.where(X > 0, a, b), lambda a, b: np.where(X > 0, a, b), [ROW, COLUMN]),
    (lambda x: ops.softmax(x, 0), lambda x: special.softmax(x, 0), [X]),
    (ops.log_softmax, lambda x: special.log_softmax(x, -1), [X]),
    (lambda x: ops.logsumexp(x, (0, 1)), special.logsumexp, [X]),
    (lambda x: ops.var(x, 1), lambda x: x.var(1), [X]), (ops.std, np.std, [X]),
    (lambda x: x.mean(-1, keepdims=True), lambda x: x.mean(-1, keepdims=True), [X]),
    (lambda x: ops.sum(x, ()), lambda x: x, [X]), (ops.max, np.max, [X]), (ops.min, np.min, [X]),
    (lambda x: ops.swapaxes(x, 0, -1), np.transpose, [X]),
    (lambda x: ops.flip(x, 0), lambda x: x[::-1], [X]),
    (lambda *xs: ops.concatenate(xs, -1), lambda *xs: np.concatenate(xs, -1), [X, COLUMN]),
    (lambda *xs: ops.stack(xs, -1), lambda *xs: np.stack(xs, -1), [X, P]),
    (lambda x: ops.split(x, [1, 3], 1)[1], lambda x: np.split(x, [1, 3], 1)[1], [X]),
    (lambda x: ops.pad(x, width=((1, 0), (0, 2)), value=3.0),
     lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=3.0), [X]),
    (lambda x: ops.take(x, [2, 0, 2], 1), lambda x: np.take(x, [2, 0, 2], 1), [X]),
    (lambda x: ops.gather(x, minideep.tensor(np.argsort(X, 1)), 1),
     lambda x: np.take_along_axis(x, np.argsort(X, 1), 1), [X]),
    (ops.matmul, np.matmul, [X, X.T.copy()]), (ops.matmul, np.matmul, [COLUMN[:, 0], X]),
    (lambda a, b: ops.einsum("ij,j->i", a, b), lambda a, b: a @ b, [X, ROW]),
]


@pytest.mark.parametrize("number", range(len(PAIRS)))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values(number, dtype):
    ours, oracle, arrays = PAIRS[number]
    arrays = [a.astype(dtype) for a in arrays]
    copies = [a.copy() for a in arrays]
    y = ours(*map(minideep.tensor, arrays))
    assert y.dtype == dtype
    np.testing.assert_allclose(y.numpy(), oracle(*arrays), rtol=1e-12 if dtype == "float64" else 1e-5,
                               atol=1e-12 if dtype == "float64" else 1e-6)
    for a, b in zip(arrays, copies):
        np.testing.assert_array_equal(a, b)


def test_fourier():
    x = RNG.standard_normal((2, 5, 6))
    y = ops.rfft2(minideep.tensor(x))
    np.testing.assert_allclose(y.numpy(), np.fft.fft2(x)[..., :4], atol=1e-12)
    np.testing.assert_allclose(ops.irfft2(y, shape=(5, 6)).numpy(), x, atol=1e-12)
    single = ops.rfft2(minideep.tensor(x.astype("float32")))
    assert single.dtype == "complex64" and ops.irfft2(single, shape=(5, 6)).dtype == "float32"


def test_crop_and_resize_by_interpolation():
    x = RNG.standard_normal((1, 6, 7, 1))
    box, (oh, ow) = (0.7, -1.3, 4.4, 6.1), (5, 3)
    i, j = np.mgrid[:oh, :ow] + 0.5
    at = [box[1] + i * box[3] / oh - 0.5, box[0] + j * box[2] / ow - 0.5]
    expected = scipy.ndimage.map_coordinates(np.pad(x[0, :, :, 0], 3), [a + 3 for a in at], order=1)
    y = ops.crop(minideep.tensor(x), minideep.tensor([box], dtype="float64"), (oh, ow))
    np.testing.assert_allclose(y.numpy()[0, :, :, 0], expected, atol=1e-12)
    i, j = np.mgrid[:9, :4] + 0.5
    at = [i * 6 / 9 - 0.5, j * 7 / 4 - 0.5]
    expected = scipy.ndimage.map_coordinates(x[0, :, :, 0], at, order=1, mode="nearest")
    np.testing.assert_allclose(ops.resize(minideep.tensor(x), (9, 4)).numpy()[0, :, :, 0], expected,
                               atol=1e-12)
    whole = minideep.tensor(np.arange(4).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(ops.resize(whole, (4, 4)).numpy()[0, :, 0, 0], [0, 0.5, 1.5, 2])


# ------------------------------------------------------------------------------------------ dtypes

@pytest.mark.parametrize("scalar", [
    2, 0.5, True, np.sqrt(0.5), np.float64(3), np.float32(3), np.int64(2), np.array(0.5)])
def test_a_scalar_never_promotes(scalar):
    x = minideep.tensor([1.0, 2.0], requires_grad=True)
    ys = [x + scalar, scalar * x, x - scalar, scalar / x, x / scalar, x ** scalar, scalar ** x,
          ops.maximum(x, scalar), ops.where(x > 1, x, scalar), ops.where([True, False], scalar, x)]
    for y in ys:
        assert y.dtype == "float32"
        x.grad = None
        y.sum().backward()
        assert x.grad.dtype == "float32"


def test_only_a_float64_input_makes_float64():
    x = minideep.tensor([1, 2, 3])
    assert x.dtype == "int64"
    for y in (x / 2, x / x, ops.sqrt(x), x * 0.5, x.mean(), ops.exp(x), ops.sigmoid(x), x ** 0.5):
        assert y.dtype == "float32"
    assert (x * minideep.tensor([1.0])).dtype == "float32"
    assert (x * minideep.tensor([1.0], dtype="float64")).dtype == "float64"
    assert (x + x).dtype == x.sum().dtype == "int64"
    assert minideep.tensor([1.0]).astype("float64").dtype == "float64"
    assert (x > 1).dtype == bool and (x[0] > 0).data.ndim == 0
    assert ops.where(x > 1, 0.5, x).numpy().tolist() == [1.0, 0.5, 0.5]
    assert ops.add(1.0, 2.0).item() == 3.0
    assert ops.maximum(minideep.tensor([True]), minideep.tensor([False])).dtype == bool


# ---------------------------------------------------------------------------------- ties and kinks

def slope(f, *values):
    x = minideep.tensor(np.array(values), requires_grad=True)
    return minideep.grad(f(x).sum(), x).numpy().tolist()


def test_ties_share_equally():
    assert slope(ops.max, 2.0, 1.0, 2.0) == slope(ops.min, 1.0, 2.0, 1.0) == [0.5, 0, 0.5]
    assert slope(lambda x: ops.maximum(x, 1.0), 0.0, 1.0, 2.0) == [0, 0.5, 1]
    assert slope(lambda x: ops.minimum(1.0, x), 0.0, 1.0, 2.0) == [1, 0.5, 0]
    assert slope(lambda x: ops.maximum(x, x), 3.0) == [1]


def test_the_first_of_a_window_wins():
    x = minideep.tensor(np.ones((1, 2, 4, 1)), requires_grad=True)
    ops.max_pool2d(x, 2).sum().backward()
    assert x.grad.numpy()[0, :, :, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


def test_kinks():
    assert slope(ops.relu, 0.0, -0.0) == [0, 0]
    assert slope(ops.abs, 0.0, -2.0) == [0, -1]
    assert slope(ops.sign, 0.0, 3.0) == [0, 0]
    assert slope(lambda x: ops.clip(x, low=0.0, high=1.0), -1.0, 0.0, 0.5, 1.0, 2.0) == [0, 1, 1, 1, 0]
    assert slope(ops.elu, 0.0) == [1]           # no kink at all
    assert slope(lambda x: ops.elu(x, 0.5), 0.0) == [0.5]
    assert slope(ops.leaky_relu, 0.0) == pytest.approx([0.2])


def test_powers_at_zero_and_below():
    assert slope(lambda x: x ** 2, 0.0, -3.0) == [0, -6]
    assert slope(lambda x: x ** 3, 0.0, -2.0) == [0, 12]
    assert slope(lambda x: x ** 1, 0.0, -2.0) == [1, 1]
    assert slope(lambda x: x ** 0, 0.0, -2.0) == [0, 0]
    assert slope(lambda x: x ** -1, -2.0) == [-0.25]
    a = minideep.tensor(np.array([0.0, 0.0, 2.0]), requires_grad=True)
    p = minideep.tensor(np.array([0.0, 2.0, 0.0]), requires_grad=True)
    ga, gp = minideep.grad((a ** p).sum(), [a, p], create_graph=True)
    assert ga.numpy().tolist() == [0, 0, 0]
    np.testing.assert_allclose(gp.numpy(), [0, 0, np.log(2)])
    mixed = minideep.grad(ga[2], p).numpy()  # d/dp (p a^(p-1)) = 1/a at p = 0
    np.testing.assert_allclose(mixed, [0, 0, 0.5])
    minideep.gradcheck(lambda a: a ** 0.0, np.array([0.0, -1.0]))
    minideep.gradcheck(lambda a: a ** 2 + a ** 3 + a ** 1, np.array([0.0, -1.0]))


def test_extremes_do_not_overflow():
    x = minideep.tensor(np.array([-1000.0, 0.0, 1000.0]), requires_grad=True)
    for f in (ops.sigmoid, ops.softplus, ops.tanh, ops.silu, ops.elu, ops.gelu, ops.log_softmax,
              ops.softmax, ops.logsumexp):
        with np.errstate(over="raise", invalid="raise"):
            y = f(x)
            assert np.isfinite(y.numpy()).all()
            assert np.isfinite(minideep.grad(y.sum(), x).numpy()).all()
    assert ops.logsumexp(minideep.tensor([np.inf, 0.0])).item() == np.inf


def test_a_condition_is_true_or_false():
    x = minideep.tensor(np.array([1.0, 2.0]), requires_grad=True)
    ops.where(minideep.tensor([5.0, 0.0]), x, 0.0).sum().backward()
    assert x.grad.numpy().tolist() == [1.0, 0.0]


# ------------------------------------------------------------------------------------------ errors

@pytest.mark.parametrize("call, message", [
    (lambda x: ops.expand_dims(x, 5), "axis 5 does not exist"),
    (lambda x: ops.flip(x, 2), "axis 2 does not exist"),
    (lambda x: ops.take(x, 0, -3), "axis -3 does not exist"),
    (lambda x: ops.sum(x, 2), "axis 2 does not exist"),
    (lambda x: ops.softmax(x, 7), "axis 7 does not exist"),
    (lambda x: ops.squeeze(x, 0), "length 3"),
    (lambda x: ops.concatenate([]), "at least one"),
    (lambda x: ops.stack([x, x[0]]), r"\(4,\)"),
    (lambda x: ops.split(x, 2), "does not split into 2"),
    (lambda x: ops.pad(x, width=((1, -1), (0, 0))), "-1"),
    (lambda x: x @ x, r"\(3, 4\) and \(3, 4\)"),
    (lambda x: ops.einsum("ij,jk->ik", x), "names 2 operands; got 1"),
    (lambda x: ops.einsum("ii", x), "a letter of its own"),
    (lambda x: ops.gather(x, np.array([0]), 0), "index of 2 dimensions"),
    (lambda x: ops.gradient_gate(x, -1.0), "scale >= 0"),
    (lambda x: x.reshape(5, 5), "reshape"),
])
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(minideep.tensor(X))
