"""The Tensor class: making one, its operators and methods, and how it meets NumPy."""

import copy
import pickle

import numpy as np
import pytest

import minideep
from minideep import Tensor, tensor
from minideep.device import current_device


def test_dtypes_of_what_it_is_made_of():
    assert tensor(1.0).dtype == tensor([[1.0]]).dtype == "float32"
    assert tensor([1, 2]).dtype == "int64" and tensor([True]).dtype == bool
    assert tensor(1j).dtype == "complex64"
    assert tensor(np.ones(2)).dtype == "float64"
    assert tensor(np.ones(2), dtype="float32").dtype == "float32"
    assert tensor(tensor([1.0])).dtype == "float32"
    with pytest.raises(ValueError, match="inhomogeneous"):
        tensor([[1.0], [1.0, 2.0]])
    for no_numbers in ([None], "abc", np.array(["1"]), np.array([None])):
        with pytest.raises(ValueError, match="regular shape"):
            tensor(no_numbers)


@pytest.mark.usefixtures("on_the_cpu")
def test_tensor_copies_and_the_class_does_not():
    a = np.zeros(2)
    assert not np.shares_memory(tensor(a).data, a) and Tensor(a).data is a
    assert np.shares_memory(Tensor(a).numpy(), a)


def test_operators():
    x, y = tensor([1.0, -2.0]), tensor([3.0, 4.0])
    pairs = [(x + y, [4, 2]), (x - y, [-2, -6]), (x * y, [3, -8]), (y / x, [3, -2]), (x ** 2, [1, 4]),
             (-x, [-1, 2]), (abs(x), [1, 2]), (1 + x, [2, -1]), (1 - x, [0, 3]), (2 * x, [2, -4]),
             (2 / x, [2, -1]), (2 ** y, [8, 16]), (x @ y, -5), (x[1], -2)]
    for got, expected in pairs:
        np.testing.assert_allclose(got.numpy(), expected)
    assert [(x < y).numpy().all(), (x > y).numpy().any(), (x == x).numpy().all(),
            (x != x).numpy().any(), (x <= x).numpy().all(), (x >= y).numpy().any()] == [
                True, False, True, False, True, False]


@pytest.mark.usefixtures("on_the_cpu")
def test_numpy_arrays_on_either_side():
    x = tensor(np.ones(3), requires_grad=True)
    a = np.array([1.0, 2.0, 3.0])
    for y in (a * x, x * a, np.float64(2) * x, a @ x.reshape(3, 1)):
        assert isinstance(y, Tensor) and y.requires_grad
    assert isinstance(a > x, Tensor)
    with pytest.raises(TypeError):
        np.sqrt(x)
    with pytest.raises(TypeError, match="detach"):
        np.asarray(x)
    np.testing.assert_array_equal(np.asarray(x.detach()), np.ones(3))


def test_methods_agree_with_numpy():
    a = np.random.default_rng(0).standard_normal((2, 3, 4))
    x = tensor(a)
    for name in ("sum", "mean", "var", "max", "min"):
        np.testing.assert_allclose(getattr(x, name)(1).numpy(), getattr(a, name)(1))
        np.testing.assert_allclose(getattr(x, name)().numpy(), getattr(a, name)())
        assert getattr(x, name)(axis=(0, 2), keepdims=True).shape == (1, 3, 1)
    assert x.argmax().item() == a.argmax() and x.argmax(1).shape == (2, 4)
    assert x.reshape(6, 4).shape == x.reshape((6, 4)).shape == (6, 4)
    assert x.reshape(-1).shape == (24,) and x.T.shape == (4, 3, 2)
    assert x.transpose(0, 2, 1).shape == x.transpose((0, 2, 1)).shape == (2, 4, 3)
    assert x.transpose().shape == (4, 3, 2) and x[0, 0].transpose(0).shape == (4,)
    assert (len(x), x.ndim, x.size, x.device) == (2, 3, 24, current_device())
    assert [part.shape for part in x] == [(3, 4)] * 2


def test_numbers_out():
    assert float(tensor(2.5)) == 2.5 and int(tensor([3])) == 3 and tensor([[4.0]]).item() == 4.0
    assert bool(tensor(1.0)) and not bool(tensor(0.0))
    assert f"{tensor([2.5]):.3f}" == "2.500"
    assert f"{tensor(2.0, device='cpu')}" == "tensor(2., dtype=float32)"
    with pytest.raises(ValueError):
        bool(tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="no dimension"):
        len(tensor(1.0))


def test_no_change_in_place():
    x = tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="ops.where"):
        x[0] = 3.0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_graphs_and_models(again):
    y = tensor([1.0, 2.0], requires_grad=True) * 3.0
    twin = again(y)
    twin.sum().backward()
    y.sum().backward()  # its graph is another one, and still whole
    cell = again(minideep.layers.LSTMCell(2))
    assert cell.activation is minideep.ops.tanh and cell.fuses(training=True)


def test_it_can_be_a_key_and_says_what_it_is():
    x = tensor([1.0, 2.0], requires_grad=True, device="cpu")
    assert {x: 1}[x] == 1
    assert repr(x) == "tensor([1., 2.], dtype=float32, requires_grad=True)"
    assert "node=mul" in repr(x * 2.0)


def test_booleans_join():
    x = minideep.tensor([-1.0, 0.5, 2.0])
    np.testing.assert_array_equal(((x > 0) & (x < 1)).numpy(), [False, True, False])
    np.testing.assert_array_equal(((x < 0) | ~(x < 1)).numpy(), [True, False, True])


def test_a_list_that_was_an_index_and_has_changed_is_reported():
    x, index = minideep.tensor([1.0, 2.0, 3.0], requires_grad=True), [0, 1]
    y = (x[index] * 2).sum()
    index[0] = 2
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
