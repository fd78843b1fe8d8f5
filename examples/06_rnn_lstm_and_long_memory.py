# %% [markdown]
# # RNN against LSTM: long memory, and the gradient gate
#
# A recurrent network reads a sequence step by step and keeps a state. Learning *what to keep* needs a
# gradient that survives the way back through all steps. We watch it vanish, see how the memory cell
# of an LSTM lets it through, and what a gradient gate can and cannot do.
#
#     RNN    h_t = tanh(x_t W + h_{t−1} R + b)
#     LSTM   c_t = f ⊙ c_{t−1} + i ⊙ c̃,   h_t = o ⊙ tanh(c_t),   i, f, o = σ(…), c̃ = tanh(…)
#
# Backward through one step the RNN multiplies the gradient by tanh′ and Rᵀ; the LSTM's cell by f
# alone. With f near 1 a gradient crosses hundreds of steps.

# %%
import numpy as np
from course import show

import minideep
from minideep import inspect, layers, models, optimizers

STEPS = 80

# %% [markdown]
# ## The gradient at each time step, before any training
#
# ‖∂(Σ h_T)/∂h_t‖ for random weights and random inputs (of the LSTM its output h; part of the way back
# leads through its cell c). `gradient_gate=(scale, limit)` is an op on the
# recurrent path: forward it does nothing; backward it multiplies the gradient by `scale` and shrinks
# it to the norm `limit`.

# %%
UNITS = 24


def open_gates(lstm):
    """Let each unit remember for about T steps, T random: f = σ(b) with b = log T, i = 1 − f
    (Tallec & Ollivier 2018, arXiv:1804.11188). Keras's default, b = 1, forgets in 3 steps."""
    b, u = lstm.cell.bias.numpy().copy(), lstm.cell.units
    b[u:2 * u] = np.log(np.random.default_rng(0).uniform(1, STEPS - 1, u))
    b[:u] = -b[u:2 * u]
    lstm.cell.bias.data = minideep.tensor(b).data


def make(name, gate=None):
    kind = layers.SimpleRNN if name.startswith("SimpleRNN") else layers.LSTM
    layer = kind(UNITS, gradient_gate=gate)
    layer.build((None, None, 2))
    if "open" in name:
        open_gates(layer)
    return layer


minideep.seed(0)
noise = np.random.default_rng(0).standard_normal((16, STEPS, 2)).astype("float32")
NAMES = "SimpleRNN", "LSTM", "LSTM, gates open"
flows = {name: inspect.gradient_flow(make(name), noise) for name in NAMES}
flows["SimpleRNN, gate (1.15, 5)"] = inspect.gradient_flow(make("SimpleRNN", (1.15, 5.0)), noise)
left = {name: float(flow[0] / flow[-1]) for name, flow in flows.items()}
for name, share in left.items():
    print(f"{name:<28} {share:.1e} of the last step's gradient arrives at the first")
show(inspect.plot_gradient_flow(flows),
     f"Over {STEPS} steps the gradients of the SimpleRNN and of the LSTM with forget bias 1 vanish; "
     "with open gates, or with a gradient gate, ten thousand times as much arrives.")

# %% [markdown]
# And exploding: with recurrent weights three times as large and inputs near zero (tanh in its linear
# part) the gradient grows without bound, until a gate with a limit holds it.

# %%
calm = np.zeros((16, 30, 2), "float32")
exploding = {}
for name, gate in (("no gate", None), ("gate (1, 10)", (1.0, 10.0))):
    minideep.seed(0)
    layer = make("SimpleRNN", gate)
    layer.cell.recurrent_kernel.data *= 3
    exploding[name] = inspect.gradient_flow(layer, calm)
print({name: f"{flow.max():.1e}" for name, flow in exploding.items()})
show(inspect.plot_gradient_flow(exploding), "Tripled recurrent weights: without a gate the gradient "
                                            "passes 1e10; with a limit of 10 it stays below 40.")

# %% [markdown]
# ## A task that needs memory
#
# One of the first 20 of 80 random numbers is marked; at the end the network shall say it. Always
# answering 0 has a mean squared error of 1/3, the variance of the numbers.


# %%
def batch(rng, n=64):
    x = np.zeros((n, STEPS, 2), "float32")
    x[:, :, 0] = rng.uniform(-1, 1, (n, STEPS))
    marked = rng.integers(0, STEPS // 4, n)
    x[np.arange(n), marked, 1] = 1
    return x, x[np.arange(n), marked, :1].copy()


def train(layer, steps=300):
    model = models.Sequential([layer, layers.Dense(1)])
    model.compile(optimizer=optimizers.Adam(1e-2, clipnorm=1.0), loss="mse")
    rng = np.random.default_rng(0)
    return [float(model.train_on_batch(*batch(rng))) for _ in range(steps)]


losses, trained = {}, {}
for name, gate in (("SimpleRNN", None), ("SimpleRNN with gradient gate", (1.1, 1.0)),
                   ("LSTM", None), ("LSTM, gates open", None)):
    minideep.seed(0)
    trained[name] = make(name, gate)
    losses[name] = train(trained[name])
final = {name: float(np.mean(curve[-50:])) for name, curve in losses.items()}
for name, loss in final.items():
    print(f"{name:<30} mean squared error {loss:.4f}")

# %%
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for name, curve in losses.items():
        ax.semilogy(np.convolve(curve, np.ones(20) / 20, "valid"), label=name)
    ax.axhline(1 / 3, color="#808080", linestyle=":", label="always answering 0")
    ax.set(xlabel="training step", ylabel="mean squared error")
    ax.grid(True)
    ax.legend(fontsize=8)
show(figure, "Only the LSTM whose gates start open learns to remember; the others stay at the error "
             "of a constant answer.")

# %% [markdown]
# The gradient gate is no cure here: it makes gradients large, but cannot make the *state* keep a
# number. A tanh state that is multiplied by R and stirred by noise 60 times has lost it. The memory
# cell keeps it, and that is what the gates learn to guard:

# %%
x, y = batch(np.random.default_rng(7), 1)
values = inspect.gates(trained["LSTM, gates open"], x)
marked = int(x[0, :, 1].argmax())
at_mark = float(values["input"][0, marked].max())
elsewhere = float(np.delete(values["input"][0], marked, axis=0).max(axis=1).mean())
print(f"the mark is at step {marked}; the most open input gate there {at_mark:.2f}, "
      f"elsewhere {elsewhere:.2f}")
show(inspect.plot_gates(values), "Gates over time: the input gates open at the marked number, the "
                                 "forget gates stay near 1, and the cell keeps it to the end.")

# %% [markdown]
# ## Exercises
#
# 1. `forget_bias(steps)`: which bias of the forget gate makes the cell's content fall to 1/e in that
#    many steps, with inputs of zero? (Solve σ(b)ⁿ = 1/e.)
# 2. `gate(g, scale, limit)`: the backward pass of the gradient gate in NumPy, for g (N, U): multiply,
#    then shrink each row that is longer than the limit. Compare with `ops.gradient_gate`.
#
# Solutions: `examples/solutions/06.py`.
