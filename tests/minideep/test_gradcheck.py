"""gradcheck itself: does it find what is wrong, and does it say what it found?"""

import numpy as np
import pytest

import minideep
from minideep import ops
from minideep.autograd import Op, op
from minideep.gradcheck import GradientError

X = np.array([0.3, -1.2, 0.7])


@pytest.fixture
def planted(monkeypatch):
    """Ops made in a test do not stay in the registry."""
    monkeypatch.setattr(Op, "registry", dict(Op.registry))


def test_a_right_gradient_passes(planted):
    @op
    def cube(x):
        return x ** 3

    cube.vjp(x=lambda g, x: g * 3.0 * x * x)
    assert minideep.gradcheck(cube, X) is True


@pytest.mark.parametrize("wrong", [
    lambda g, x: g * 6.0 * x * x,           # a factor of 2
    lambda g, x: g * -3.0 * x * x,          # the sign
    lambda g, x: g * 3.0 * x,               # the power
    lambda g, x: g * 3.0003 * x * x,        # a hundredth of a percent
    lambda g, x: g * 0.0,                   # nothing
    lambda g, x: g * float("nan"),
    lambda g, x: g * ops.flip(3.0 * x * x, 0),
])
def test_a_wrong_first_derivative(planted, wrong):
    @op
    def cube(x):
        return x ** 3

    cube.vjp(x=wrong)
    with pytest.raises(GradientError, match="first derivative, input 0"):
        minideep.gradcheck(cube, X)


def test_a_missing_vjp(planted):
    @op
    def cube(x):
        return x ** 3

    with pytest.raises(GradientError, match="first derivative.*the gradient says 0"):
        minideep.gradcheck(cube, X)


def detached(x):
    return x.detach() if isinstance(x, minideep.Tensor) else x  # vjps get bare arrays too


@pytest.mark.parametrize("wrong", [
    lambda g, x: g * 3.0 * (2.0 * x * detached(x) - detached(x) * detached(x)) * 1.0
    - g * 3.0 * (x - detached(x)) * 4.0 * detached(x),                         # the sign
    lambda g, x: g * 3.0 * detached(x * x),                                    # cut off
    lambda g, x: detached(g) * 3.0 * x * x,                                    # cut off from g
    lambda g, x: g * 3.0 * x * detached(x),                                    # half of it
])
def test_a_first_derivative_that_is_right_and_a_second_that_is_wrong(planted, wrong):
    @op
    def cube(x):
        return x ** 3

    cube.vjp(x=wrong)

    def f(x):  # something before it and after it, so that g and x both have a past
        return ops.exp(cube(ops.sin(x)))

    assert minideep.gradcheck(f, X, order=1)
    with pytest.raises(GradientError, match="second derivative, input 0"):
        minideep.gradcheck(f, X, order=2)


def test_a_missing_conjugate(planted):
    @op
    def product(a, b):
        return a * b

    product.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)
    z = np.array([1 + 2j, -0.5 + 1j, 2 - 1j])
    with pytest.raises(GradientError, match="first derivative"):
        minideep.gradcheck(lambda x: product(x + 0j, minideep.tensor(z)), X)
    product.vjp(a=lambda g, b: g * ops.conj(b), b=lambda g, a: g * ops.conj(a))
    minideep.gradcheck(lambda x: product(x + 0j, minideep.tensor(z)), X)


def test_the_message_names_input_direction_and_both_numbers(planted):
    @op
    def product(a, b):
        return a * b

    product.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a * 2.0)
    with pytest.raises(GradientError) as caught:
        minideep.gradcheck(product, 2.0, 3.0)
    message = str(caught.value)
    assert "input 1 of shape ()" in message and "direction 0" in message
    said, found = (float(part.split()[0].rstrip(",")) for part in (
        message.split("the gradient says ")[1], message.split("finite differences say ")[1]))
    np.testing.assert_allclose(said, 2 * found, rtol=1e-6)


@pytest.mark.parametrize("f, at", [
    (ops.abs, [0.0, 1.0]),
    (ops.abs, [0.5e-5, 1.0]),
    (ops.relu, [1.0, 0.0]),
    (lambda x: ops.maximum(x, 1.0), [1.0, 5.0]),
    (lambda x: x.max(), [2.0, 2.0]),
    (lambda x: ops.clip(x, low=0.0, high=1.0), [0.5, 1.0]),
    (lambda x: ops.relu(x) ** 2, [0.0, 1.0]),           # of the second derivative only
])
def test_a_kink_is_called_a_kink(f, at):
    with pytest.raises(GradientError, match="a kink within eps"):
        minideep.gradcheck(f, np.array(at))


@pytest.mark.parametrize("f", [ops.exp, lambda x: ops.sin(30.0 * x), lambda x: x ** 3 * 100.0,
                               lambda x: ops.relu(x) ** 3, lambda x: ops.elu(x)])
def test_a_smooth_function_is_not_called_a_kink(f):
    minideep.gradcheck(f, np.array([0.0, 0.4, -1.0]), order=1)


def test_several_outputs_other_inputs_and_empty_ones():
    index = np.array([0, 2])
    minideep.gradcheck(lambda x, i: [x[i] * 2.0, ops.exp(x)], X, index)
    minideep.gradcheck(ops.exp, np.zeros((0, 3)))
    minideep.gradcheck(ops.mul, minideep.tensor([1.0, 2.0]), np.float32(3.0))
    minideep.gradcheck(lambda x: minideep.tensor(np.ones(2)), X)  # depends on nothing
    with pytest.raises(ValueError, match="floating"):
        minideep.gradcheck(lambda i: i, index)


def test_inputs_are_left_alone():
    x = minideep.tensor(X, requires_grad=True)
    minideep.gradcheck(ops.exp, x)
    np.testing.assert_array_equal(x.numpy(), X)
    assert x.grad is None
