"""Optimizers: against loops, PyTorch and Keras over 20 steps; clipping, averages, state, errors."""

import os

import numpy as np
import pytest

import minideep
from minideep import optimizers

os.environ.setdefault("KERAS_BACKEND", "torch")

SHAPES = [(3, 4), (4,), (2, 2, 3)]


def _start(seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(s).astype("float32") for s in SHAPES]
    gradients = [[rng.standard_normal(s).astype("float32") * 3 for s in SHAPES] for _ in range(20)]
    return weights, gradients


def _run(optimizer, weights, gradients):
    parameters = [minideep.tensor(w, requires_grad=True) for w in weights]
    arrays = [p.data for p in parameters]
    for step in gradients:
        for p, g in zip(parameters, step):
            p.grad = None if g is None else minideep.tensor(g)
        optimizer.step(parameters)
    assert all(p.data is a for p, a in zip(parameters, arrays)), "weights must change in place"
    assert all(p.dtype == np.float32 for p in parameters)
    return parameters


CASES = [
    ("SGD", {}), ("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.8, "nesterov": True}),
    ("SGD", {"learning_rate": 0.1, "clipvalue": 0.5}), ("SGD", {"learning_rate": 0.1, "clipnorm": 1.0}),
    ("SGD", {"learning_rate": 0.1, "global_clipnorm": 1.0}), ("SGD", {"weight_decay": 0.1}),
    ("RMSprop", {}), ("RMSprop", {"rho": 0.8, "momentum": 0.9}), ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.01}),
    ("Adam", {}), ("Adam", {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}),
    ("Adam", {"global_clipnorm": 0.5, "weight_decay": 0.01}), ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.1, "learning_rate": 0.01, "clipnorm": 2.0}),
    ("Adam", {"use_ema": True, "ema_momentum": 0.9}),
]


@pytest.mark.parametrize("name, options", CASES)
def test_20_steps_as_in_keras(name, options):
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    weights, gradients = _start()
    ours = getattr(optimizers, name)(**options)
    result = _run(ours, weights, gradients)
    variables = [keras.Variable(w) for w in weights]
    peer = getattr(keras.optimizers, name)(**options)
    for step in gradients:
        peer.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
    for a, b in zip(result, variables):
        np.testing.assert_allclose(a.numpy(), keras.ops.convert_to_numpy(b), rtol=2e-5, atol=2e-6)
    if options.get("use_ema"):
        peer.finalize_variable_values(variables)
        ours.finalize()
        for a, b in zip(result, variables):  # the weights are averages now
            np.testing.assert_allclose(a.numpy(), keras.ops.convert_to_numpy(b), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("make, peer", [
    (lambda: optimizers.SGD(0.1, momentum=0.9), lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9)),
    (lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
     lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
    (lambda: optimizers.SGD(0.1), lambda t, p: t.optim.SGD(p, 0.1)),
    # PyTorch adds epsilon after the bias correction (Adam) or the root (RMSprop): 0 compares the rest
    (lambda: optimizers.Adam(0.01, epsilon=0), lambda t, p: t.optim.Adam(p, 0.01, eps=0)),
    (lambda: optimizers.AdamW(0.01, weight_decay=0.1, epsilon=0),
     lambda t, p: t.optim.AdamW(p, 0.01, weight_decay=0.1, eps=0)),
    (lambda: optimizers.RMSprop(0.01, rho=0.95, epsilon=0, momentum=0.5),
     lambda t, p: t.optim.RMSprop(p, 0.01, alpha=0.95, eps=0, momentum=0.5)),
    (lambda: optimizers.SGD(0.1, global_clipnorm=1.5), lambda t, p: t.optim.SGD(p, 0.1)),
])
def test_20_steps_as_in_pytorch(make, peer):
    torch = pytest.importorskip("torch")
    weights, gradients = _start(1)
    ours = make()
    result = _run(ours, weights, gradients)
    tensors = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    theirs = peer(torch, tensors)
    for step in gradients:
        for p, g in zip(tensors, step):
            p.grad = torch.tensor(g)
        if ours.global_clipnorm:
            torch.nn.utils.clip_grad_norm_(tensors, ours.global_clipnorm)
        theirs.step()
    for a, b in zip(result, tensors):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_adam_is_its_formula_in_double_precision():
    rng = np.random.default_rng(2)
    w = minideep.tensor(rng.standard_normal(5), requires_grad=True)
    expected, m, v = w.numpy().copy(), 0, 0
    optimizer = optimizers.Adam(0.1, beta_1=0.7, beta_2=0.9, epsilon=1e-2)
    for t in range(1, 8):
        g = rng.standard_normal(5)
        m, v = 0.7 * m + 0.3 * g, 0.9 * v + 0.1 * g * g
        alpha = 0.1 * np.sqrt(1 - 0.9 ** t) / (1 - 0.7 ** t)
        expected -= alpha * m / (np.sqrt(v) + 1e-2)
        optimizer.apply([minideep.tensor(g)], [w])
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-12)


# ------------------------------------------------------------------------------ gradients and clipping

def test_step_uses_gradients_once():
    w = minideep.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optimizers.SGD(1.0)
    for _ in range(2):  # two backward passes add up
        (w * w).sum().backward()
    optimizer.step([w])
    assert w.grad is None
    np.testing.assert_array_equal(w.numpy(), [-3, -6])
    with pytest.raises(RuntimeError, match="backward"):
        optimizer.step([w])


def test_a_parameter_without_a_gradient_stays():
    a, b = minideep.tensor([1.0], requires_grad=True), minideep.tensor([1.0], requires_grad=True)
    optimizer = optimizers.AdamW(0.1, weight_decay=0.5)
    (a * 2).sum().backward()
    optimizer.step([a, b])
    assert b.item() == 1 and a.item() != 1


def test_global_norm_and_clipping():
    gradients = [np.array([3.0], "float32"), None, np.array([[4.0]], "float32")]
    assert optimizers.global_norm(gradients) == 5
    clipped, norm = optimizers.clip_by_global_norm(gradients, 1.0)
    assert norm == 5 and clipped[1] is None and clipped[0].dtype == np.float32
    np.testing.assert_allclose([clipped[0][0], clipped[2][0, 0]], [0.6, 0.8], rtol=1e-6)
    same, _ = optimizers.clip_by_global_norm(gradients, 6.0)
    assert same[0] is gradients[0]
    assert optimizers.global_norm([np.full(4, 1e30, "float32")]) == pytest.approx(2e30)


@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm"])
def test_gradients_that_are_not_finite_are_refused_before_anything_changes(option):
    w = minideep.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optimizers.Adam(0.1, **{option: 1.0})
    w.grad = minideep.tensor([1.0, np.nan])
    with pytest.raises(FloatingPointError, match="left as they are"):
        optimizer.step([w])
    np.testing.assert_array_equal(w.numpy(), [1, 2])
    assert w.grad is None and optimizer.iterations == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="only one"):
        optimizers.Adam(clipnorm=1.0, clipvalue=1.0)
    with pytest.raises(ValueError, match="above 0"):
        optimizers.Adam(clipnorm=0)
    with pytest.raises(ValueError, match="momentum"):
        optimizers.SGD(momentum=1.5)
    with pytest.raises(ValueError, match="no optimizer 'adm'"):
        optimizers.get("adm")
    a, b = minideep.tensor([1.0], requires_grad=True), minideep.tensor([1.0], requires_grad=True)
    optimizer = optimizers.SGD()
    optimizer.apply([minideep.tensor([1.0])], [a])
    with pytest.raises(ValueError, match="not the parameters of the first step"):
        optimizer.apply([minideep.tensor([1.0])], [b])
    with pytest.raises(ValueError, match="2 gradients for 1"):
        optimizer.apply([1, 2], [a])
    with pytest.raises(ValueError, match="gradient of shape"):
        optimizer.apply([minideep.tensor([[1.0]] * 3)], [a])


# --------------------------------------------------------------------------------- averages and state

def test_averaged_weights_come_and_go():
    w = minideep.tensor([0.0], requires_grad=True)
    optimizer = optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    average = None
    for step in range(4):
        optimizer.apply([minideep.tensor([-1.0])], [w])  # w = 1, 2, 3, 4
        average = step + 1 if average is None else 0.5 * average + 0.5 * (step + 1)
    with optimizer.averaged():
        assert w.item() == average
    assert w.item() == 4
    optimizer.finalize()
    assert w.item() == average
    with pytest.raises(RuntimeError, match="use_ema"):
        with optimizers.SGD().averaged():
            pass


@pytest.mark.parametrize("name, options", [
    ("SGD", {}), ("SGD", {"momentum": 0.9}), ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adam", {"use_ema": True}), ("AdamW", {}),
    ("Adam", {"learning_rate": optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)})])
def test_a_loaded_state_goes_on_bit_for_bit(name, options):
    weights, gradients = _start(4)
    make = getattr(optimizers, name)
    whole = _run(make(**options), weights, gradients)
    first = make(**options)
    half = _run(first, weights, gradients[:9])
    second = make(**options)
    second.load_state_dict(first.state_dict())
    rest = _run(second, half, gradients[9:])
    for a, b in zip(whole, rest):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_state_of_another_model_is_refused():
    weights, gradients = _start()
    first = optimizers.Adam()
    _run(first, weights, gradients[:1])
    second = optimizers.Adam()
    second.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="3 parameters; these are 2"):
        _run(second, weights[:2], [gradients[0][:2]])
    second.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="parameter 0"):
        _run(second, weights[::-1], [gradients[0][::-1]])
    with pytest.raises(ValueError, match="not an optimizer's state"):
        second.load_state_dict({"kernel": np.zeros(3)})


def test_a_training_loop_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype("float32")
    y = x @ np.array([[1.0], [-2.0], [0.5]], "float32")
    for name, rate in (("sgd", 0.1), ("rmsprop", 0.05), ("adam", 0.1), ("adamw", 0.1)):
        w = minideep.tensor(np.zeros((3, 1), "float32"), requires_grad=True)
        optimizer = optimizers.get(name)
        optimizer.learning_rate = rate
        for _ in range(150):
            ((minideep.tensor(x) @ w - minideep.tensor(y)) ** 2).mean().backward()
            optimizer.step([w])
        np.testing.assert_allclose(w.numpy()[:, 0], [1, -2, 0.5], atol=0.05, err_msg=name)


@pytest.mark.parametrize("rate", [-1, "0.1", None, float("nan")])
def test_a_learning_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="learning_rate"):
        optimizers.SGD(rate)


def test_a_class_is_an_optimizer_with_its_defaults():
    assert isinstance(optimizers.get(optimizers.Adam), optimizers.Adam)
