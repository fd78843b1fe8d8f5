"""What every layer promises: building, weights, names, modes, files, devices, errors."""

import json
import warnings

import numpy as np
import pytest
import strict_array

import minideep
from minideep import config, layers, ops
from minideep.layers import (GRU, LSTM, RNN, Activation, BatchNormalization, Bidirectional, Conv2D,
                             Conv2DTranspose, Dense, DepthwiseConv2D, Dropout, Flatten,
                             GroupNormalization, Input, Layer, LayerNormalization, Masking,
                             MaxPooling2D, Reshape, SimpleRNN, TimeDistributed)

IMAGE, SEQUENCE = (2, 6, 6, 4), (2, 5, 3)

# one or more of every layer: (how it is made, the input's shape)
ALL = {
    "Dense": lambda: (Dense(3, "relu"), SEQUENCE),
    "Input": lambda: (Input((5, 3)), SEQUENCE),
    "Flatten": lambda: (Flatten(), IMAGE),
    "Reshape": lambda: (Reshape((-1, 2)), IMAGE),
    "Dropout": lambda: (Dropout(0.5, noise_shape=(None, 1, 1, None)), IMAGE),
    "Activation": lambda: (Activation("silu"), IMAGE),
    "ReLU": lambda: (layers.ReLU(1.0, 0.1, 0.2), IMAGE),
    "LeakyReLU": lambda: (layers.LeakyReLU(), IMAGE),
    "Softmax": lambda: (layers.Softmax(), IMAGE),
    "Masking": lambda: (Masking(), SEQUENCE),
    "Conv2D": lambda: (Conv2D(4, 3, (2, 1), "same", groups=2), IMAGE),
    "DepthwiseConv2D": lambda: (DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    "Conv2DTranspose": lambda: (Conv2DTranspose(3, 3, 2, output_padding=1), IMAGE),
    "MaxPooling2D": lambda: (MaxPooling2D(padding=[1, 0]), IMAGE),
    "AveragePooling2D": lambda: (layers.AveragePooling2D(3, 1, "same"), IMAGE),
    "GlobalAveragePooling2D": lambda: (layers.GlobalAveragePooling2D(), IMAGE),
    "GlobalMaxPooling2D": lambda: (layers.GlobalMaxPooling2D(keepdims=True), IMAGE),
    "BatchNormalization": lambda: (BatchNormalization(), IMAGE),
    "LayerNormalization": lambda: (LayerNormalization((1, 2)), IMAGE),
    "GroupNormalization": lambda: (GroupNormalization(2), IMAGE),
    "SimpleRNN": lambda: (SimpleRNN(4, go_backwards=True), SEQUENCE),
    "GRU": lambda: (GRU(4, dropout=0.2, return_sequences=True), SEQUENCE),
    "LSTM": lambda: (LSTM(4, recurrent_dropout=0.2, gradient_gate=(1.0, 2.0)), SEQUENCE),
    "RNN": lambda: (RNN(layers.LSTMCell(4)), SEQUENCE),
    "Bidirectional": lambda: (Bidirectional(LSTM(3), "sum"), SEQUENCE),
    "TimeDistributed": lambda: (TimeDistributed(Conv2D(2, 3)), (2, 3, 5, 5, 2)),
}
every_layer = pytest.mark.parametrize("name", ALL)


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def test_every_layer_is_in_the_list():
    aliases = {"InputLayer", "MaxPool2D", "AvgPool2D", "Layer"}
    cells = {"SimpleRNNCell", "GRUCell", "LSTMCell"}
    exported = {name for name, value in vars(layers).items()
                if isinstance(value, type) and issubclass(value, Layer)}
    assert exported - aliases - cells == set(ALL)


@every_layer
def test_shapes_dtypes_and_gradients(name):
    layer, shape = ALL[name]()
    x = minideep.tensor(random(shape), requires_grad=True)
    y = layer(x, training=True)
    assert y.dtype == np.float32
    assert layer.compute_output_shape(shape) == y.shape
    assert layer.compute_output_shape((None, *shape[1:])) == (None, *y.shape[1:])
    assert layer.flops(shape) == shape[0] * layer.flops((None, *shape[1:])) >= 0
    assert layer.count_params() == sum(w.size for w in layer.weights)
    (y * minideep.tensor(random(y.shape, 1))).sum().backward()
    assert x.grad.shape == shape and x.grad.dtype == np.float32
    for weight in layer.trainable_weights:
        assert weight.grad.shape == weight.shape and weight.grad.dtype == np.float32


@every_layer
def test_a_batch_of_none_goes_through(name):
    layer, shape = ALL[name]()
    layer(random(shape), training=True)
    before = layer.get_weights()
    x = minideep.tensor(random((0, *shape[1:])), requires_grad=True)
    for training in (False, True):
        y = layer(x, training=training)
        assert y.shape == layer.compute_output_shape((0, *shape[1:]))
        y.sum().backward()
        assert x.grad.shape == x.shape
    for a, b in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert all(not w.grad.data.any() for w in layer.trainable_weights)


@every_layer
def test_a_layer_is_written_as_json_and_made_again(name):
    layer, shape = ALL[name]()
    x = random(shape)
    y = layer(x)
    again = config.deserialize(json.loads(json.dumps(config.serialize(layer))))
    assert type(again) is type(layer) and again.name == layer.name
    again.build(shape)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x).numpy(), y.numpy())
    assert again.get_config() == json.loads(json.dumps(layer.get_config()))


@every_layer
def test_float64(name):
    kind = ALL[name]()[0]
    inner = {n: v.clone(dtype="float64") for n, v in kind._arguments.items()
             if isinstance(v, Layer)}
    layer, shape = kind.clone(dtype="float64", **inner), ALL[name]()[1]
    y = layer(random(shape).astype("float64"), training=True)
    assert y.dtype == np.float64 and all(w.dtype == np.float64 for w in layer.weights)


@pytest.mark.usefixtures("on_the_cpu")
@every_layer
def test_on_a_strict_array_module(name):
    """The same numbers on arrays that refuse NumPy's functions, and everything stays there."""
    strict_array.install()
    layer, shape = ALL[name]()
    mask = np.arange(shape[1]) < np.array([[2], [3]])
    options = {"mask": mask} if isinstance(layer, (RNN, Bidirectional)) else {}
    x = minideep.tensor(random(shape), requires_grad=True)
    y = layer(x, **options)
    y.sum().backward()
    there = minideep.tensor(random(shape), requires_grad=True, device="strict")
    expected = [w.grad.numpy() for w in layer.trainable_weights]
    for w in layer.weights:
        w.grad = None
    layer.to("strict")
    assert all(w.device == "strict" for w in layer.weights)
    z = layer(there, **options)
    assert z.device == "strict"
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-5, atol=1e-5)
    z.sum().backward()
    np.testing.assert_allclose(there.grad.numpy(), x.grad.numpy(), rtol=1e-4, atol=1e-4)
    for w, g in zip(layer.trainable_weights, expected):
        np.testing.assert_allclose(w.grad.numpy(), g, rtol=1e-4, atol=1e-4)
    layer.to("cpu")
    np.testing.assert_array_equal(layer(random(shape), **options).numpy(), y.numpy())
    fresh = ALL[name]()[0]
    assert fresh(there, training=True).device == "strict"  # weights are made where the input is


# ----------------------------------------------------------------------------- layers of one's own


class Scale(Layer):
    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), "ones", "scale")
        self.count = self.add_weight((), "zeros", "count", trainable=False)

    def call(self, x, training=False):
        self.was_training = training
        return x * self.scale


class Tower(Layer):
    def __init__(self, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Scale() for _ in range(depth)]
        self.heads = {"box": Dense(4), "score": Dense(1)}
        self.temperature = minideep.tensor(1.0, requires_grad=True)
        self.first = self.blocks[0]  # a second way to the same layer

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return [head(x) * self.temperature for head in self.heads.values()]


def test_sublayers_and_weights_are_found_in_lists_and_dictionaries():
    tower = Tower()
    assert list(tower.named_weights()) == ["temperature"]
    box, score = tower(random((3, 5)))
    assert box.shape == (3, 4) and score.shape == (3, 1)
    assert list(tower.named_weights()) == [
        "temperature", "blocks.0.scale", "blocks.0.count", "blocks.1.scale", "blocks.1.count",
        "heads.box.kernel", "heads.box.bias", "heads.score.kernel", "heads.score.bias"]
    assert len(tower.trainable_weights) == 7 and len(tower.non_trainable_weights) == 2
    assert tower.parameters() == tower.trainable_weights
    assert tower.count_params() == 1 + 12 + 24 + 6
    assert len(tower.sublayers()) == 5


def test_trainable_weights_come_first():
    class Late(Layer):
        def build(self, input_shape):
            self.add_weight((1,), "zeros", "statistic", trainable=False)
            self.add_weight((2,), "zeros", "kernel")
    layer = Late()
    layer.build((None, 3))
    assert list(layer.named_weights()) == ["kernel", "statistic"]


def test_a_shared_layer_counts_once():
    class Siamese(Layer):
        def __init__(self):
            super().__init__()
            self.left = self.right = Dense(3)

        def call(self, x):
            return self.left(x) - self.right(x)
    layer = Siamese()
    layer(random((2, 4)))
    assert list(layer.named_weights()) == ["left.kernel", "left.bias"]
    assert len(layer.get_weights()) == 2


def test_training_reaches_layers_that_were_not_told():
    tower = Tower()
    tower(random((2, 3)), training=True)
    assert tower.first.was_training is True
    tower(random((2, 3)))
    assert tower.first.was_training is False

    class Inner(Layer):
        def __init__(self):
            super().__init__()
            self.inner = Scale()

        def call(self, x):
            return self.inner(x, training=False)
    outer = Inner()
    outer(random((2, 3)), training=True)
    assert outer.inner.was_training is False


def test_freezing():
    tower = Tower()
    tower(random((2, 3)))
    tower.heads["box"].trainable = False
    assert len(tower.trainable_weights) == 5 and len(tower.weights) == 9
    box, score = tower(random((2, 3)))
    (box.sum() + score.sum()).backward()
    assert tower.heads["box"].kernel.grad is None and tower.heads["score"].kernel.grad is not None
    tower.trainable = False
    assert tower.trainable_weights == [] and not tower(random((2, 3)))[0].requires_grad
    tower.trainable = True
    assert len(tower.trainable_weights) == 7
    assert not tower.first.count.requires_grad
    frozen = Dense(3, trainable=False)
    assert not frozen(random((2, 3))).requires_grad and frozen.trainable_weights == []


def test_building_once_and_by_hand():
    layer = Dense(3)
    layer.build((None, 5))
    kernel = layer.kernel
    layer.build((None, 5))
    layer(random((2, 5)))
    assert layer.kernel is kernel and layer.built and layer.build_shape == (None, 5)


def test_without_super_init():
    class Forgetful(Layer):
        def __init__(self):
            self.n = 3

        def call(self, x):
            return x
    with pytest.raises(RuntimeError, match=r"Forgetful.__init__ must call super\(\).__init__\(\)"):
        Forgetful()(random((2, 3)))


def test_shape_of_a_layer_that_does_not_tell_it():
    assert Scale().compute_output_shape((None, 3)) == (None, 3)
    with pytest.raises(ValueError, match="only the batch may be None"):
        Scale().compute_output_shape((None, None, 3))


def test_inputs_of_all_kinds():
    layer = Dense(2, kernel_initializer="ones")
    for x in ([[1, 2, 3]], np.array([[1, 2, 3]]), np.array([[1, 2, 3]], "uint8"),
              minideep.tensor([[1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 3.0]])):
        y = layer(x)
        assert y.dtype == np.float32 and y.numpy().tolist() == [[6.0, 6.0]]


def test_names():
    a, b, c = Conv2DTranspose(2, 3), layers.LSTMCell(2), Dense(3, name="head")
    assert a.name.startswith("conv2d_transpose") and b.name.startswith("lstm_cell")
    assert c.name == "head" and Dense(3).name != Dense(3).name


def test_weights_given_and_taken():
    layer = Dense(2)
    with pytest.raises(ValueError, match="not built yet"):
        layer.set_weights([np.zeros((3, 2)), np.zeros(2)])
    layer(random((1, 3)))
    with pytest.raises(ValueError, match=r"kernel has shape \(3, 2\).*\(2, 3\)"):
        layer.set_weights([np.zeros((2, 3)), np.zeros(2)])
    taken = layer.get_weights()
    taken[0][:] = 5
    assert not (layer.kernel.numpy() == 5).any()
    layer.set_weights(taken)
    taken[0][:] = 6
    assert (layer.kernel.numpy() == 5).all() and layer.kernel.dtype == np.float32
    assert layer.kernel.requires_grad


def test_seeds_give_the_same_weights():
    def make():
        minideep.seed(5)
        layer = LSTM(4)
        layer.build((None, 3, 2))
        return layer.get_weights()
    for a, b in zip(make(), make()):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("make, message", [
    (lambda: Dense(0), "Dense wants units to be an integer above 0, got 0"),
    (lambda: LSTM(-1), "units to be an integer above 0, got -1"),
    (lambda: Dense(2.5), "got 2.5"),
    (lambda: Conv2D(0, 3), "filters"),
    (lambda: Conv2D(4, 0), "kernel_size must be at least 1"),
    (lambda: Conv2D(4, (1, 2, 3)), "kernel_size must be an integer or a pair"),
    (lambda: Conv2D(4, 3, padding="full"), "'valid', 'same' or integers, got 'full'"),
    (lambda: MaxPooling2D(padding="full"), "'valid', 'same' or integers, got 'full'"),
    (lambda: Conv2D(5, 3, groups=2), r"filters \(5\) to be divisible by groups \(2\)"),
    (lambda: Conv2DTranspose(5, 3, 2, output_padding=2), "must be smaller than the strides"),
    (lambda: Dense(3, activation="rleu"), "unknown activation 'rleu'.*relu"),
    (lambda: Dense(3, kernel_initializer="golrot"), "unknown initializer 'golrot'.*glorot_uniform"),
    (lambda: Dropout(1.5), "Dropout wants rate between 0 and 1, got 1.5"),
    (lambda: GRU(3, dropout=-1), "dropout between 0 and 1"),
    (lambda: GroupNormalization(0), "groups > 0"),
    (lambda: LSTM(3, gradient_gate=(-1, None)), "gradient gate"),
    (lambda: Bidirectional(LSTM(3), "max"), "merge modes"),
    (lambda: Bidirectional(LSTM(3), backward_layer=LSTM(3)), "go_backwards"),
    (lambda: Dense(3, dtype="float16"), "dtype"),
    (lambda: Input(), "either shape"),
    (lambda: Reshape((-1, -1)), "at most one -1"),
    (lambda: minideep.initializers.VarianceScaling(mode="fan"), "fan_in, fan_out, fan_avg"),
])
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make, message", [
    (lambda: Dense(3, actvation="relu"), r"Dense\(\) got an unexpected argument 'actvation'; "
                                         "it takes units, activation"),
    (lambda: LSTM(3, bath_size=2), r"LSTM\(\) got an unexpected argument 'bath_size'; "
                                   "it takes units.*unit_forget_bias.*gradient_gate"),
    (lambda: Conv2D(3, 3, data_format="channels_first"), "'data_format'"),
    (lambda: Dense(), "units"),
    (lambda: Dense(3, activation=5), "an activation is a name or a function"),
    (lambda: Dense(3, kernel_initializer=5), "an initializer is a name or a function"),
    (lambda: Dense(3, input_shape=(4)), r"such as \(4,\); got the number 4"),
    (lambda: Input(4), r"such as \(4,\); got the number 4"),
    (lambda: RNN(Dense(3)), "state_size"),
    (lambda: Bidirectional(Dense(3)), "recurrent layer"),
    (lambda: TimeDistributed(3), "wants a layer"),
])
def test_wrong_arguments(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("layer, shape, other, message", [
    (Conv2D(2, 3), (6, 6, 1), None, r"takes an input of shape \(N, H, W, C\), got \(6, 6, 1\)"),
    (Conv2D(2, 3), (1, 6, 6, 1), (1, 6, 6, 2), r"last axis \(C\) of 1, got \(1, 6, 6, 2\)"),
    (Conv2D(2, 3), (1, 2, 2, 1), None, "does not fit"),
    (Conv2D(2, 3, groups=2), (1, 6, 6, 3), None, "3 input channels into 2 equal groups"),
    (Dense(2), (1, 3), (1, 4), r"last axis \(C\) of 3, got \(1, 4\)"),
    (Dense(2), (3,), None, "takes an input of shape"),
    (LSTM(2), (3, 4), None, r"\(N, T, I\)"),
    (LSTM(2), (3, 0, 4), None, "at least one time step"),
    (LSTM(2), (3, 2, 4), (3, 2, 5), r"last axis \(I\) of 4"),
    (MaxPooling2D(), (3, 2, 4), None, r"\(N, H, W, C\)"),
    (layers.GlobalMaxPooling2D(), (3, 2, 4), None, r"\(N, H, W, C\)"),
    (BatchNormalization(), (2, 3), (2, 4), r"length \(3,\), got \(2, 4\)"),
    (BatchNormalization(axis=4), (2, 3), None, "does not have"),
    (GroupNormalization(), (2, 6), None, "6 channels into 32 equal groups"),
    (Reshape((4, 4)), (2, 15), None, "15 numbers a sample do not make 16"),
    (Reshape((4, -1)), (2, 15), None, "15 numbers a sample do not make 4"),
    (Input((3,)), (2, 4), None, r"takes inputs of shape \(None, 3\), got \(2, 4\)"),
    (TimeDistributed(Dense(2)), (2, 4), None, r"\(N, T, ...\)"),
])
def test_wrong_inputs(layer, shape, other, message):
    layer = layer.clone()
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape))
        layer(np.zeros(other))


def test_a_layer_of_ones_own_that_takes_no_name_is_written_too():
    class Bare(Layer):
        def __init__(self, n):
            super().__init__()

    assert Bare(3).get_config() == {"n": 3}
    assert isinstance(config.deserialize(config.serialize(Bare(3))), Bare)
    nested = config.deserialize(config.serialize({"layers": [Bare(3)], "rate": 0.5}))
    assert isinstance(nested["layers"][0], Bare) and nested["rate"] == 0.5


def test_what_cannot_be_written():
    with pytest.raises(TypeError, match="cannot be written to a file"):
        Dense(3, activation=lambda x: x).get_config()
    with pytest.raises(ValueError, match="no class named 'Missing'"):
        config.deserialize({"class_name": "Missing", "config": {}})


# ----------------------------------------------------------------- dropout, masks, batch statistics


def test_dropout_statistics():
    minideep.seed(0)
    y = Dropout(0.3)(np.ones((200, 500)), training=True).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / y.size)
    assert not Dropout(1.0)(np.ones((2, 3)), training=True).numpy().any()
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(Dropout(0.9)(x).numpy(), x)


def test_dropout_is_repeated_by_a_seed_and_by_a_checkpoint():
    layer, x = Dropout(0.5), random((4, 50))

    def draw():
        minideep.seed(1)
        return layer(x, training=True).numpy()
    np.testing.assert_array_equal(draw(), draw())
    assert (layer(x, training=True).numpy() != layer(x, training=True).numpy()).any()
    t = minideep.tensor(x, requires_grad=True)
    y = minideep.checkpoint(lambda t: layer(t, training=True), t)
    y.sum().backward()
    np.testing.assert_array_equal(t.grad.numpy() * x, y.numpy())


def test_noise_shape():
    y = Dropout(0.5, noise_shape=(None, 1, None))(np.ones((30, 4, 20)), training=True).numpy()
    assert (y == y[:, :1]).all() and 0 < (y == 0).mean() < 1


@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
def test_recurrent_dropout_has_one_mask_for_all_steps(kind):
    layer = kind(8, dropout=0.5, recurrent_dropout=0.5, return_sequences=True)
    x = random((3, 6, 4))
    layer(x)
    minideep.seed(2)
    y = layer(x, training=True).numpy()
    minideep.seed(2)
    masks = layer.cell.dropout_masks(minideep.tensor(x[:, 0]))
    states = [minideep.tensor(np.zeros((3, 8), "float32"))] * (2 if kind is LSTM else 1)
    for t in range(6):
        h, states = layer.cell(x[:, t], states, masks=masks)
        np.testing.assert_allclose(h.numpy(), y[:, t], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())


def test_input_dropout_is_the_same_fused_and_step_by_step():
    layer, x = LSTM(4, dropout=0.5), random(SEQUENCE)
    results = []
    for fused in (True, False):
        layer.cell.fuses = lambda training: fused
        layer.build(SEQUENCE)
        minideep.seed(0)
        results.append(layer(x, training=True).numpy())
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_moving_statistics():
    layer, x = BatchNormalization(momentum=0.9), random((50, 3)) * 3 + 5
    for _ in range(100):
        y = layer(x, training=True).numpy()
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-3)
    np.testing.assert_allclose(layer.moving_mean.numpy(), x.mean(0), rtol=1e-3)
    np.testing.assert_allclose(layer.moving_variance.numpy(), x.var(0), rtol=1e-3)
    np.testing.assert_allclose(layer(x).numpy(), y, atol=1e-2)
    assert layer.non_trainable_weights == [layer.moving_mean, layer.moving_variance]
    before = layer.get_weights()
    layer(x + 1)
    layer.trainable = False  # frozen: runs as in inference, as in Keras
    np.testing.assert_allclose(layer(x, training=True).numpy(), layer(x).numpy())
    for a, b in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_batch_statistics_may_move_before_an_earlier_graph_goes_back():
    layer, x = BatchNormalization(), random((5, 3))
    layer(x)
    y = layer(x)
    layer(x, training=True)
    y.sum().backward()
    assert layer.gamma.grad is not None


def test_masks_of_masking_and_where_they_end():
    x = random((2, 4, 3))
    x[0, 2:] = 0
    mask = Masking().compute_mask(x)
    other = Masking(mask_value=1.0)(np.where(x == 0, 1, x)).numpy()
    np.testing.assert_array_equal(other, x)
    assert mask.numpy().tolist() == [[True, True, False, False], [True] * 4]
    assert Dense(2).compute_mask(x, mask) is mask
    assert LSTM(2).compute_mask(x, mask) is None
    assert LSTM(2, return_sequences=True).compute_mask(x, mask) is mask
    with pytest.warns(UserWarning, match="mask"):
        assert Flatten().compute_mask(x, mask) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Flatten().compute_mask(x, None) is None


@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
def test_a_masked_sequence_is_its_shorter_self(kind):
    layer, x = kind(4), random((3, 6, 2))
    lengths = np.array([6, 1, 4])
    y = layer(x, mask=np.arange(6) < lengths[:, None]).numpy()
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(layer(x[i:i + 1, :n]).numpy()[0], y[i], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="wants a mask of shape"):
        layer(x, mask=np.ones((3, 5), bool))


# ------------------------------------------------------------------------------------ carried state


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
def test_stateful_in_pieces_is_the_whole(kind, activation):
    layer = kind(4, activation, stateful=True, return_sequences=True)
    x = random((2, 7, 3))
    whole = layer(x).numpy()
    layer.reset_states()
    cuts = [(0, 2), (2, 3), (3, 7)]
    pieces = np.concatenate([layer(x[:, a:b]).numpy() for a, b in cuts], axis=1)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-6)
    assert (layer(x).numpy() != whole).any()
    layer.reset_state()
    np.testing.assert_array_equal(layer(x).numpy(), whole)
    assert len(layer.weights) == 3  # the states are none of them
    with pytest.raises(ValueError, match="keeps its batch size until reset_states"):
        layer(random((3, 7, 3)))


def test_stateful_calls_are_separate_graphs():
    layer, x = GRU(4, stateful=True), minideep.tensor(random(SEQUENCE), requires_grad=True)
    layer(x)
    y = layer(random(SEQUENCE))
    y.sum().backward()
    assert x.grad is None
    outer = Bidirectional(GRU(4, stateful=True))
    outer(random(SEQUENCE))
    outer.reset_states()
    assert outer.forward_layer.states is None and outer.backward_layer.states is None


def test_initial_state_is_checked_and_gets_gradients():
    layer, x = LSTM(4, return_state=True), random(SEQUENCE)
    h, c = (minideep.tensor(random((2, 4), i), requires_grad=True) for i in (0, 1))
    y, final_h, final_c = layer(x, initial_state=[h, c])
    np.testing.assert_array_equal(y.numpy(), final_h.numpy())
    (y.sum() + final_c.sum()).backward()
    assert h.grad.shape == c.grad.shape == (2, 4)
    with pytest.raises(ValueError, match=r"wants states of shape \[\(2, 4\), \(2, 4\)\]"):
        layer(x, initial_state=[h])
    with pytest.raises(ValueError, match="wants 2 initial states, the forward layer's first; got 1"):
        Bidirectional(GRU(4))(x, initial_state=[h])


def test_first_biases():
    lstm, gru = LSTM(2), GRU(2)
    lstm(random(SEQUENCE)), gru(random(SEQUENCE))
    assert lstm.cell.bias.numpy().tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert gru.cell.bias.shape == (2, 6)
    r = lstm.cell.recurrent_kernel.numpy()
    np.testing.assert_allclose(r @ r.T, np.eye(2), atol=1e-6)


# ------------------------------------------------------------------------ convolution and pooling


@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("strides", [1, 2, (2, 3)])
def test_transposed_convolution_is_the_adjoint(padding, strides):
    """<conv(x), y> = <x, transposed(y)> with the same kernel."""
    forward = Conv2D(3, 3, strides, padding, use_bias=False)
    x = random((2, 13, 13, 4))
    z = forward(x)
    y = random(z.shape, 1)
    back = Conv2DTranspose(4, 3, strides, padding, use_bias=False)
    back.build(z.shape)
    back.set_weights(forward.get_weights())
    u = back(y).numpy()
    x = random(u.shape, 2)  # several sizes go to that of z; this one does too
    np.testing.assert_allclose((forward(x).numpy() * y).sum(), (x * u).sum(), rtol=1e-4)


@pytest.mark.parametrize("kernel", [3, 4])
def test_output_padding_with_same(kernel):
    """Keras's size, (H - 1)·stride + K - 2·(K // 2) + output_padding; the adjoint for that size."""
    back = Conv2DTranspose(4, kernel, 2, "same", output_padding=1, use_bias=False)
    y = random((2, 5, 5, 3))
    u = back(y).numpy()
    size = 4 * 2 + kernel - 2 * (kernel // 2) + 1
    assert u.shape == (2, size, size, 4) == back.compute_output_shape(y.shape)
    forward, x = Conv2D(3, kernel, 2, "same", use_bias=False), random(u.shape, 1)
    forward.build(x.shape)
    forward.set_weights(back.get_weights())
    np.testing.assert_allclose((forward(x).numpy() * y).sum(), (x * u).sum(), rtol=1e-4)


def test_average_pooling_leaves_the_padding_out():
    y = layers.AveragePooling2D(3, 2, "same")(np.ones((1, 6, 6, 1))).numpy()
    np.testing.assert_array_equal(y, np.ones((1, 3, 3, 1)))


def test_flops():
    assert Dense(3).flops((None, 5)) == 2 * 5 * 3
    assert Conv2D(8, 3, padding="same").flops((None, 10, 10, 4)) == 2 * 100 * 8 * 9 * 4
    assert Conv2D(8, 3, padding="same", groups=4).flops((1, 10, 10, 4)) == 2 * 100 * 8 * 9
    assert DepthwiseConv2D(3, padding="same").flops((None, 10, 10, 4)) == 2 * 100 * 4 * 9
    assert LSTM(6).flops((None, 5, 3)) == 5 * 2 * 24 * (3 + 6)
    assert Conv2DTranspose(3, 2, 2).flops((None, 4, 4, 5)) == 2 * 16 * 5 * 4 * 3


def test_an_activation_may_be_any_function():
    layer = Dense(2, activation=lambda t: ops.maximum(t, 1.0), kernel_initializer="zeros")
    y = layer(np.ones((1, 2)))
    assert y.numpy().tolist() == [[1.0, 1.0]]
    assert minideep.activations.get(None)(3) == 3


def test_a_checkpoint_moves_the_statistics_of_batch_normalization_once():
    x = minideep.tensor(np.random.default_rng(0).standard_normal((8, 3)), requires_grad=True)
    once, twice = (layers.BatchNormalization(dtype="float64") for _ in range(2))
    for norm in (once, twice):
        norm.build(x.shape)
    once(x, training=True)
    minideep.checkpoint(lambda x: twice(x, training=True), x).sum().backward()
    np.testing.assert_array_equal(twice.moving_mean.numpy(), once.moving_mean.numpy())


def test_a_stateful_layer_refuses_to_run_twice_in_a_checkpoint():
    layer = layers.LSTM(2, stateful=True)
    x = minideep.tensor(np.zeros((1, 3, 2), "float32"), requires_grad=True)
    y = minideep.checkpoint(layer, x)
    with pytest.raises(RuntimeError, match="stateful"):
        y.sum().backward()
