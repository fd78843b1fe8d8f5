"""Every op and a whole training step on an array module that is not NumPy: whoever calls np. on a
path that is meant for both devices is found out here, without a GPU."""

import numpy as np
import pytest
import strict_array
from hypothesis import given, settings, strategies as st
from two_devices import OPS, cases, compare, compare_case

import minideep
from kernels import backend
from minideep import layers, losses, ops, optimizers


@pytest.fixture(autouse=True, scope="module")
def strict_device():
    strict_array.install()


def both(f, arrays):
    compare(f, arrays, "strict")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", cases.CASES)
@settings(max_examples=5)
@given(data=st.data())
def test_op(name, dtype, data):
    compare_case(name, data.draw, "strict", dtype)


def test_every_op_is_compared(monkeypatch):
    """What test_op runs here and test_gpu.py on a GPU leaves out no op: each is one through which
    such a comparison goes back on the device."""
    def on_strict(g):
        return backend.device_of(g.data if isinstance(g, minideep.Tensor) else g) == "strict"

    reached = cases.ops_gone_through(monkeypatch, on_strict)

    @settings(max_examples=5)
    @given(st.data())
    def run(data):
        compare_case(name, data.draw, "strict")

    for name in cases.CASES:
        run()
    assert OPS - reached == set(), "these ops need a case in test_ops_derivatives.py"


def test_indexing():
    x = np.arange(24.0).reshape(4, 3, 2)
    rows = np.array([0, 2, 2])
    both(lambda x: x[1:, [0, 1], None], [x])
    both(lambda x: x[minideep.tensor(rows)], [x])
    both(lambda x: x[minideep.tensor(x.numpy() > 5)], [x])
    both(lambda x: ops.take(x, minideep.tensor(rows), 1), [x])
    both(lambda x: ops.gather(x, minideep.tensor(np.ones((2, 3, 2), int)), 0), [x])
    both(lambda x: ops.scatter(x, minideep.tensor(np.ones((4, 3, 2), int)), 0, 5), [x])


def test_gates_and_masks_of_recurrences():
    rng = np.random.default_rng(0)
    mask = rng.random((2, 3)) > 0.4
    for op, gates, states in ((ops.rnn, 1, 1), (ops.lstm, 4, 2), (ops.gru, 3, 1)):
        shapes = [(2, 3, gates * 2), *[(2, 2)] * states, (2, gates * 2), *[(6,)] * (gates == 3)]
        both(lambda *a: op(*a, mask=minideep.tensor(mask), gate=(0.5, 0.1)),
             [rng.standard_normal(s) for s in shapes])


def test_moving_between_devices_has_a_gradient():
    x = minideep.tensor([1.0, 2.0], requires_grad=True, device="cpu")
    y = (x.to("strict") * 3.0).to("cpu")
    (y * y).sum().backward()
    assert x.grad.device == "cpu" and x.grad.numpy().tolist() == [18.0, 36.0]
    with pytest.raises(TypeError):  # nothing moves by itself
        x + x.to("strict")


def test_graph_tools():
    with minideep.device("strict"), minideep.detect_anomaly():
        x = minideep.tensor([1.0, 2.0], requires_grad=True)
        y = minideep.checkpoint(lambda x: ops.tanh(x) * 2.0, x)
        y.retain_grad()
        (y * np.float64(0.5)).sum().backward(retain_graph=True)
        assert y.grad.device == x.grad.device == "strict" and "strict" in repr(x)
        with pytest.raises(FloatingPointError), np.errstate(all="ignore"):
            ops.log(-x)


class Network(layers.Layer):
    def build(self, input_shape):
        self.conv = layers.Conv2D(4, 3, padding="same", activation="relu")
        self.depthwise = layers.DepthwiseConv2D(3)
        self.batch = layers.BatchNormalization()
        self.group = layers.GroupNormalization(2)
        self.layer = layers.LayerNormalization()
        self.pool, self.average = layers.MaxPooling2D(2), layers.AveragePooling2D(2, 1)
        self.drop, self.flat = layers.Dropout(0.2), layers.Flatten()
        self.lstm = layers.LSTM(5, return_sequences=True)
        self.gru = layers.GRU(4, return_sequences=True)
        self.rnn = layers.SimpleRNN(3)
        self.dense = layers.Dense(2)

    def call(self, x, training=False):
        x = self.batch(self.conv(x), training=training)
        x = self.average(self.group(self.depthwise(self.pool(x))))
        x = self.drop(self.layer(x), training=training)
        n = x.shape[0]
        x = ops.reshape(x, shape=(n, -1, 4))
        return self.dense(self.rnn(self.gru(self.lstm(x))))


@pytest.mark.parametrize("optimizer", [
    lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.5),
    lambda: optimizers.RMSprop(0.01, centered=True, momentum=0.5, clipvalue=0.1),
    lambda: optimizers.Adam(0.01, global_clipnorm=1.0),
    lambda: optimizers.AdamW(0.01, use_ema=True),
])
def test_a_training_step_equals_the_cpu(optimizer):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 8, 8, 2)).astype("float32")
    labels = np.array([0, 1, 1])
    results = []
    for device in ("cpu", "strict"):
        minideep.seed(1)
        with minideep.device(device):
            network, steps = Network(), optimizer()
            x, y = minideep.tensor(images), minideep.tensor(labels)
            for _ in range(3):
                loss = losses.sparse_categorical_crossentropy(
                    y, network(x, training=True), from_logits=True).mean()
                loss.backward()
                parameters = network.parameters()
                assert all(p.device == device and p.grad.device == device for p in parameters)
                steps.step(parameters)
            results.append([loss.numpy(), network(x).numpy(), *(w.numpy() for w in network.weights)])
    for cpu, strict in zip(*results):
        np.testing.assert_allclose(strict, cpu, rtol=2e-4, atol=2e-5)
