# %% [markdown]
# # The convolution sum, literally, then faster and faster
#
# One sum, written four ways: as the textbook writes it, as every library computes it, as one matrix
# product, and as the compiled rungs of this project's ladder run it. They give the same numbers; only
# the time differs, by orders of magnitude.
#
# The textbook: for an image x and weights w (indices from 1)
#
#     y[i, j] = Σ_k Σ_l x[k − i + 1, l − j + 1] · w[k, l] + b[i]
#
# The indices of x grow with k and *fall* with i. So y is numbered backwards.

# %%
import time

import numpy as np
from course import show

import kernels
from kernels.conv2d.formula import literal_sum
from minideep import inspect

rng = np.random.default_rng(0)
x = rng.integers(0, 10, (5, 5)).astype(float)
w = np.array([[1.0, 0.0], [2.0, -1.0]])


def as_libraries_compute_it(x, w):
    """y[i, j] = Σ_k Σ_l x[i + k, j + l] · w[k, l], indices from 0: the cross-correlation."""
    rows, columns = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    y = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            for k in range(w.shape[0]):
                for l in range(w.shape[1]):
                    y[i, j] += x[i + k, j + l] * w[k, l]
    return y


# %% [markdown]
# With p = 1 − i ≥ 0 and q = 1 − j ≥ 0 the textbook's sum is Σ x[k + p, l + q] w[k, l]: the same
# numbers, in mirrored order. `kernels/conv2d/formula.py` has both, and a test holds them together.

# %%
ours = as_libraries_compute_it(x, w)
theirs = literal_sum(x, w)
print("as libraries compute it\n", ours)
print("the textbook's, literally\n", theirs)
mirrored = np.array_equal(theirs[::-1, ::-1], ours)
print("mirrored in both directions they are equal:", mirrored)

# %% [markdown]
# ## im2col: unfold, then one matrix product
#
# Write each window of x as a row. Then all outputs are one product of a matrix with a vector (with C
# channels and O filters: of a matrix with a matrix), and matrix products are what computers do best.
# The price: a pixel is copied as often as windows hold it, inner ones 4 times here, 9 times for 3x3.

# %%
windows = np.lib.stride_tricks.sliding_window_view(x, w.shape)  # (4, 4, 2, 2), a view
columns = windows.reshape(16, 4)  # a copy
product = columns @ w.ravel()
unfolded = np.array_equal(product.reshape(4, 4), ours)
print("one product gives the same:", unfolded, "; numbers held:", x.size, "->", columns.size)

# %%
with inspect.style() as plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 4.6), layout="constrained",
                                         width_ratios=[1, 1.1])
    for ax, matrix in ((left, x), (right, columns)):
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=14, aspect="equal" if ax is left else "auto")
        for (i, j), value in np.ndenumerate(matrix):
            ax.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color="black")
        ax.set(xticks=[], yticks=[])
    for i, colour in ((0, "#e0852d"), (5, "#3fa66a")):
        r, c = divmod(i, 4)
        left.add_patch(plt.Rectangle((c - 0.5, r - 0.5), 2, 2, fill=False, ec=colour, lw=3))
        right.add_patch(plt.Rectangle((-0.5, i - 0.5), 4, 1, fill=False, ec=colour, lw=3))
    left.set_title("the image x, 5x5; two of its 16 windows")
    right.set_title("unfolded: a row for each window, 16x4")
show(figure, "im2col: each 2x2 window of the image becomes one row of the matrix.")

# %% [markdown]
# ## The ladder
#
# Each rung is one file in `kernels/conv2d/`; the highest one that can run is chosen, and `explain`
# says why.

# %%
image = rng.standard_normal((1, 56, 56, 32)).astype("float32")
weights = rng.standard_normal((3, 3, 32, 64)).astype("float32")
print(kernels.explain("conv2d", image, weights, padding="same"))

# %% [markdown]
# Now all of them, on one 56x56 image of 32 channels, 64 filters of 3x3: 2·56·56·32·64·9 = 116 million
# operations. (The formula runs on a corner of the image, and its time is scaled up.)

# %%
op = kernels.ladders()["conv2d"]
arguments = op.contract(image, weights, padding="same")
flops = 2 * 56 * 56 * 32 * 64 * 9
expected = op.rungs["im2col"](*op.contract(image.astype(float), weights.astype(float),
                                           padding="same"))
times, errors = {}, {}
for name, rung in op.rungs.items():
    if name == "formula":
        corner = op.contract(image[:, :4, :4], weights[..., :8])
        start = time.perf_counter()
        rung(*corner)
        share = (2 * 2 * 8) / (56 * 56 * 64)
        times[name], errors[name] = (time.perf_counter() - start) / share, 0.0  # the truth itself
    elif rung.refusal("cpu", arguments) is None:
        errors[name] = float(np.abs(rung(*arguments) - expected).max() / np.abs(expected).max())
        runs = []
        for _ in range(9):
            start = time.perf_counter()
            rung(*arguments)
            runs.append(time.perf_counter() - start)
        times[name] = min(runs)  # what disturbs only adds
for name in times:
    print(f"{name:<10} {1e3 * times[name]:12.3f} ms {flops / times[name] / 1e9:9.3f} GFLOP/s, "
          f"error {errors[name]:.0e}")

# %%
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(6.5, 0.5 + 0.45 * len(times)), layout="constrained")
    ax.barh(list(times), [flops / t / 1e9 for t in times.values()], color="#3b8fd6", log=True)
    ax.set(xlabel="GFLOP/s, logarithmic (of the formula's operations)")
    ax.grid(True, axis="x")
fastest = min(times, key=times.get)
show(figure, f"The same sum on every rung: im2col is more than 100 times as fast as the loops, and "
             f"{fastest} is the fastest on this machine.")

# %% [markdown]
# ## Exercises
#
# 1. `output_size(n, k, stride, padding, dilation)`: how many windows of k taps fit along n pixels?
# 2. `shift_and_add(x, w)`: the convolution of (H, W, C) with (KH, KW, C, O) in two loops only, over
#    the taps: each tap contributes one shifted copy of x times a (C, O) matrix. No unfolding: why is
#    it better than im2col where C is large?
#
# Solutions: `examples/solutions/02.py`.
