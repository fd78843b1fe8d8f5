# %% [markdown]
# # Pooling: a smaller picture, and where its gradient goes
#
# A pooling layer keeps one number of each window: the largest, or the mean. It makes maps smaller and
# the answer less dependent on the exact place; and it decides which pixels learn.
#
#     max:      y[i, j] = max over the window of x      ∂y/∂x = 1 at the winner, else 0
#     average:  y[i, j] = mean over the window of x     ∂y/∂x = 1/(size of the window) everywhere

# %%
import numpy as np
from course import show

import minideep
from minideep import inspect, layers, ops

x = minideep.tensor(np.array([[1, 3, 2, 0],
                              [4, 2, 1, 5],
                              [0, 1, 7, 7],
                              [2, 6, 3, 7]], float).reshape(1, 4, 4, 1), requires_grad=True)
gradients = {}
for name, pool in (("max", ops.max_pool2d), ("average", ops.avg_pool2d)):
    y = pool(x, 2)
    x.grad = None
    y.sum().backward()
    gradients[name] = x.grad.numpy()[0, :, :, 0]
    print(name, y.numpy()[0, :, :, 0].tolist())
    print(gradients[name])

# %% [markdown]
# In the lower right window 7 stands three times: the first of them, row by row, gets the whole
# gradient (PyTorch's and cuDNN's rule). A tie is a *kink*: the maximum has no derivative there, and
# any choice between the one-sided slopes is allowed, as long as it is always the same.
#
# ## What max pooling forgives
#
# A bright dot moves by one pixel. How much do the pooled maps change?

# %%


def dot(at):
    image = np.zeros((1, 16, 16, 1), "float32")
    image[0, at, at] = 1
    return image


def change(pool, at):
    before, after = pool(dot(at)), pool(dot(at + 1))
    return float(np.abs(after.numpy() - before.numpy()).sum())


changes = {"max 2": np.mean([change(layers.MaxPooling2D(2), at) for at in range(12)]),
           "max 4": np.mean([change(layers.MaxPooling2D(4), at) for at in range(12)]),
           "none": np.mean([change(lambda x: minideep.tensor(x), at) for at in range(12)])}
print({name: round(float(value), 3) for name, value in changes.items()})

# %% [markdown]
# Without pooling the dot always leaves one pixel and enters another: a change of 2. With windows of 4
# only every fourth step crosses into another window. That is the invariance that pooling buys, and
# what a tracker must not buy too much of: it wants to know where the dot is.
#
# ## A real picture
#
# One frame of the clip that the tracker's demo follows, and what two and three poolings leave of it.

# %%
from pathlib import Path

import tracker.demo
from tracker.video import FrameSource

with FrameSource(Path(tracker.demo.CLIPS) / "cup.webm") as source:
    frame = next(iter(source))[:, :, ::-1] / 255.0  # RGB
height, width = (n // 16 * 16 for n in frame.shape[:2])
picture = minideep.tensor(frame[None, :height, :width])
maps = {"as it is": picture}
for size in (4, 16):
    maps[f"max over {size}x{size}"] = ops.max_pool2d(picture, size)
    maps[f"average over {size}x{size}"] = ops.avg_pool2d(picture, size)
with inspect.style() as plt:
    figure, axes = plt.subplots(2, 3, figsize=(8.5, 5), layout="constrained")
    order = ["as it is", "max over 4x4", "max over 16x16", None, "average over 4x4",
             "average over 16x16"]
    for ax, name in zip(axes.flat, order):
        ax.set_axis_off()
        if name:
            ax.imshow(maps[name].numpy()[0])
            ax.set_title(f"{name}: {maps[name].shape[1]}x{maps[name].shape[2]}")
brighter = all((maps[f"max over {n}x{n}"].numpy() >= maps[f"average over {n}x{n}"].numpy() - 1e-12)
               .all() for n in (4, 16))
show(figure, "Maxima are nowhere darker than means: max pooling keeps highlights, average pooling "
             "the mood.")

# %% [markdown]
# ## Which pixels learn
#
# The gradient of the sum of the pooled map, at the pixels: sparse for the maximum, even for the mean.

# %%
grey = minideep.tensor(frame[None, 80:144, 120:184].mean(axis=-1, keepdims=True),
                       requires_grad=True)
shares = {}
with inspect.style() as plt:
    figure, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
    axes[0].imshow(grey.numpy()[0, :, :, 0], cmap="gray")
    axes[0].set_title("64x64 pixels")
    for ax, (name, pool) in zip(axes[1:], (("max", ops.max_pool2d), ("average", ops.avg_pool2d))):
        grey.grad = None
        pool(grey, 4).sum().backward()
        g = grey.grad.numpy()[0, :, :, 0]
        shares[name] = float((g != 0).mean())
        ax.imshow(g, cmap="viridis", vmin=0, vmax=1)
        ax.set_title(f"gradient, {name} over 4x4")
    for ax in axes:
        ax.set_axis_off()
print("pixels with a gradient:", shares)
show(figure, "Of each 4x4 window one pixel of sixteen learns through the maximum; all sixteen, a "
             "sixteenth each, through the mean.")

# %% [markdown]
# ## Exercises
#
# 1. `max_pool_by_reshape(x, n)`: max pooling of (H, W) with windows n x n that tile it, in one line of
#    NumPy and without a loop.
# 2. `soft_pool(x, n, beta)`: Σ x·exp(βx) / Σ exp(βx) over each window. β = 0 is the mean; β → ∞ the
#    maximum. Show both. (Take the largest exponent out first: e¹⁰⁰⁰ is no number.)
#
# Solutions: `examples/solutions/03.py`.
