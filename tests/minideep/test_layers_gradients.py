"""First and second derivatives of every layer, in its input and its weights, against finite
differences in float64, over generated shapes and options."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import minideep
from minideep import gradcheck, layers, ops, tensor
from minideep.gradcheck import GradientError

F64 = {"dtype": "float64"}
SETTINGS = settings(max_examples=6, deadline=None, derandomize=True,
                    suppress_health_check=list(HealthCheck))


def check(layer, x, order=2, **call):
    """gradcheck of layer(x), the weights (all made random) being inputs too."""
    rng = np.random.default_rng(0)
    layer(x, **call)  # builds it
    places, values = [], []
    for path, weight in layer.named_weights().items():
        owner = layer
        *steps, name = path.split(".")
        for step in steps:
            owner = owner[int(step)] if step.isdigit() else getattr(owner, step)
        value = rng.standard_normal(weight.shape) * 0.7
        if name == "moving_variance":
            value = abs(value) + 0.5
        if weight.requires_grad:
            places.append((owner, name))
            values.append(value)
        else:
            weight.data = tensor(value).data

    def f(x, *weights):
        for (owner, name), w in zip(places, weights):
            setattr(owner, name, w)
        return layer(x, **call)

    assert gradcheck(f, x, *values, order=order)


def spread(shape, seed=0):
    """Numbers all at least 0.05 apart and 0.02 from 0: no ties, no kinks near."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    return ((rng.permutation(n) - n // 2) * 0.05 + 0.02).reshape(shape)


sizes = st.integers(1, 4)
images = st.tuples(st.integers(1, 2), st.integers(3, 5), st.integers(3, 5), st.integers(1, 3))
sequences = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))
paddings = st.sampled_from(["valid", "same", 1, ((0, 1), (2, 0))])
smooth = st.sampled_from(["tanh", "softplus", "sigmoid", None])

TESTS = {}  # the layer's name -> its test


def of(*names):
    def register(test):
        for name in names:
            TESTS[name] = test
        return test
    return register


@of("Dense")
@SETTINGS
@given(st.lists(sizes, min_size=2, max_size=4), sizes, smooth, st.booleans())
def test_dense(shape, units, activation, use_bias):
    check(layers.Dense(units, activation, use_bias, **F64), spread(shape) * 0.3)


@of("Conv2D")
@SETTINGS
@given(images, pairs, pairs, paddings, st.integers(1, 2), smooth, st.booleans())
def test_conv2d(shape, kernel, strides, padding, groups, activation, use_bias):
    shape = (*shape[:3], shape[3] * groups)
    check(layers.Conv2D(2 * groups, kernel, strides, padding, groups=groups, activation=activation,
                        use_bias=use_bias, **F64), spread(shape) * 0.1)


@of("DepthwiseConv2D")
@SETTINGS
@given(images, pairs, pairs, paddings, st.integers(1, 3), st.integers(1, 2))
def test_depthwise(shape, kernel, strides, padding, multiplier, dilation):
    check(layers.DepthwiseConv2D(kernel, strides, padding, multiplier, dilation, "tanh", **F64),
          spread(shape) * 0.1)


@of("Conv2DTranspose")
@SETTINGS
@given(images, pairs, pairs, st.sampled_from(["valid", "same"]), st.integers(1, 2))
def test_transposed(shape, kernel, strides, padding, dilation):
    check(layers.Conv2DTranspose(2, kernel, strides, padding, dilation_rate=dilation,
                                 activation="tanh", **F64), spread(shape) * 0.1)


@of("MaxPooling2D", "AveragePooling2D", "MaxPool2D", "AvgPool2D")
@SETTINGS
@given(images, pairs, pairs, st.sampled_from(["valid", "same"]))
def test_pooling(shape, size, strides, padding):
    x = spread(shape)
    for kind in (layers.MaxPooling2D, layers.AveragePooling2D):
        layer = kind(size, strides, padding, **F64)
        check(layer, x)
        check(layer, x, order=1)
        gradcheck(lambda t: ops.square(layer(t)), x)  # second derivatives that are not zero


@of("GlobalAveragePooling2D", "GlobalMaxPooling2D")
@SETTINGS
@given(images, st.booleans())
def test_global_pooling(shape, keepdims):
    for kind in (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D):
        layer = kind(keepdims, **F64)
        gradcheck(lambda t: ops.square(layer(t)), spread(shape))


@of("Flatten", "Reshape", "Input", "InputLayer")
@SETTINGS
@given(images)
def test_shapes(shape):
    for layer in (layers.Flatten(**F64), layers.Reshape((shape[3], -1), **F64),
                  layers.Input(shape[1:], **F64)):
        gradcheck(lambda t: ops.square(layer(t)), spread(shape))


@of("Activation", "ReLU", "LeakyReLU", "Softmax")
@SETTINGS
@given(st.lists(sizes, min_size=1, max_size=3))
def test_activations(shape):
    for layer in (layers.Activation("gelu", **F64), layers.ReLU(**F64),
                  layers.ReLU(1.03, 0.1, 0.11, **F64), layers.LeakyReLU(**F64),
                  layers.Softmax(**F64), layers.Softmax(0, **F64)):
        gradcheck(lambda t: ops.square(layer(t)), spread(shape))


@of("Dropout")
@SETTINGS
@given(images, st.floats(0, 0.9))
def test_dropout(shape, rate):
    layer = layers.Dropout(rate, **F64)

    def f(x):
        minideep.seed(3)
        return ops.square(layer(x, training=True))
    gradcheck(f, spread(shape))


@of("Masking")
@SETTINGS
@given(sequences)
def test_masking(shape):
    x = spread(shape)
    x[:, 0] = 7.0
    layer = layers.Masking(7.0, **F64)
    # the masked steps are left out of what is checked: moved off 7 they would be masked no more
    gradcheck(lambda t: ops.square(layer(ops.concatenate([tensor(x[:, :1]), t], axis=1))), x[:, 1:])


@of("BatchNormalization")
@SETTINGS
@given(images, st.booleans(), st.booleans(), st.sampled_from([-1, 1]))
def test_batch_normalization(shape, training, scale, axis):
    check(layers.BatchNormalization(axis, scale=scale, epsilon=0.1, **F64), spread(shape) * 0.2,
          training=training)


@of("LayerNormalization", "GroupNormalization")
@SETTINGS
@given(images, st.booleans())
def test_other_normalization(shape, center):
    x = spread((*shape[:3], 2 * shape[3])) * 0.2
    check(layers.LayerNormalization(center=center, epsilon=0.1, **F64), x)
    check(layers.LayerNormalization((1, 3), epsilon=0.1, **F64), x)
    check(layers.GroupNormalization(2, center=center, epsilon=0.1, **F64), x)


def recurrent_options(draw, name):
    options = {"return_sequences": draw(st.booleans()), "return_state": draw(st.booleans()),
               "go_backwards": draw(st.booleans()), "use_bias": draw(st.booleans()),
               "activation": draw(st.sampled_from(["tanh", "tanh", "softplus"]))}
    if name == "GRU":
        options["reset_after"] = draw(st.booleans())
    return options


@of("SimpleRNN", "GRU", "LSTM")
@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
@SETTINGS
@given(data=st.data(), shape=sequences, units=st.integers(1, 3))
def test_recurrent(name, data, shape, units):
    options = recurrent_options(data.draw, name)
    mask = np.random.default_rng(1).random(shape[:2]) < 0.7 if data.draw(st.booleans()) else None
    check(getattr(layers, name)(units, **options, **F64), spread(shape) * 0.2, mask=mask)


@of("SimpleRNNCell", "GRUCell", "LSTMCell", "RNN")
@pytest.mark.parametrize("name", ["SimpleRNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_cells_and_initial_states(name, activation):
    x = np.random.default_rng(0).standard_normal((2, 3, 2))
    states = [np.random.default_rng(i).standard_normal((2, 3)) for i in range(1 + (name[0] == "L"))]
    cell = getattr(layers, name)(3, activation, **F64)
    layer = layers.RNN(cell, return_state=True, **F64)
    check(layer, x)
    gradcheck(lambda x, *s: list(layer(x, initial_state=list(s))), x, *states)
    gradcheck(lambda x, *s: cell(x, list(s))[1], x[:, 0], *states)


@of("Bidirectional", "TimeDistributed")
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("sequences", [True, False])
def test_wrappers(merge_mode, sequences):
    x = np.random.default_rng(0).standard_normal((2, 3, 2))
    inner = layers.GRU(2, return_sequences=sequences, **F64)
    check(layers.Bidirectional(inner, merge_mode, **F64), x)
    check(layers.TimeDistributed(layers.Dense(2, "tanh", **F64), **F64), x)


def test_every_layer_has_a_gradient_check():
    exported = {name for name, value in vars(layers).items()
                if isinstance(value, type) and issubclass(value, layers.Layer)}
    assert exported - set(TESTS) - {"Layer"} == set()


def test_these_checks_can_fail():
    class Wrong(layers.Dense):
        def call(self, x):
            return x @ self.kernel + (x * x).detach()

    with pytest.raises(GradientError):
        check(Wrong(3, **F64), spread((2, 3)))


@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("gate", [(0.5, None), (2.0, 0.1), (1.0, 0.01)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_gate_is_the_same_in_the_fused_op_and_step_by_step(name, gate, masked):
    x = np.random.default_rng(0).standard_normal((3, 5, 2))
    mask = np.arange(5) < np.array([5, 2, 4])[:, None] if masked else None
    layer = getattr(layers, name)(4, gradient_gate=gate, **F64)
    results = []
    for fused in (True, False):
        layer.cell.fuses = lambda training: fused
        t = minideep.tensor(x, requires_grad=True)
        y = layer(t, mask=mask)
        ys = minideep.grad((y * y).sum(), [t, *layer.parameters()])
        results.append([y.numpy(), *[g.numpy() for g in ys]])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    plain = getattr(layers, name)(4, **F64)
    plain(x)
    plain.set_weights(layer.get_weights())
    t = minideep.tensor(x, requires_grad=True)
    y = plain(t, mask=mask)
    np.testing.assert_allclose(y.numpy(), results[0][0], rtol=1e-12)
    first_step = minideep.grad((y * y).sum(), t).numpy()[:, 0]
    gated = results[0][1][:, 0]
    assert np.linalg.norm(first_step - gated) > 1e-3 * np.linalg.norm(first_step)


def test_the_gradient_gate_scales_what_flows_back_through_time():
    """h_T depends on x_t through T - t steps, each of which multiplies the gradient by 0.5."""
    x = np.random.default_rng(0).standard_normal((1, 4, 2))
    gated = layers.SimpleRNN(3, gradient_gate=(0.5, None), **F64)
    plain = layers.SimpleRNN(3, **F64)
    gated(x), plain(x)
    plain.set_weights(gated.get_weights())
    gs = []
    for layer in (gated, plain):
        t = minideep.tensor(x, requires_grad=True)
        gs.append(minideep.grad(layer(t).sum(), t).numpy())
    np.testing.assert_allclose(gs[0], gs[1] * 0.5 ** np.array([3, 2, 1, 0])[:, None], rtol=1e-10)
