# %% [markdown]
# # The source text's LSTM programs: a forecast from a sequence
#
# One LSTM layer and a dense one, then two LSTM layers: both programs as they were written for Keras,
# with only the import changed. They read a handwritten digit row by row, from the top, and forecast
# how much ink the last row will have. Is a forecast better than a good guess? We compare with three
# guesses that need no network.

# %%
import numpy as np
from course import show
from sklearn.datasets import load_digits

import minideep
from minideep import inspect
from minideep.layers import LSTM, Dense
from minideep.models import Sequential

timesteps, features = 7, 8


def one_layer():
    model = Sequential()
    model.add(LSTM(128, input_shape=(timesteps, features)))
    model.add(Dense(1))
    model.compile(optimizer='adam', loss='mean_squared_error')
    return model


def two_layers():
    model = Sequential()
    model.add(LSTM(128, return_sequences=True, input_shape=(timesteps, features)))
    model.add(LSTM(128))
    model.add(Dense(1))
    model.compile(optimizer='adam', loss='mean_squared_error')
    return model


# %% [markdown]
# ## Data and guesses
#
# x: rows 0 to 6 of each image, (1797, 7, 8), in [0, 1]; y: the mean of row 7. The guesses: always the
# mean of the training set; the ink of the row before; and linear regression on all 56 pixels.

# %%
images = load_digits().images.astype("float32") / 16
x, y = images[:, :7], images[:, 7].mean(axis=1, keepdims=True)
train, test = slice(0, 1437), slice(1437, None)


def error(forecast):
    return float(((forecast - y[test]) ** 2).mean())


def with_one(x):
    return np.concatenate([x.reshape(len(x), -1), np.ones((len(x), 1), "float32")], axis=1)


weights, *_ = np.linalg.lstsq(with_one(x[train]), y[train], rcond=None)
errors = {"the mean": error(y[train].mean()),
          "the row before": error(x[test, 6].mean(axis=1, keepdims=True)),
          "linear regression": error(with_one(x[test]) @ weights)}

# %%
histories, models = {}, {}
for name, make in (("one LSTM layer", one_layer), ("two LSTM layers", two_layers)):
    minideep.seed(0)
    models[name] = make()
    history = models[name].fit(x[train], y[train], epochs=30, batch_size=32, verbose=0,
                               validation_data=(x[test], y[test]))
    histories[name] = history.history["val_loss"]
    errors[name] = float(np.median(histories[name][-10:]))  # single epochs jump up and down
for name, value in errors.items():
    print(f"{name:<18} mean squared error {value:.5f}")

# %%
with inspect.style() as plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, curve in histories.items():
        left.semilogy(range(1, 31), curve, "o-", label=name)
    left.set(xlabel="epoch", ylabel="mean squared error, 360 digits kept apart")
    left.legend()
    left.grid(True)
    right.barh(list(errors), list(errors.values()), color="#3b8fd6")
    right.set(xlabel="mean squared error")
show(figure, "Both LSTMs end with less error than linear regression (the median of the last ten epochs), "
             "which is better than either simple guess.")

# %% [markdown]
# ## Which row mattered?
#
# The gradient of the forecast at the input says how much each row moves it. The last rows do most;
# that is not forgetfulness but the data: ink continues from row to row.

# %%
pixels = minideep.tensor(x[test], requires_grad=True)
models["one LSTM layer"](pixels).sum().backward()
influence = np.abs(pixels.grad.numpy()).mean(axis=(0, 2))
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(5.5, 2.8), layout="constrained")
    ax.bar(range(timesteps), influence, color="#3fa66a")
    ax.set(xlabel="row", ylabel="mean |∂forecast/∂pixel|")
show(figure, "The row just before the forecast one moves it most.")

# %% [markdown]
# ## Exercises
#
# 1. `lstm_step(x, h, c, W, R, b)`: one step of the LSTM in NumPy, gates in the order i, f, c̃, o.
#    Compare with the layer.
# 2. `parameters(features, units)`: the number of weights of one LSTM layer. Why four times a
#    SimpleRNN's?
#
# Solutions: `examples/solutions/07.py`.
