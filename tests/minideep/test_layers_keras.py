"""Layers against Keras 3: the same weights and data give the same outputs and gradients."""

import os
import tempfile

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp())
keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)
if keras.backend.backend() != "torch":
    pytest.skip("these tests compare with Keras on PyTorch", allow_module_level=True)

import minideep  # noqa: E402
from minideep import layers  # noqa: E402

IMAGE, SEQUENCE = (3, 8, 7, 4), (3, 6, 5)


def twins(name, shape, seed=0, inner=None, **options):
    """The layer in minideep and in Keras, with the same random weights, and an input."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype("float32")
    theirs = getattr(keras.layers, name)(*inner_of(keras.layers, inner), **options)
    ours = getattr(layers, name)(*inner_of(layers, inner), **options)
    theirs(x)
    ours(x)
    if options.get("stateful"):
        theirs.reset_state()
        ours.reset_state()
    weights = [rng.standard_normal(w.shape).astype("float32") * 0.5 for w in theirs.weights
               if "seed" not in w.name]
    weights = [abs(w) + 0.3 if "variance" in v.name else w
               for w, v in zip(weights, theirs.weights)]
    if options.get("stateful"):
        weights = weights[:len(ours.weights)]
        for variable, w in zip(theirs.weights, weights):
            variable.assign(w)
    else:
        theirs.set_weights(weights)
    assert [w.shape for w in ours.weights] == [w.shape for w in weights]
    ours.set_weights(weights)
    return ours, theirs, x


def inner_of(module, inner):
    if inner is None:
        return ()
    name, options = inner
    return (getattr(module, name)(**options),)


def arrays(y):
    return [np.asarray(keras.ops.convert_to_numpy(v)) if not isinstance(v, minideep.Tensor)
            else v.numpy() for v in (y if isinstance(y, (tuple, list)) else [y])]


def assert_same(ours, theirs, tolerance=1e-5):
    ours, theirs = arrays(ours), arrays(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape and a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


CASES = [
    ("Dense", (4, 5), {"units": 3}),
    ("Dense", (4, 2, 5), {"units": 3, "activation": "relu", "use_bias": False}),
    *[("Dense", (4, 5), {"units": 3, "activation": name}) for name in
      "elu gelu hard_sigmoid hard_silu hard_swish leaky_relu linear log_softmax relu relu6 sigmoid "
      "silu softmax softplus swish tanh exponential".split()],
    ("Conv2D", IMAGE, {"filters": 6, "kernel_size": 3}),
    ("Conv2D", IMAGE, {"filters": 6, "kernel_size": (2, 3), "strides": 2, "padding": "same"}),
    ("Conv2D", IMAGE, {"filters": 6, "kernel_size": 3, "strides": (1, 2), "padding": "valid"}),
    ("Conv2D", IMAGE, {"filters": 6, "kernel_size": 3, "padding": "same", "groups": 2}),
    ("Conv2D", IMAGE, {"filters": 4, "kernel_size": 2, "padding": "same", "dilation_rate": 2,
                       "activation": "tanh", "use_bias": False}),
    ("DepthwiseConv2D", IMAGE, {"kernel_size": 3}),
    ("DepthwiseConv2D", IMAGE, {"kernel_size": (3, 2), "strides": 2, "padding": "same",
                                "depth_multiplier": 3}),
    ("DepthwiseConv2D", IMAGE, {"kernel_size": 2, "dilation_rate": (2, 3), "activation": "relu"}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 3}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 2, "strides": 2, "padding": "same"}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 4, "strides": 2, "padding": "same"}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 3, "padding": "same"}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 3, "strides": (2, 3)}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 2, "strides": 3}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 2, "dilation_rate": 2}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 3, "strides": 2, "output_padding": 1}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 3, "strides": 2, "output_padding": 0,
                                "padding": "same"}),
    ("MaxPooling2D", IMAGE, {}),
    ("MaxPooling2D", IMAGE, {"pool_size": 3, "strides": 2, "padding": "same"}),
    ("MaxPooling2D", IMAGE, {"pool_size": (2, 3), "strides": (1, 2)}),
    ("AveragePooling2D", IMAGE, {"pool_size": 2}),
    # no case of odd total padding: on PyTorch, Keras repeats the edge there instead of leaving
    # the padding out of the mean, as it does on TensorFlow
    ("AveragePooling2D", IMAGE, {"pool_size": 3, "strides": 1, "padding": "same"}),
    ("AveragePooling2D", IMAGE, {"pool_size": (3, 2), "strides": 1}),
    ("GlobalAveragePooling2D", IMAGE, {}),
    ("GlobalAveragePooling2D", IMAGE, {"keepdims": True}),
    ("GlobalMaxPooling2D", IMAGE, {}),
    ("GlobalMaxPooling2D", IMAGE, {"keepdims": True}),
    ("Flatten", IMAGE, {}),
    ("Flatten", (4,), {}),
    ("Reshape", IMAGE, {"target_shape": (7, -1)}),
    ("Dropout", IMAGE, {"rate": 0.5}),
    ("Activation", IMAGE, {"activation": "gelu"}),
    ("ReLU", IMAGE, {}),
    ("ReLU", IMAGE, {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}),
    ("LeakyReLU", IMAGE, {}),
    ("Softmax", IMAGE, {"axis": 1}),
    ("Masking", SEQUENCE, {"mask_value": 0.0}),
    ("BatchNormalization", IMAGE, {}),
    ("BatchNormalization", IMAGE, {"axis": 1, "center": False}),
    ("BatchNormalization", (4, 5), {"scale": False, "epsilon": 1e-2}),
    ("LayerNormalization", IMAGE, {}),
    ("LayerNormalization", IMAGE, {"axis": (1, 3), "center": False}),
    ("GroupNormalization", IMAGE, {"groups": 2}),
    ("GroupNormalization", IMAGE, {"groups": -1, "scale": False}),
    ("GroupNormalization", IMAGE, {"groups": 4, "axis": 1}),
]


def name_of(case):
    return case[0] + "-" + ",".join(f"{k}={v}" for k, v in case[2].items())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_outputs(case):
    name, shape, options = case
    ours, theirs, x = twins(name, shape, **options)
    y = ours(x)
    assert_same(y, theirs(x))
    assert ours.compute_output_shape((None, *shape[1:])) == (None, *y.shape[1:])
    assert tuple(theirs.compute_output_shape(shape)) == ours.compute_output_shape(shape) == y.shape


def gradients_agree(ours, theirs, x, **call):
    """d<y, r>/d(input and weights), r random."""
    a = minideep.tensor(x, requires_grad=True)
    b = torch.tensor(x, requires_grad=True)
    y, z = ours(a, **call), theirs(b, **call)
    r = np.random.default_rng(1).standard_normal(y.shape).astype("float32")
    (y * minideep.tensor(r)).sum().backward()
    (z * torch.from_numpy(r)).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-4)
    for w, v in zip(ours.trainable_weights, theirs.trainable_weights):
        np.testing.assert_allclose(w.grad.numpy(), v.value.grad.numpy(), rtol=1e-4, atol=1e-4,
                                   err_msg=v.name)


@pytest.mark.parametrize("case", [
    CASES[0], ("Conv2D", IMAGE, {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}),
    ("DepthwiseConv2D", IMAGE, {"kernel_size": 3, "padding": "same", "depth_multiplier": 2}),
    ("Conv2DTranspose", IMAGE, {"filters": 5, "kernel_size": 3, "strides": (2, 3)}),
    ("MaxPooling2D", IMAGE, {}), ("LayerNormalization", IMAGE, {}),
    ("GroupNormalization", IMAGE, {"groups": 2}), ("BatchNormalization", IMAGE, {}),
    *[(name, SEQUENCE, {"units": 4, "return_sequences": s})
      for name in ("SimpleRNN", "GRU", "LSTM") for s in (False, True)],
], ids=name_of)
def test_gradients(case):
    name, shape, options = case
    ours, theirs, x = twins(name, shape, **options)
    call = {"training": True} if name == "BatchNormalization" else {}
    gradients_agree(ours, theirs, x, **call)


@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"momentum": 0.5}])
def test_batch_normalization_in_training(options):
    ours, theirs, x = twins("BatchNormalization", IMAGE, **options)
    for step in range(3):
        assert_same(ours(x + step, training=True), theirs(x + step, training=True))
        for a, b in zip(ours.get_weights(), theirs.get_weights()):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert_same(ours(x), theirs(x))


def test_batch_normalization_with_a_mask():
    ours, theirs, x = twins("BatchNormalization", SEQUENCE)
    mask = np.arange(6) < np.array([6, 2, 4])[:, None]
    assert_same(ours(x, training=True, mask=mask),
                theirs(x, training=True, mask=torch.from_numpy(mask)))
    for a, b in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------- over time

MASKS = {
    "right": np.arange(6) < np.array([6, 2, 4])[:, None],
    "left": np.arange(6) >= np.array([0, 2, 5])[:, None],
    "holes": np.array([[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]], bool),
}
OPTIONS = [
    {}, {"return_sequences": True}, {"go_backwards": True, "return_sequences": True},
    {"return_state": True}, {"use_bias": False}, {"return_sequences": True, "return_state": True},
    {"activation": "relu"}, {"activation": "softplus", "return_sequences": True},
    {"go_backwards": True}, {"zero_output_for_mask": True, "return_sequences": True},
    {"recurrent_activation": "hard_sigmoid", "return_sequences": True}, {"unroll": True},
]
RECURRENT = [(name, options) for name in ("SimpleRNN", "GRU", "LSTM") for options in OPTIONS
             if name != "SimpleRNN" or "recurrent_activation" not in options] + [
    ("GRU", {"reset_after": False}), ("GRU", {"reset_after": False, "use_bias": False}),
    ("LSTM", {"unit_forget_bias": False})]


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("name, options", RECURRENT, ids=str)
def test_recurrent(name, options, mask):
    if "unroll" in options and mask is not None:
        return  # Keras cannot on PyTorch
    ours, theirs, x = twins(name, SEQUENCE, units=4, **options)
    m = None if mask is None else MASKS[mask]
    y = ours(x, mask=m)
    assert_same(y, theirs(x, mask=None if m is None else torch.from_numpy(m)))
    shape = ours.compute_output_shape((None, 6, 5))
    assert (shape[1:] if not options.get("return_state") else [s[1:] for s in shape]) == (
        y.shape[1:] if not options.get("return_state") else [v.shape[1:] for v in y])


@pytest.mark.parametrize("mask", [None, "left", "holes"])
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
def test_initial_state(name, activation, mask):
    ours, theirs, x = twins(name, SEQUENCE, units=4, activation=activation, return_sequences=True,
                            return_state=True)
    states = [np.random.default_rng(i).standard_normal((3, 4)).astype("float32")
              for i in range(2 if name == "LSTM" else 1)]
    m = None if mask is None else MASKS[mask]
    assert_same(ours(x, initial_state=states, mask=m),
                theirs(x, initial_state=[torch.from_numpy(s) for s in states],
                       mask=None if m is None else torch.from_numpy(m)))


@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
def test_stateful(name):
    ours, theirs, x = twins(name, SEQUENCE, units=4, stateful=True, return_sequences=True)
    for _ in range(3):
        assert_same(ours(x), theirs(x))
    ours.reset_states()
    theirs.reset_state()
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("inner", [
    ("LSTM", {"units": 4}), ("GRU", {"units": 4, "return_sequences": True}),
    ("SimpleRNN", {"units": 4, "return_sequences": True, "return_state": True})],
    ids=lambda i: i[0])
def test_bidirectional(inner, merge_mode, mask):
    ours, theirs, x = twins("Bidirectional", SEQUENCE, inner=inner, merge_mode=merge_mode)
    m = None if mask is None else MASKS[mask]
    assert_same(ours(x, mask=m), theirs(x, mask=None if m is None else torch.from_numpy(m)))


@pytest.mark.parametrize("inner, shape", [
    (("Dense", {"units": 3, "activation": "tanh"}), (2, 4, 5)),
    (("Conv2D", {"filters": 3, "kernel_size": 2}), (2, 3, 5, 5, 2)),
    (("LSTM", {"units": 3}), (2, 3, 4, 5))], ids=lambda i: str(i[0]))
def test_time_distributed(inner, shape):
    ours, theirs, x = twins("TimeDistributed", shape, inner=inner)
    y = ours(x)
    assert_same(y, theirs(x))
    assert ours.compute_output_shape((None, *shape[1:])) == (None, *y.shape[1:])


@pytest.mark.parametrize("name", ["SimpleRNNCell", "GRUCell", "LSTMCell"])
def test_cells(name):
    rng = np.random.default_rng(0)
    x, h, c = (rng.standard_normal(s).astype("float32") for s in [(3, 5), (3, 4), (3, 4)])
    ours, theirs = getattr(layers, name)(4), getattr(keras.layers, name)(4)
    states = [h, c] if name == "LSTMCell" else [h]
    theirs(x, [torch.from_numpy(s) for s in states])
    ours(x, [minideep.tensor(s) for s in states])
    ours.set_weights(theirs.get_weights())
    y, new = ours(x, [minideep.tensor(s) for s in states])
    z, wanted = theirs(x, [torch.from_numpy(s) for s in states])
    assert_same([y, *new], [z.detach(), *[w.detach() for w in wanted]])


def test_a_cell_of_ones_own_in_rnn():
    """The example of Keras's documentation of RNN, word for word but for `keras`."""
    def make(base, ops, RNN, module):
        class MinimalRNNCell(base):
            def __init__(self, units, **kwargs):
                super().__init__(**kwargs)
                self.units = units
                self.state_size = units

            def build(self, input_shape):
                self.kernel = self.add_weight(shape=(input_shape[-1], self.units),
                                              initializer="uniform", name="kernel")
                self.recurrent_kernel = self.add_weight(shape=(self.units, self.units),
                                                        initializer="uniform",
                                                        name="recurrent_kernel")

            def call(self, inputs, states):
                prev_output = states[0]
                h = ops.matmul(inputs, self.kernel)
                output = h + ops.matmul(prev_output, self.recurrent_kernel)
                return output, [output]
        return RNN(MinimalRNNCell(4), return_sequences=True)

    x = np.random.default_rng(0).standard_normal(SEQUENCE).astype("float32")
    theirs = make(keras.layers.Layer, keras.ops, keras.layers.RNN, keras)
    ours = make(layers.Layer, minideep.ops, layers.RNN, minideep)
    theirs(x), ours(x)
    ours.set_weights(theirs.get_weights())
    assert_same(ours(x), theirs(x))


# ------------------------------------------------------------------- defaults and first weights

@pytest.mark.parametrize("name, options", [
    ("Dense", {"units": 4}), ("Conv2D", {"filters": 4, "kernel_size": 3}),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 3}), ("DepthwiseConv2D", {"kernel_size": 3}),
    ("MaxPooling2D", {}), ("BatchNormalization", {}), ("LayerNormalization", {}),
    ("GroupNormalization", {}), ("LSTM", {"units": 4}), ("GRU", {"units": 4}),
    ("SimpleRNN", {"units": 4}), ("LeakyReLU", {}), ("ReLU", {})])
def test_defaults_are_those_of_keras(name, options):
    ours, theirs = getattr(layers, name)(**options), getattr(keras.layers, name)(**options)
    config = theirs.get_config()
    of = getattr(ours, "cell", ours)
    shared = [n for n in config if hasattr(of, n) and n not in ("name", "dtype", "kernel")]
    assert len(shared) >= 2
    for n in shared:
        value, wanted = getattr(of, n), config[n]
        if callable(value):
            value = minideep.config.serialize(value)
        if isinstance(wanted, dict):
            assert value["class_name"] == wanted["class_name"], n
        elif n == "strides" and wanted is None:
            continue
        else:
            assert value == wanted or value == (wanted, wanted) or tuple(value) == tuple(wanted), n


@pytest.mark.parametrize("name", """glorot_uniform glorot_normal he_normal he_uniform lecun_normal
    lecun_uniform random_normal random_uniform truncated_normal orthogonal zeros ones""".split())
@pytest.mark.parametrize("shape", [(60, 40), (3, 3, 20, 50), (4, 500)])
def test_initializers_have_keras_distributions(name, shape):
    minideep.seed(0)
    keras.utils.set_random_seed(0)
    ours = minideep.initializers.get(name)(shape)
    theirs = np.asarray(keras.ops.convert_to_numpy(keras.initializers.get(name)(shape)))
    assert ours.shape == theirs.shape
    scale = max(theirs.std(), 1e-9)
    assert abs(ours.mean() - theirs.mean()) < 0.15 * scale + 1e-12
    assert abs(ours.std() - theirs.std()) < 0.06 * scale + 1e-12
    if name not in ("random_normal", "orthogonal"):
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.05)
    if name == "orthogonal":
        a = ours.reshape(-1, shape[-1])
        gram = a.T @ a if a.shape[0] >= a.shape[1] else a @ a.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-6)
