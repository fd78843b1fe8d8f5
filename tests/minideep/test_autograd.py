"""What one asks of the way back: grad, backward, higher orders, checkpoints, modes, anomalies."""

import functools
import inspect

import numpy as np
import pytest

import minideep
from minideep import ops, random


def leaf(*values):
    return minideep.tensor(np.array(values, "float64"), requires_grad=True)


def here():
    """The line of the caller, as an anomaly would name it."""
    frame = inspect.currentframe().f_back
    return f"{__file__}:{frame.f_lineno}"


# --------------------------------------------------------------------------------------- backward

def test_order_matters():
    a = leaf(3.0)
    b = a + a
    c = b * b
    c.sum().backward()
    assert a.grad.item() == 24.0


def test_gradients_accumulate_on_leaves():
    x = leaf(1.0, 2.0)
    (x * 2.0).sum().backward()
    (x * 3.0).sum().backward()
    assert x.grad.numpy().tolist() == [5.0, 5.0]
    assert x.grad.node is None and not x.grad.requires_grad


def test_backward_of_a_leaf_and_with_a_gradient():
    x = leaf(2.0)
    x.backward()
    assert x.grad.item() == 1.0
    y = leaf(1.0, 2.0)
    (y * y).backward([1.0, 10.0])
    assert y.grad.numpy().tolist() == [2.0, 40.0]


def test_errors_of_backward():
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"shape \(2,\).*sum\(\)"):
        (x * x).backward()
    with pytest.raises(ValueError, match=r"shape \(3,\) was given for a tensor of shape \(2,\)"):
        (x * x).backward([1.0, 2.0, 3.0])
    with pytest.raises(RuntimeError, match="requires_grad=True"):
        minideep.tensor([1.0]).backward()
    with pytest.raises(TypeError, match="float32"):
        minideep.tensor([1, 2], requires_grad=True)


def test_a_broadcast_gradient_has_the_shape_and_dtype_of_its_input():
    x = minideep.tensor(np.ones((3, 1), "float32"), requires_grad=True)
    y = minideep.tensor(np.ones((2, 1, 4)), requires_grad=True)
    (x * y).sum().backward()
    assert x.grad.shape == (3, 1) and x.grad.dtype == "float32"
    assert y.grad.shape == (2, 1, 4) and y.grad.dtype == "float64"
    assert x.grad.numpy().tolist() == [[8.0]] * 3


# ------------------------------------------------------------------------------------------- grad

def test_grad_leaves_no_trace_and_answers_in_kind():
    x, y = leaf(2.0), leaf(3.0)
    z = (x * y * y).sum()
    g = minideep.grad(z, x, retain_graph=True)
    assert isinstance(g, minideep.Tensor) and g.item() == 9.0
    gs = minideep.grad(z, (x, y), retain_graph=True)
    assert isinstance(gs, list) and [g.item() for g in gs] == [9.0, 12.0]
    assert [g.item() for g in minideep.grad([z, z], [y])] == [24.0]
    assert x.grad is None and y.grad is None


def test_grad_of_something_inside():
    x = leaf(2.0)
    y = x * 3.0
    z = (y * y).sum()
    gx, gy, gz = minideep.grad(z, [x, y, z])
    assert (gx.item(), gy.item(), gz.item()) == (36.0, 12.0, 1.0)


def test_grad_of_one_input_upstream_of_another_when_both_are_used():
    x = leaf(2.0)
    y = x * x
    z = (x * y).sum()  # y is seen as an input and as a function of x
    gx, gy = minideep.grad(z, [x, y])
    assert (gx.item(), gy.item()) == (12.0, 2.0)


def test_the_same_input_twice():
    x = leaf(2.0)
    assert [g.item() for g in minideep.grad((x * x).sum(), [x, x])] == [4.0, 4.0]


def test_unused_inputs():
    x, unused = leaf(2.0), leaf(1.0)
    z = (x * x).sum()
    with pytest.raises(ValueError, match="input 1.*allow_unused"):
        minideep.grad(z, [x, unused], retain_graph=True)
    gx, gu = minideep.grad(z, [x, unused], allow_unused=True)
    assert gx.item() == 4.0 and gu is None
    with pytest.raises(ValueError, match="input 0 .*requires_grad=True"):
        minideep.grad((x * x).sum(), minideep.tensor([1.0]))
    with pytest.raises(ValueError, match="2 grad_outputs were given for 1"):
        minideep.grad([(x * x).sum()], x, [1.0, 1.0])


def test_grad_outputs():
    x = leaf(1.0, 2.0)
    g = minideep.grad([x * x, x * 3.0], x, [[1.0, 1.0], [10.0, 0.0]])
    assert g.numpy().tolist() == [32.0, 4.0]


# ----------------------------------------------------------------------------------- higher orders

def test_all_derivatives_of_x_to_the_5():
    x = leaf(1.5)
    y = x ** 5
    expected = [5 * 1.5 ** 4, 20 * 1.5 ** 3, 60 * 1.5 ** 2, 120 * 1.5, 120.0, 0.0]
    for value in expected:
        y = minideep.grad(y.sum(), x, create_graph=True)
        np.testing.assert_allclose(y.item(), value, rtol=1e-12)


def test_hessian_vector_product():
    rng = np.random.default_rng(0)
    a, v = rng.standard_normal((4, 4)), rng.standard_normal(4)
    x = leaf(*rng.standard_normal(4))
    f = ops.sin(x @ minideep.tensor(a) * x).sum()
    g = minideep.grad(f, x, create_graph=True)
    hv = minideep.grad((g * minideep.tensor(v)).sum(), x).numpy()
    step = 1e-5

    def slope(at):
        t = leaf(*at)
        return minideep.grad(ops.sin(t @ minideep.tensor(a) * t).sum(), t).numpy()

    numeric = (slope(x.numpy() + step * v) - slope(x.numpy() - step * v)) / (2 * step)
    np.testing.assert_allclose(hv, numeric, rtol=1e-6)


def test_forward_mode_by_going_back_twice():
    """J v = the gradient, for u, of u -> J'u: needs the gradient that is given to keep its graph."""
    x, v = leaf(0.5, 1.0, 2.0), np.array([1.0, -1.0, 2.0])
    y = ops.sin(x) * x.sum()
    u = leaf(0.0, 0.0, 0.0)
    back = minideep.grad(y, x, u, create_graph=True)
    jv = minideep.grad(back, u, v).numpy()
    jacobian = np.diag(np.cos(x.numpy()) * 3.5) + np.sin(x.numpy())[:, None]
    np.testing.assert_allclose(jv, jacobian @ v)


def test_backward_through_a_gradient_penalty():
    w = leaf(2.0)
    x = leaf(3.0)
    g = minideep.grad((w * x * x).sum(), x, create_graph=True)  # 2 w x
    (g * g).sum().backward()
    assert w.grad.item() == 8 * 2.0 * 9.0 and x.grad.item() == 8 * 4.0 * 3.0


# ------------------------------------------------------------------------------------------- modes

def test_switches_refuse_what_runs_in_pieces():
    def pieces():
        yield 1

    async def later():
        return 1

    for function in (pieces, later, functools.partial(pieces)):
        with pytest.raises(TypeError, match="(pieces|later).* runs after its call"):
            minideep.no_grad()(function)


def test_no_grad_and_enable_grad():
    x = leaf(1.0)
    with minideep.no_grad():
        assert not (x * 2.0).requires_grad
        with minideep.enable_grad():
            assert (x * 2.0).requires_grad
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad

    @minideep.no_grad()
    def f(x):
        return x * 2.0

    @minideep.enable_grad()
    def g(x):
        return x * 2.0

    assert not f(x).requires_grad and not f(x).requires_grad
    with minideep.no_grad():
        assert g(x).requires_grad


def test_one_switch_inside_of_itself():
    x, off = leaf(1.0), minideep.no_grad()
    with off:
        with minideep.enable_grad():
            with off:
                assert not (x * 2.0).requires_grad
            assert (x * 2.0).requires_grad
        with off:
            assert not (x * 2.0).requires_grad
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad

    @minideep.no_grad()
    def count_down(n):
        return count_down(n - 1) if n else x * 2.0

    assert not count_down(3).requires_grad and (x * 2.0).requires_grad


def test_one_switch_in_two_threads():
    """One leaves it first, inside of another switch the other."""
    import threading
    quiet, steps, seen = minideep.no_grad(), [threading.Event() for _ in range(3)], {}

    def first():
        with quiet:
            steps[0].set()
            steps[1].wait(10)
        seen["first"] = (leaf(1.0) * 2.0).requires_grad
        steps[2].set()

    def second():
        steps[0].wait(10)
        with minideep.no_grad():
            with quiet:
                steps[1].set()
                steps[2].wait(10)
            seen["second"] = (leaf(1.0) * 2.0).requires_grad

    threads = [threading.Thread(target=f) for f in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": True, "second": False}


def test_hooks_are_no_part_of_a_vjp():
    """Not those of leaves either: ops on arrays make tensors, and anomalies are told."""
    for middle in (False, True):
        w, kinds = leaf(np.ones(3)), []
        y = w * 2.0
        (y if middle else w).register_hook(lambda g: kinds.append(type(ops.relu(np.ones(3)))))
        y.sum().backward()
        assert kinds == [minideep.Tensor]
        w = leaf(np.ones(3))
        y = w * 2.0
        (y if middle else w).register_hook(lambda g: g * np.inf)
        with minideep.detect_anomaly(), pytest.raises(FloatingPointError, match="infinity in"):
            y.sum().backward()


def test_modes_are_restored_by_an_error():
    x = leaf(1.0)
    with pytest.raises(KeyError), minideep.no_grad():
        raise KeyError
    assert (x * 2.0).requires_grad


def test_detach():
    x = leaf(3.0)
    y = (x * x).detach() * x
    y.sum().backward()
    assert x.grad.item() == 9.0


# -------------------------------------------------------------------------------------- checkpoints

def block(x, w):
    for _ in range(6):
        x = ops.tanh(x * w) + x
    return x


def gradients(function, *inputs):
    y = function(*inputs)
    return [y.numpy()] + [g.numpy() for g in minideep.grad((y * y).sum(), inputs)]


def test_checkpoint_gives_the_same_values_and_gradients():
    x, w = leaf(0.5, -1.0), leaf(0.7, 0.2)
    plain = gradients(block, x, w)
    saved = gradients(lambda x, w: minideep.checkpoint(block, x, w), x, w)
    nested = gradients(lambda x, w: minideep.checkpoint(
        lambda x, w: block(minideep.checkpoint(block, x, w), w), x, w), x, w)
    for a, b in zip(plain, saved):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(gradients(lambda x, w: block(block(x, w), w), x, w), nested):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_checkpoint_with_captured_parameters():
    x, w = leaf(0.5, -1.0), leaf(0.7, 0.2)
    plain = gradients(block, x, w)
    (minideep.checkpoint(lambda x: block(x, w), x) ** 2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), plain[1])
    np.testing.assert_allclose(w.grad.numpy(), plain[2])
    x.grad = w.grad = None
    y = minideep.checkpoint(lambda x: block(x, w), x.detach())  # only the captured one needs it
    (y * y).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), plain[2])
    assert x.grad is None


def test_checkpoint_keeps_less():
    def nodes(y):
        seen, stack = set(), [y.node]
        while stack:
            node = stack.pop()
            if isinstance(node, minideep.autograd.Node) and node not in seen:
                seen.add(node)
                stack.extend(node.edges)
        return len(seen)

    x, w = leaf(0.5, -1.0), leaf(0.7, 0.2)
    assert nodes(block(x, w)) == 18
    assert nodes(minideep.checkpoint(block, x, w)) == 1


def test_checkpoint_of_second_order():
    x, w = leaf(0.5, -1.0), leaf(0.7, 0.2)
    minideep.gradcheck(lambda x, w: minideep.checkpoint(block, x, w), x, w, order=2)
    third = []
    for f in (block, lambda x, w: minideep.checkpoint(block, x, w)):
        y = f(x, w).sum()
        for _ in range(3):
            y = minideep.grad(y, x, create_graph=True).sum()
        third.append(y.item())
    np.testing.assert_allclose(third[0], third[1])


def test_checkpoint_replays_randomness():
    def dropout(x):
        return x * minideep.tensor(random.generator().random(x.shape) > 0.5, dtype="float64")

    minideep.seed(3)
    x = leaf(*np.ones(64))
    y = minideep.checkpoint(dropout, x)
    after = random.generator().random()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    minideep.seed(3)
    random.generator().random(64)
    assert random.generator().random() == after  # the way back moved nothing on


def test_checkpoint_that_captures_something_inside_a_graph_is_right_or_an_error():
    w = leaf(2.0)
    inside = w * 3.0
    y = minideep.checkpoint(lambda x: x * inside, leaf(5.0)) + inside
    try:
        y.sum().backward()
    except RuntimeError as error:
        assert "checkpoint captured" in str(error)
    else:
        assert w.grad.item() == 18.0


def test_checkpoint_returns_one_tensor():
    with pytest.raises(TypeError, match="must return one tensor, not tuple"):
        minideep.checkpoint(lambda x: (x, x), minideep.tensor([1.0], requires_grad=True))


def test_checkpoint_under_no_grad():
    with minideep.no_grad():
        assert not minideep.checkpoint(block, leaf(0.5), leaf(1.0)).requires_grad


# ---------------------------------------------------------------------------------------- anomalies

def test_an_anomaly_forward():
    x = leaf(-1.0, 2.0)
    with np.errstate(all="ignore"), minideep.detect_anomaly():
        with pytest.raises(FloatingPointError) as caught:
            line = here(); ops.log(x)  # noqa: E702
    assert "NaN in the output of log" in str(caught.value) and line in str(caught.value)


def test_an_anomaly_backward_names_the_forward_line():
    x = leaf(0.0, 4.0)
    with np.errstate(all="ignore"), minideep.detect_anomaly():
        line = here(); y = ops.sqrt(x)  # noqa: E702
        z = (y * 2.0).sum()
        with pytest.raises(FloatingPointError) as caught:
            z.backward()
    assert "infinity in the gradient through sqrt" in str(caught.value)
    assert line in str(caught.value)


def test_an_anomaly_in_the_second_derivative():
    x = leaf(0.0, 4.0)
    with np.errstate(all="ignore"), minideep.detect_anomaly():
        line = here(); y = x ** 1.5  # noqa: E702
        g = minideep.grad(y.sum(), x, create_graph=True)
        with pytest.raises(FloatingPointError) as caught:
            g.sum().backward()
    assert line in str(caught.value) and "gradient through" in str(caught.value)


def test_an_anomaly_whose_line_is_unknown_says_so():
    x = leaf(0.0)
    y = ops.sqrt(x).sum()
    with np.errstate(all="ignore"), minideep.detect_anomaly():
        with pytest.raises(FloatingPointError, match="run the forward pass under detect_anomaly"):
            y.backward()


def test_an_input_that_was_bad_already_is_named():
    with minideep.detect_anomaly():
        with pytest.raises(FloatingPointError, match="mul, whose input b was already not finite"):
            leaf(1.0) * leaf(np.inf)


def test_nothing_is_checked_outside():
    with np.errstate(all="ignore"):
        assert np.isnan(ops.log(leaf(-1.0)).item())
    with minideep.detect_anomaly():
        assert ops.log(leaf(1.0)).item() == 0.0
