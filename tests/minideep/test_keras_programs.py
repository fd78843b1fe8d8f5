"""The programs of examples/keras_*.py are Keras programs: the same source, with `keras` for
`minideep` in its import lines, gives the same numbers in Keras 3."""

import os
import pathlib
import re

import numpy as np
import pytest

import kernels

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("sklearn")

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
PROGRAMS = {"keras_cnn": (32,), "keras_lstm": (), "keras_lstm_two_layers": ()}
CORPUS = {name: (EXAMPLES / f"{name}.py").read_text() for name in PROGRAMS}


def _program(name, package):
    """What the program defines, run with its imports from `package`."""
    source = re.sub(r"^from minideep\b", f"from {package}", CORPUS[name], flags=re.M)
    namespace = {"__name__": name}
    exec(compile(source, f"{name}.py ({package})", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", PROGRAMS)
def test_only_import_lines_name_the_engine(name):
    text = CORPUS[name].split('"""', 2)[2]  # after the docstring
    lines = [line for line in text.splitlines() if "minideep" in line]
    assert len(lines) == 2 and all(re.match(r"from minideep\.(layers|models) import", line)
                                   for line in lines), lines


def _in_double_precision(model):
    for layer in model.sublayers():
        layer.dtype = "float64"
    for weight in model.weights:
        weight.data = weight.data.astype("float64")


def _set_precision(keras, dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")  # Keras 3 would like an Input
@pytest.mark.parametrize("name, dtype, steps", [
    ("keras_lstm", "float32", 20), ("keras_lstm_two_layers", "float32", 20),
    ("keras_lstm", "float64", 20), ("keras_lstm_two_layers", "float64", 20),
    # In float32 training can be chaotic: rounding decides a ReLU near 0 or a tie of the pool, and Adam
    # makes a full step of it. These batches are calm: change Keras's first weights by 1e-7, and its
    # curve moves by 1e-5 in 20 steps. With batches of 32 it moves by 1e-3, and so do we beside it.
    ("keras_cnn", "float64", 20), ("keras_cnn", "float32", 20)])
# im2col's sums are rounded much as PyTorch's are; those of the compiled rungs, as exact, otherwise.
@kernels.use(conv2d="im2col", conv2d_input_grad="im2col", conv2d_weight_grad="im2col")
def test_outputs_and_20_training_steps_as_in_keras(name, dtype, steps):
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    ours, theirs = _program(name, "minideep"), _program(name, "keras")
    x, y = ours["load_data"](*PROGRAMS[name])
    for a, b in zip((x, y), theirs["load_data"](*PROGRAMS[name])):
        np.testing.assert_array_equal(a, b)
    _set_precision(keras, dtype)
    try:
        keras.utils.set_random_seed(0)
        model, peer = ours["make_model"](*PROGRAMS[name]), theirs["make_model"](*PROGRAMS[name])
        if dtype == "float64":
            _in_double_precision(model)
        assert [w.shape for w in model.get_weights()] == [w.shape for w in peer.get_weights()]
        model.set_weights(peer.get_weights())
        np.testing.assert_allclose(model.predict(x[:16]), peer.predict(x[:16], verbose=0), rtol=0,
                                   atol=1e-5 if dtype == "float32" else 1e-7)
        curves = [], []
        for i in range(steps):
            part = slice(i * 16, (i + 1) * 16)
            for curve, m in zip(curves, (model, peer)):
                if m is peer:
                    peer.reset_metrics()  # Keras's averages run on from batch to batch
                curve.append(np.atleast_1d(m.train_on_batch(x[part], y[part])))
        a, b = (np.array(curve) for curve in curves)
        assert b[0, 0] != pytest.approx(b[-1, 0], rel=1e-2), "nothing was learned: no comparison"
        # (What Keras hands out are float32 numbers, whatever it computes in.)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 if dtype == "float32" else 1e-6)
        evaluated = [np.atleast_1d(m.evaluate(x[:64], y[:64], verbose=0)) for m in (model, peer)]
        np.testing.assert_allclose(*evaluated, rtol=0, atol=1e-4)
    finally:
        _set_precision(keras, "float32")


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
def test_fit_gives_keras_s_history():
    """Averages over unequal batches, the validation split, class and sample weights."""
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    ours, theirs = _program("keras_lstm", "minideep"), _program("keras_lstm", "keras")
    x, y = ours["load_data"]()
    x, y = x[:90], (y[:90] > 0.15).astype("float32")
    model, peer = ours["make_model"](), theirs["make_model"]()
    model.set_weights(peer.get_weights())
    histories = []
    for m in (model, peer):
        m.compile(optimizer="rmsprop", loss="mse", metrics=["mae", "accuracy"])
        histories.append(m.fit(
            x, y, batch_size=32, epochs=2, verbose=0, shuffle=False, validation_split=0.3,
            class_weight={0: 1.0, 1: 2.5}).history)
    assert set(histories[0]) == set(histories[1])
    for key, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][key], atol=1e-4, err_msg=key)
    weight = np.linspace(0, 1, 90, dtype="float32")
    for m in (model, peer):
        m.compile(optimizer="sgd", loss="mse")
    pair = [m.fit(x, y, batch_size=40, verbose=0, shuffle=False, sample_weight=weight).history["loss"]
            for m in (model, peer)]
    np.testing.assert_allclose(*pair, atol=1e-4)
    pair = [np.ravel(m.evaluate(x, y, sample_weight=weight, verbose=0))[0] for m in (model, peer)]
    np.testing.assert_allclose(*pair, atol=1e-4)


@pytest.mark.slow
def test_the_224_pixel_network_takes_a_step():
    """86 million weights, some 1.5 GB with the optimizer's state."""
    program = _program("keras_cnn", "minideep")
    x, y = program["load_data"](224)
    model = program["make_model"]()
    assert model.count_params() == 32 * 28 + 64 * 289 + 128 * 577 + (26 * 26 * 128 + 1) * 1024 + 1025
    first = model.train_on_batch(x[:2], y[:2])[0]
    assert model.train_on_batch(x[:2], y[:2])[0] != first
