# %% [markdown]
# # Swap CPU and GPU with one word
#
# The engine has no line that is written twice, once for each device. An array knows its module (NumPy
# or CuPy), an op asks for it, and a ladder asks which rungs can run where the arrays live. This lesson
# runs on either machine and says which it found.

# %%
import time

import numpy as np
from course import show

import kernels
import minideep
from kernels import backend
from minideep import inspect, layers, models

has_gpu = backend.cuda_is_available()
devices = ["cpu", "cuda"] if has_gpu else ["cpu"]
print("devices that can be used here:", devices)

# %% [markdown]
# ## Asking for what is not there
#
# No silent fallback: who asks for CUDA where there is none is told what is missing, and which command
# mends it. (Being able to *import* CuPy proves nothing: a wheel installs without a driver. So the
# engine asks the driver, and adds two numbers.)

# %%
try:
    minideep.tensor([1.0, 2.0], device="cuda")
    message = "it worked"
except RuntimeError as error:
    message = str(error)
print(message)

# %% [markdown]
# ## One function, two modules
#
# `backend.array_module(x)` is `numpy` or `cupy`. Code that is meant for both writes `xp.` where it
# would have written `np.`.


# %%
def standardize(x):
    """Mean 0 and variance 1 in each column, on whatever device x lives."""
    xp = backend.array_module(x)
    return (x - xp.mean(x, axis=0)) / xp.sqrt(xp.var(x, axis=0) + 1e-7)


for device in devices:
    x = backend.to_device(np.random.default_rng(0).standard_normal((5, 3)), device)
    print(device, type(standardize(x)).__module__, backend.device_of(standardize(x)))

# %% [markdown]
# ## Three ways to say the word
#
#     model.to("cuda")                        # this model
#     with minideep.device("cuda"): ...       # everything made inside
#     MINIDEEP_DEVICE=cuda python program.py  # the whole program
#
# A training step on every device that is here, from the same weights and data:

# %%
rng = np.random.default_rng(0)
images = rng.standard_normal((8, 32, 32, 3)).astype("float32")
labels = rng.integers(0, 10, 8)
losses, seconds = {}, {}
for device in devices:
    with minideep.device(device):
        minideep.seed(0)
        model = models.Sequential([layers.Conv2D(16, 3, activation="relu"),
                                   layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(10)])
        model.compile(optimizer="adam", loss=minideep.losses.SparseCategoricalCrossentropy(
            from_logits=True))
        losses[device] = [float(model.train_on_batch(images, labels)) for _ in range(5)]
        start = time.perf_counter()
        model.train_on_batch(images, labels)
        seconds[device] = time.perf_counter() - start
for device in devices:
    print(device, [f"{loss:.5f}" for loss in losses[device]], f"{1e3 * seconds[device]:.2f} ms")

# %% [markdown]
# ## Who computes: the ladder
#
# The device says where memory lives, a rung says who computes. On a CPU with AVX2 a compiled rung
# runs; without it, im2col and the BLAS; on a GPU, CUDA C. `explain` says why each other rung was
# refused, and `use` (or MINIDEEP_KERNELS=conv2d=im2col) chooses another, or refuses, aloud.

# %%
x, w = images, rng.standard_normal((3, 3, 3, 16)).astype("float32")
explanation = kernels.explain("conv2d", x, w)
print(explanation)
with kernels.use(conv2d="im2col"):
    print("\nforced:", kernels.explain("conv2d", x, w).chosen)
try:
    with kernels.use(conv2d="winograd"):
        minideep.ops.conv2d(x, w, stride=2)
    refusal = ""
except ValueError as error:
    refusal = str(error)
print("\n" + refusal)

# %% [markdown]
# ## What stays the same
#
# All rungs compute one formula; they differ by rounding. The same five losses with each rung that can
# run here (but for the formula's Python loops, which would take minutes):

# %%
curves = {}
for name in kernels.ladders()["conv2d"].rungs:
    if name == "formula" or kernels.explain("conv2d", x, w).refused.get(name, "lower") != \
            "lower on the ladder" and name != explanation.chosen:
        continue
    with kernels.use(conv2d=name):
        minideep.seed(0)
        model = models.Sequential([layers.Conv2D(16, 3), layers.Activation("relu"),
                                   layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(10)])
        model.compile(optimizer="adam", loss=minideep.losses.SparseCategoricalCrossentropy(
            from_logits=True))
        curves[name] = [float(model.train_on_batch(images, labels)) for _ in range(5)]
spread = float(np.ptp(list(curves.values()), axis=0).max())
print(f"rungs {', '.join(curves)}: largest difference between their losses {spread:.1e}")
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    for i, (name, curve) in enumerate(curves.items()):
        ax.plot(range(1, 6), curve, "o-", label=name, linewidth=6 - i, alpha=0.7)
    ax.set(xlabel="training step", ylabel="loss", xticks=range(1, 6))
    ax.grid(True)
    ax.legend()
show(figure, "All of them give the same losses to within 1e-3; the curves lie on each other.")

# %% [markdown]
# ## Exercises
#
# 1. `softmax(x)`: over the last axis, stable, for arrays of either module.
# 2. `where_it_lives(model)`: the devices of a model's weights, as a set. On a machine with a
#    GPU, move one layer only: what does a call say then?
#
# Solutions: `examples/solutions/08.py`.
