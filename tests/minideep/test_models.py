"""Sequential and Model: fit, evaluate and predict against a loop written by hand; files; errors."""

import json
import os

import numpy as np
import pytest

import minideep
from minideep import layers, losses, models, optimizers, serialization
from minideep.data import ArrayDataset, DataLoader
from minideep.models import Model, Sequential


class TwoWays(Model):
    """A model of one's own: two paths, added."""

    def __init__(self, units):
        super().__init__()
        self.wide = layers.Dense(units, activation="relu")
        self.out = layers.Dense(1)
        self.short = layers.Dense(1, use_bias=False)

    def call(self, x):
        return self.out(self.wide(x)) + self.short(x)


def _data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)).astype("float32")
    return x, (x[:, :1] * 2 - x[:, 1:2] * x[:, 2:]).astype("float32")


def _model(seed=1, **compiled):
    minideep.seed(seed)
    model = Sequential([layers.Dense(8, activation="tanh", input_shape=(3,)), layers.Dense(1)])
    model.compile(**{"optimizer": "adam", "loss": "mse", **compiled})
    return model


# ------------------------------------------------------------------------------------ training loops

@pytest.mark.parametrize("shuffle", [False, True])
def test_fit_is_the_loop_that_one_would_write(shuffle):
    x, y = _data()
    model, twin = _model(), _model()
    minideep.seed(3)
    history = model.fit(x, y, batch_size=16, epochs=3, shuffle=shuffle, verbose=0)

    minideep.seed(3)
    optimizer, means = optimizers.Adam(), []
    for _ in range(3):
        order = minideep.random.generator().permutation(50) if shuffle else np.arange(50)
        total = 0.0
        for start in range(0, 50, 16):
            part = order[start:start + 16]
            loss = ((twin(x[part]) - minideep.tensor(y[part])) ** 2).mean()
            total += loss.item() * len(part)
            loss.backward()
            optimizer.step(twin.parameters())
        means.append(total / 50)
    np.testing.assert_allclose(history.history["loss"], means, rtol=1e-5)
    assert history.epoch == [0, 1, 2]
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_evaluate_and_predict_cover_every_sample():
    x, y = _data(37)
    model = _model(metrics=["mae", "accuracy"])
    expected = model(x).numpy()
    predicted = model.predict(x, batch_size=8)
    assert type(predicted) is np.ndarray
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    loss, mae, _ = model.evaluate(x, y, batch_size=8, verbose=0)
    assert loss == pytest.approx(((expected - y) ** 2).mean(), rel=1e-5)
    assert mae == pytest.approx(abs(expected - y).mean(), rel=1e-5)
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "mae", "accuracy"}
    weight = np.linspace(0, 1, 37)
    weighted = _model()
    assert weighted.evaluate(x, y, verbose=0, sample_weight=weight) == pytest.approx(
        ((weighted(x).numpy() - y)[:, 0] ** 2 * weight).mean(), rel=1e-5)


def test_the_validation_split_is_the_last_samples_before_shuffling():
    x, y = _data(40)
    y[30:] = 1000
    model = _model(optimizer=optimizers.SGD(0.0))
    history = model.fit(x, y, validation_split=0.25, verbose=0, shuffle=True).history
    assert history["loss"][0] < 100 and history["val_loss"][0] > 900_000
    given = _model(optimizer=optimizers.SGD(0.0)).fit(
        x[:30], y[:30], validation_data=(x[30:], y[30:]), verbose=0).history
    assert given == history


def test_fit_takes_loaders_and_lists_of_batches():
    x, y = _data(48)
    batches = [(x[i:i + 16], y[i:i + 16]) for i in range(0, 48, 16)]
    expected = _model().fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history["loss"]
    loader = DataLoader(ArrayDataset(x, y), batch_size=16, prefetch=2)
    for data in (batches, loader):
        model = _model()
        assert model.fit(data, epochs=2, verbose=0).history["loss"] == expected
        assert model.evaluate(data, verbose=0) == model.evaluate(x, y, batch_size=16, verbose=0)


def test_class_weights_are_sample_weights():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 3)), rng.integers(0, 3, 30)
    losses_seen = []
    for options in ({"class_weight": {0: 3.0, 2: 0.5}},
                    {"sample_weight": np.array([3.0, 1.0, 0.5])[y]}):
        minideep.seed(0)
        model = Sequential([layers.Dense(3, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        losses_seen.append(model.fit(x, y, verbose=0, shuffle=False, **options).history["loss"])
    assert losses_seen[0] == losses_seen[1]


def test_gradients_left_over_from_before_do_not_count():
    x, y = _data()
    model, twin = _model(), _model()
    losses.get("mse")(y, model(x)).backward()
    assert model.train_on_batch(x, y) == twin.train_on_batch(x, y)
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_dropout_and_batch_normalization_know_training_from_testing():
    x, y = _data(64)
    minideep.seed(0)
    model = Sequential([layers.Dense(16, input_shape=(3,)), layers.BatchNormalization(),
                        layers.Dropout(0.5), layers.Dense(1)])
    model.compile("sgd", "mse")
    np.testing.assert_array_equal(model.predict(x), model.predict(x))
    before = [w.copy() for w in model.get_weights()]
    model.evaluate(x, y, verbose=0)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
    model.fit(x, y, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert sum(changed) >= len(changed) - 1  # moving statistics too
    assert not np.array_equal(model(x, training=True).numpy(), model(x, training=True).numpy())


def test_averaged_weights_replace_the_others_at_the_end_of_fit():
    x, y = _data()
    model = _model(optimizer=optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    twin = _model(optimizer=optimizers.SGD(0.1))
    model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
    averages = None
    for i in range(5):
        twin.train_on_batch(x[i * 10:i * 10 + 10], y[i * 10:i * 10 + 10])
        now = twin.get_weights()
        averages = now if averages is None else [0.5 * a + 0.5 * b for a, b in zip(averages, now)]
    for a, b in zip(model.get_weights(), averages):
        np.testing.assert_allclose(a, b, atol=1e-6)


# --------------------------------------------------------------------------------------- Sequential

def test_the_ways_to_make_a_sequential():
    def weights(model):
        return [w.shape for w in model.get_weights()]

    expected = [(3, 8), (8,), (8, 2), (2,)]
    added = Sequential()
    added.add(layers.Dense(8, input_shape=(3,)))
    added.add(layers.Dense(2))
    assert weights(added) == expected  # before any call
    assert weights(Sequential([layers.Input((3,)), layers.Dense(8), layers.Dense(2)])) == expected
    assert weights(Sequential([layers.Dense(8, input_dim=3), layers.Dense(2)])) == expected
    lazy = Sequential([layers.Dense(8), layers.Dense(2)])
    assert weights(lazy) == []
    assert lazy(np.zeros((5, 3))).shape == (5, 2) and weights(lazy) == expected
    nested = Sequential([Sequential([layers.Dense(8, input_shape=(3,))]), layers.Dense(2)])
    assert weights(nested) == expected
    inner = Sequential([layers.Dense(8)])
    built = Sequential([inner, layers.Dense(2)])
    built.build((None, 3))
    assert weights(built) == expected and built.compute_output_shape((None, 3)) == (None, 2)


def test_a_clone_has_layers_of_its_own():
    model = Sequential([layers.Dense(3)])
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(1))
    twin = model.clone()
    assert [type(v) for v in twin.layers] == [type(v) for v in model.layers]
    assert not set(map(id, twin.sublayers())) & set(map(id, model.sublayers()))


def test_masks_pass_from_layer_to_layer():
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    x[0, 3:] = 0
    minideep.seed(0)
    model = Sequential([layers.Masking(0.0), layers.LSTM(4, return_sequences=True), layers.LSTM(2)])
    short = model(x[:1, :3]).numpy()
    np.testing.assert_allclose(model(x).numpy()[:1], short, atol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_loss_and_metrics_leave_out_masked_steps(nested):
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype("float32")
    x[0, 3:] = x[2, :1] = 0
    y = np.random.default_rng(1).standard_normal((4, 5, 2)).astype("float32")
    chain = [layers.Masking(), layers.LSTM(4, return_sequences=True)]
    model = Sequential([*([Sequential(chain)] if nested else chain), layers.Dense(2)])
    model.compile(minideep.optimizers.SGD(0.0), "mse", metrics="mae")
    there = (x != 0).any(axis=-1)
    error = model.predict(x)[there] - y[there]
    expected = [np.mean(error ** 2), np.mean(np.abs(error))]
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), expected, rtol=1e-5)
    history = model.fit(x, y, epochs=1, verbose=0).history
    np.testing.assert_allclose([history["loss"][0], history["mae"][0]], expected, rtol=1e-5)


class Remembers(Model):
    def __init__(self):
        super().__init__()
        self.memory, self.head = layers.LSTM(3, stateful=True), layers.Dense(1)

    def call(self, x):
        return self.head(self.memory(x))


def test_finding_out_shapes_leaves_states_alone():
    x = np.random.default_rng(0).standard_normal((4, 5, 2)).astype("float32")
    model = Remembers()
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((4, 1)), batch_size=4, verbose=0)  # builds with a batch of another size
    before = model.memory.states[0].numpy()
    model.summary(print_fn=lambda text: None)
    np.testing.assert_array_equal(model.memory.states[0].numpy(), before)


def test_summary_lists_shapes_parameters_and_operations():
    lines = []
    model = Sequential([
        layers.Conv2D(4, (3, 3), input_shape=(8, 8, 2)), layers.MaxPooling2D(),
        layers.Flatten(), layers.BatchNormalization(), layers.Dense(5)])
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "(None, 6, 6, 4)" in text and "(None, 36)" in text and "(None, 5)" in text
    row = next(line for line in text.splitlines() if "Conv2D" in line).split()
    assert row[-2] == str(3 * 3 * 2 * 4 + 4) and int(row[-1].replace(",", "")) in (
        2 * 36 * 18 * 4, 2 * 36 * 18 * 4 + 36 * 4)
    assert f"{model.count_params():,}" in text and "of these 72 parameters are not trainable" in text
    own = TwoWays(4)
    with pytest.raises(ValueError, match="no weights yet"):
        own.summary()
    own(np.zeros((2, 3)))
    lines.clear()
    own.summary(print_fn=lines.append)
    assert "\n".join(lines).count("(Dense)") == 3 and "(None, 4)" in "\n".join(lines)


# -------------------------------------------------------------------------------------------- files

@pytest.mark.parametrize("make", [
    lambda: _model(), lambda: TwoWays(6),
    lambda: Sequential([layers.Conv2D(3, 3, activation="relu", input_shape=(6, 6, 1)),
                        layers.BatchNormalization(), layers.Flatten(), layers.Dense(2)]),
    lambda: Sequential([layers.Bidirectional(layers.LSTM(3, return_sequences=True)), layers.GRU(2)])],
    ids=["dense", "own", "conv", "recurrent"])
def test_a_saved_model_is_loaded_whole(tmp_path, make):
    model = make()
    shape = (2, 3) if model.build_shape is None and isinstance(model, TwoWays) else None
    shape = shape or ((2, *model.build_shape[1:]) if model.build_shape else (2, 4, 3))
    x = np.random.default_rng(0).standard_normal(shape)
    expected = model(x, training=True).numpy() * 0 + model(x).numpy()
    model.save(tmp_path / "model.safetensors")
    again = models.load_model(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    np.testing.assert_array_equal(again(x).numpy(), expected)
    for a, b in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_loaded_model_trains_on_as_if_nothing_had_happened(tmp_path):
    x, y = _data()
    whole = _model(optimizer=optimizers.Adam(0.01, clipnorm=1.0), loss=losses.Huber(delta=0.5),
                   metrics=["mae"])
    first = whole.fit(x, y, epochs=2, shuffle=False, verbose=0)
    whole.save(tmp_path / "m.safetensors")
    loaded = models.load_model(tmp_path / "m.safetensors")
    assert loaded.optimizer.clipnorm == 1.0 and loaded.optimizer.iterations == 4
    assert loaded.loss.options == {"delta": 0.5}
    a = whole.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    b = loaded.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    assert a == b and a["loss"][0] < first.history["loss"][0]


@pytest.mark.parametrize("make", [_model, lambda: TwoWays(4)])
def test_frozen_layers_are_loaded_frozen(make, tmp_path):
    x, y = _data()
    model = make()
    model(x)
    list(model._children())[0][1].trainable = False
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.safetensors")
    again = models.load_model(tmp_path / "m.safetensors")
    assert len(again.trainable_weights) == len(model.trainable_weights) < len(model.weights)
    again.fit(x, y, verbose=0)  # the optimizer's state fits


def test_weights_files(tmp_path):
    path = tmp_path / "w.safetensors"
    model, other = _model(seed=1), _model(seed=2)
    model.save_weights(path)
    other.load_weights(path)
    for a, b in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
    model.save(path)  # a whole model's file also has the weights
    _model(seed=3).load_weights(path)
    assert isinstance(json.loads(json.dumps(serialization.load_arrays(path)[1])), dict)
    wrong = Sequential([layers.Dense(9, input_shape=(3,)), layers.Dense(1)])
    before = wrong.get_weights()
    with pytest.raises(ValueError, match=r"\(3, 8\) in the file, \(3, 9\) in the model"):
        wrong.load_weights(path)
    for a, b in zip(before, wrong.get_weights()):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="no weights yet"):
        Sequential([layers.Dense(3)]).save_weights(path)
    with pytest.raises(ValueError, match="no weights yet"):
        Sequential([layers.Dense(3)]).load_weights(path)
    model.save_weights(path)
    with pytest.raises(ValueError, match="no architecture"):
        models.load_model(path)
    assert os.listdir(tmp_path) == ["w.safetensors"]


# ------------------------------------------------------------------------------------------- errors

def test_errors_say_what_to_do():
    x, y = _data()
    bare = Sequential([layers.Dense(1)])
    for call in (bare.fit, bare.evaluate, bare.train_on_batch):
        with pytest.raises(RuntimeError, match="compile"):
            call(x, y)
    with pytest.raises(ValueError, match="compile\\(\\) needs a loss"):
        bare.compile("adam")
    model = _model()
    with pytest.raises(ValueError, match=r"\(50, 3\), \(49, 1\)"):
        model.fit(x, y[:49], verbose=0)
    with pytest.raises(ValueError, match="without y"):
        model.fit(x, verbose=0)
    with pytest.raises(ValueError, match="no samples"):
        model.fit(x[:0], y[:0], verbose=0)
    with pytest.raises(ValueError, match="no samples"):
        model.predict(x[:0])
    for share in (1.0, 0.999, -0.5):
        with pytest.raises(ValueError, match="validation_split"):
            model.fit(x, y, validation_split=share, verbose=0)
    with pytest.raises(ValueError, match="y_true has shape"):
        model.fit(x, np.zeros((50, 2)), verbose=0)
    with pytest.raises(ValueError, match="want arrays"):
        model.fit([(x, y)], validation_split=0.5, verbose=0)
    with pytest.raises(ValueError, match="empty after its first epoch"):
        model.fit(iter([(x, y)]), epochs=2, verbose=0)
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        model.fit([(x,)], verbose=0)
    with pytest.raises(TypeError, match="class_weight is a dictionary"):
        model.fit(x, y, class_weight=[1, 2], verbose=0)
    with pytest.raises(TypeError, match="made of layers"):
        Sequential([3])


def test_small_mistakes_are_told(tmp_path):
    x, y = np.ones((4, 3), "float32"), np.ones((4, 3), "float32")
    shared = layers.Dense(3)
    model = models.Sequential([shared, shared])
    model.compile("sgd", losses.MeanSquaredError)
    for wrong in ((x,), x):
        with pytest.raises(ValueError, match="validation_data"):
            model.fit(x, y, validation_data=wrong, verbose=0)
    for wrong in ("4", None, 4.5, 0):
        with pytest.raises(ValueError, match="batch_size"):
            model.fit(x, y, batch_size=wrong, verbose=0)
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="a layer twice"):
        model.save(tmp_path / "model.safetensors")
    model.save_weights(tmp_path / "weights.safetensors")


def test_a_subclass_says_which_time_steps_count():
    class Masked(models.Model):
        def call(self, x):
            self.output_mask = minideep.tensor(np.array([[True, False]] * 2))
            return x * 1.0

    model = Masked()
    model.compile("sgd", "mse")
    y = np.array([[[1.0], [9.0]], [[3.0], [9.0]]], "float32")
    assert model.evaluate(np.zeros((2, 2, 1), "float32"), y, verbose=0) == pytest.approx((1 + 9) / 2)
