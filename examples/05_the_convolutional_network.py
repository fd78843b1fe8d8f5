# %% [markdown]
# # The source text's convolutional network
#
# Convolution, ReLU, pooling, three times; then flatten and two dense layers: the program as it was
# written for Keras, with only the import changed. It learns whether a handwritten digit is odd; and
# then we look at what it has learned.

# %%
import numpy as np
from course import show
from sklearn.datasets import load_digits

import minideep
from minideep import inspect
from minideep.layers import Conv2D, Dense, Flatten, MaxPooling2D
from minideep.models import Sequential

SIZE = 32  # the text has 224


def make_model():
    model = Sequential()
    model.add(Conv2D(32, (3, 3), activation='relu', input_shape=(SIZE, SIZE, 3)))
    model.add(MaxPooling2D((2, 2)))
    model.add(Conv2D(64, (3, 3), activation='relu'))
    model.add(MaxPooling2D((2, 2)))
    model.add(Conv2D(128, (3, 3), activation='relu'))
    model.add(MaxPooling2D((2, 2)))
    model.add(Flatten())
    model.add(Dense(1024, activation='relu'))
    model.add(Dense(1, activation='sigmoid'))
    model.compile(optimizer='adam', loss='binary_crossentropy', metrics=['accuracy'])
    return model


# %% [markdown]
# ## The data
#
# scikit-learn's 1,797 digits of 8x8 pixels, each pixel enlarged to 4x4, on three equal channels; the
# label is 1 for an odd digit. The last 360 are kept for the judgement.

# %%
images, digits = load_digits(return_X_y=True)
pixel = np.arange(SIZE) * 8 // SIZE
x = images.reshape(-1, 8, 8)[:, pixel][:, :, pixel] / 16 - 0.5
x = np.repeat(x[..., None], 3, axis=-1).astype("float32")
y = (digits % 2).astype("float32").reshape(-1, 1)

minideep.seed(0)
model = make_model()
model.summary()

# %% [markdown]
# Where do the weights sit? The dense layer after `Flatten` has most of them; where does the time go?
# To the second and third convolution: a weight of theirs is used at every place of the map.

# %%
history = model.fit(x[:1437], y[:1437], epochs=3, batch_size=32, verbose=0,
                    validation_data=(x[1437:], y[1437:]))
for key, values in history.history.items():
    print(f"{key:<13}", "  ".join(f"{v:.3f}" for v in values))
accuracy = model.evaluate(x[1437:], y[1437:], verbose=0)[1]

# %%
with inspect.style() as plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    epochs = range(1, 4)
    for ax, key in ((left, "loss"), (right, "accuracy")):
        ax.plot(epochs, history.history[key], "o-", label="training")
        ax.plot(epochs, history.history[f"val_{key}"], "o-", label="the 360 kept apart")
        ax.set(xlabel="epoch", ylabel=key, xticks=list(epochs))
        ax.grid(True)
        ax.legend()
show(figure, "Three passes over 1,437 digits: more than 93 % of the digits kept apart are right.")

# %% [markdown]
# ## What the first layer looks for
#
# Its filters have 3x3 weights for each of three channels (equal pictures here, so their colours mean
# nothing, their light and dark sides do). Below them what one digit becomes, layer by layer: edges at
# first, then coarser and more abstract maps.

# %%
show(inspect.plot_filters(model.layers[0]), "The 32 filters of the first layer.")

# %%
with inspect.record(model) as outputs, minideep.no_grad():
    model(x[1437:1438])
shapes = {name.split("/")[-1]: calls[0].shape for name, calls in outputs.items()}
show(inspect.plot_activations(outputs), f"A {digits[1437]} on its way: six maps of sizes 30 to 2.")

# %% [markdown]
# ## Where the time goes
#
# Ten training steps, by layer, for one is easily disturbed. A convolution's backward pass is two more
# convolutions, so it takes about twice its forward pass.

# %%
model.train_on_batch(x[:32], y[:32])
with inspect.profile() as profile:
    for _ in range(10):
        loss = minideep.losses.BinaryCrossentropy()(minideep.tensor(y[:32]), model(x[:32]))
        loss.backward()
print(profile.table("layer"))
seconds = {row["layer"].split("/")[-1] + " " + row["phase"]: row["seconds"]
           for row in profile.by("layer")}
convolutions = sum(s for name, s in seconds.items() if name.startswith("conv"))
share = convolutions / profile.seconds
print(f"convolutions: {100 * share:.0f} % of the time in ops")

# %% [markdown]
# ## Its mistakes, and its doubts

# %%
probability = model.predict(x[1437:], verbose=0)[:, 0]
wrong = np.flatnonzero((probability > 0.5) != (y[1437:, 0] > 0.5))
print(f"{len(wrong)} of 360 are wrong")
doubtful = np.argsort(np.abs(probability - 0.5))[:8]
with inspect.style() as plt:
    figure, axes = plt.subplots(1, 8, figsize=(9, 1.7), layout="constrained")
    for ax, i in zip(axes, doubtful):
        ax.imshow(images[1437 + i].reshape(8, 8), cmap="gray_r")
        ax.set_title(f"{digits[1437 + i]}: {probability[i]:.2f}")
        ax.set_axis_off()
show(figure, "The digits that it is least sure of, with its probability for \"odd\".")

# %% [markdown]
# ## Exercises
#
# 1. `parameters(size)`: the number of weights of this network for pictures of size x size, by hand.
#    (Check it against `model.count_params()`; 224 gives 89 million.)
# 2. `receptive_field(layers)`: how many pixels of the input, along one axis, one output of a chain of
#    (kernel, stride) layers sees. For the three convolutions and pools it is 22.
#
# Solutions: `examples/solutions/05.py`.
