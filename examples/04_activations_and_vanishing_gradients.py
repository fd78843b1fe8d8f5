# %% [markdown]
# # Activations, and why gradients vanish
#
# Between two matrix products stands a function of one number, without which a deep network would be
# one matrix. Its slope multiplies the gradient once per layer on the way back: twenty slopes of 0.2
# leave nothing.
#
#     sigmoid  σ(z) = 1/(1 + e⁻ᶻ)             slope σ(1 − σ)    at most 1/4
#     tanh     tanh(z) = 2σ(2z) − 1           slope 1 − tanh²   at most 1, at z = 0 alone
#     ReLU     max(0, z)                      slope 0 or 1

# %%
import numpy as np
from course import show

import minideep
from minideep import inspect, ops

z = minideep.tensor(np.linspace(-5, 5, 401), requires_grad=True)
functions = {"sigmoid": ops.sigmoid, "tanh": ops.tanh, "relu": ops.relu}
slopes = {}
with inspect.style() as plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    for name, f in functions.items():
        z.grad = None
        f(z).sum().backward()
        slopes[name] = z.grad.numpy()
        left.plot(z.numpy(), f(z).numpy(), label=name)
        right.plot(z.numpy(), slopes[name], label=name)
    left.set(xlabel="z", ylabel="activation", ylim=(-1.2, 2.5))
    right.set(xlabel="z", ylabel="slope")
    for ax in (left, right):
        ax.grid(True)
        ax.legend()
steepest = {name: float(slope.max()) for name, slope in slopes.items()}
print("steepest:", steepest)
show(figure, "The slope of the sigmoid is nowhere above 1/4; tanh reaches 1 at 0; ReLU has 1 "
             "wherever it is open.")

# %% [markdown]
# ## Twenty layers deep
#
# h₀ = x, h_k = f(h_{k−1} W_k), 20 layers of 100 units. We look at ‖∂L/∂h_k‖ for each k. The weights
# are random, of variance g/100: g = 1 keeps the size of a linear signal (Glorot), g = 2 makes good
# that ReLU drops half of it (He et al. 2015).

# %%
LAYERS, UNITS = 20, 100


def gradient_norms(f, gain, seed=0):
    rng = np.random.default_rng(seed)
    h = minideep.tensor(rng.standard_normal((64, UNITS)), requires_grad=True)
    states = [h]
    for _ in range(LAYERS):
        w = minideep.tensor(rng.standard_normal((UNITS, UNITS)) * np.sqrt(gain / UNITS))
        h = f(h @ w)
        states.append(h)
    towards = minideep.tensor(rng.standard_normal(h.shape))
    gradients = minideep.grad((h * towards).sum(), states)
    return np.array([np.linalg.norm(g.numpy()) for g in gradients])


norms = {f"{name}, variance {gain}/n": gradient_norms(functions[name], gain)
         for name, gain in (("sigmoid", 1), ("tanh", 1), ("relu", 1), ("relu", 2))}
kept = {name: float(v[0] / v[-1]) for name, v in norms.items()}
for name, share in kept.items():
    print(f"{name:<24} of the gradient at the last layer {share:.1e} arrives at the first")

# %%
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(6.8, 3.6), layout="constrained")
    for name, v in norms.items():
        ax.semilogy(range(LAYERS + 1), v / v[-1], "o-", markersize=3, label=name)
    ax.set(xlabel="layer k", ylabel="‖∂L/∂h_k‖, last layer = 1")
    ax.grid(True)
    ax.legend()
show(figure, "Through 20 sigmoid layers less than a billionth of the gradient is left; ReLU with He's "
             "variance keeps it within a factor of ten.")

# %% [markdown]
# The sigmoid's floor is easy to compute: at z near 0 its slope is 1/4, and W of variance 1/n keeps a
# norm, so 4⁻²⁰ ≈ 10⁻¹² is what is left. It is not a matter of patience: at a learning rate of 1 the
# first layer would move by 10⁻¹² of what the last one does.
#
# ## The same, in training
#
# Ten layers of 20 units that shall learn a circle, 60 epochs each. The last
# line says how far the first layer moved.

# %%
from minideep import layers, models

rng = np.random.default_rng(1)
points = rng.uniform(-1, 1, (1000, 2)).astype("float32")
inside = ((points**2).sum(axis=1, keepdims=True) < 0.5).astype("float32")
accuracy, moved = {}, {}
for activation, initializer in (("sigmoid", "glorot_uniform"), ("relu", "he_normal")):
    minideep.seed(0)
    model = models.Sequential([layers.Dense(20, activation=activation,
                                            kernel_initializer=initializer)
                               for _ in range(10)] + [layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    model(points[:1])
    start = model.layers[0].get_weights()[0]
    model.fit(points, inside, epochs=60, batch_size=50, verbose=0)
    moved[activation] = float(np.linalg.norm(model.layers[0].get_weights()[0] - start))
    accuracy[activation] = model.evaluate(points, inside, verbose=0)[1]
majority = float(max(inside.mean(), 1 - inside.mean()))
print(f"accuracy {accuracy}; always the more frequent answer: {majority:.3f}")
print(f"the first layer's weights moved by {moved}")

# %% [markdown]
# ## Exercises
#
# 1. The softsign z/(1 + |z|) has slope 1/(1 + |z|)². Write it as a function of a tensor, and let
#    `minideep.gradcheck` confirm its derivatives (away from 0: there |z| has a kink).
# 2. `gain_for(f)`: which variance g/n keeps a *small forward* signal? With z standard normal, f lets
#    E f(z)² of its variance through; g is what makes up for it, 1 / E f(z)². Find it for ReLU (2) and
#    for tanh by averaging over random numbers.
#
# Solutions: `examples/solutions/04.py`.
