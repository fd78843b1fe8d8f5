# %% [markdown]
# # Winograd's convolution, from the algebra
#
# Two outputs of a filter with three taps cost 6 multiplications by the formula, and 4 by Winograd's.
# In two dimensions, for 4x4 outputs at a time, 36 make what took 144. Where do they go? Into a
# product of polynomials; we derive the matrices exactly, with fractions, and see what the price is.

# %%
from fractions import Fraction
from itertools import product

import numpy as np
from course import show

import kernels
from minideep import inspect

# %% [markdown]
# ## A product of polynomials from values
#
# Polynomials p of degree m − 1 and w of degree r − 1 have a product s = p·w of degree m + r − 2. It is
# determined by its values at n = m + r − 1 points; and at a point, a product of polynomials is *one*
# multiplication. "At infinity", the value is the leading coefficient.
#
#     s = V⁻¹ [ (V_m p) ⊙ (V_r w) ]          V_k: the powers 0 … k−1 of the points, n × k
#
# The coefficients of a product are a convolution of the coefficients: Σ p_{j−k} w_k. A layer needs
# the *transposed* map, y_i = Σ_k x_{i+k} w_k. Transposing a bilinear algorithm gives an algorithm with
# as many multiplications (Winograd 1980):
#
#     y = Aᵀ [ (G w) ⊙ (Bᵀ x) ]              Aᵀ = V_mᵀ,  G = V_r,  Bᵀ = V⁻ᵀ

# %%
POINTS = [Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-4")]


def powers(points, k):
    """V_k: a row 1, a, a², … for each point a, and (0, …, 0, 1) for infinity."""
    return [[a**e for e in range(k)] for a in points] + [[Fraction(int(e == k - 1))
                                                          for e in range(k)]]


def inverse(matrix):
    """By Gauss and Jordan, in exact fractions."""
    n = len(matrix)
    rows = [list(row) + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i])]
    return [row[n:] for row in rows]


def transpose(matrix):
    return [list(column) for column in zip(*matrix)]


def winograd_matrices(m, r):
    """Aᵀ (m, n), G (n, r), Bᵀ (n, n) for m outputs of a filter with r taps; n = m + r − 1."""
    points = POINTS[:m + r - 2]
    return (transpose(powers(points, m)), powers(points, r),
            transpose(inverse(powers(points, m + r - 1))))


AT, G, BT = winograd_matrices(2, 3)
for name, matrix in (("Aᵀ", AT), ("G", G), ("Bᵀ", BT)):
    print(name, [[str(v) for v in row] for row in matrix])

# %% [markdown]
# ## Exactly the same numbers
#
# With whole numbers and fractions there is no rounding, so the claim can be checked exactly:


# %%
def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector)) for row in matrix]


def outputs(x, w, m):
    AT, G, BT = winograd_matrices(m, len(w))
    multiplied = [g * b for g, b in zip(times(G, w), times(BT, x))]  # the n multiplications
    return times(AT, multiplied)


exact = True
for m, r in product((2, 3, 4, 6), (2, 3)):
    x, w = [Fraction(3 * i % 7 - 2) for i in range(m + r - 1)], [Fraction(i - 1) for i in range(r)]
    exact &= outputs(x, w, m) == [sum(x[i + k] * w[k] for k in range(r)) for i in range(m)]
print("equal to the sum, exactly:", exact)

# %% [markdown]
# ## Two dimensions, and the count
#
# Rows and columns are transformed one after the other: Y = Aᵀ [ (G W Gᵀ) ⊙ (Bᵀ X B) ] A. The ⊙ is where
# the work is: with C channels and O filters it is a matrix product for each of the n² places, and the
# transforms are shared by all filters.

# %%
counts = {m: ((m + 2) ** 2, 9 * m * m) for m in (2, 4, 6)}
for m, (few, many) in counts.items():
    print(f"{m}x{m} outputs of a 3x3 filter: {few} instead of {many}, {many / few:.2f} times fewer")

# %% [markdown]
# ## The price: rounding
#
# The entries of Aᵀ grow like powers of the points, up to aᵐ⁻¹, those of Bᵀ likewise, and they have both
# signs: large terms cancel, and their rounding stays. The more outputs at once, the more points, the
# larger the error.


# %%
def in_numpy(x, w, m, dtype):
    """One tile: x (m + 2, m + 2), w (3, 3)."""
    AT, G, BT = (np.array([[float(v) for v in row] for row in matrix]).astype(dtype)
                 for matrix in winograd_matrices(m, 3))
    x, w = x.astype(dtype), w.astype(dtype)
    return AT @ ((G @ w @ G.T) * (BT @ x @ BT.T)) @ AT.T


rng = np.random.default_rng(0)
errors = {}
for m in (2, 3, 4, 5, 6, 7):
    found = []
    for _ in range(200):
        x, w = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
        true = sum(x[k:k + m, l:l + m] * w[k, l] for k in range(3) for l in range(3))
        found.append(np.abs(in_numpy(x, w, m, "float32") - true).max() / np.abs(true).max())
    errors[m] = float(np.median(found))
with inspect.style() as plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    left.plot(list(errors), [9 * m * m / (m + 2) ** 2 for m in errors], "o-")
    left.set(xlabel="outputs at once, m x m", ylabel="multiplications saved, times")
    right.semilogy(list(errors), list(errors.values()), "o-", color="#cc4f5f")
    right.set(xlabel="outputs at once, m x m", ylabel="relative error, float32")
    for ax in (left, right):
        ax.grid(True)
show(figure, "What is saved grows towards 9, the error by more than ten times from 2x2 to 6x6. 4x4 is "
             "the usual bargain.")

# %% [markdown]
# ## The rung of the ladder
#
# `kernels/conv2d/winograd.py` is F(4x4, 3x3), with the n² products in the register-blocked kernel.
# Its error beside the direct rung's, on this machine:

# %%
x = rng.standard_normal((1, 32, 32, 64)).astype("float32")
w = rng.standard_normal((3, 3, 64, 64)).astype("float32")
op = kernels.ladders()["conv2d"]
arguments = op.contract(x, w, padding="same")
true = op.rungs["im2col"](*op.contract(x.astype(float), w.astype(float), padding="same"))
on_this_machine = {}
for name in ("im2col", "direct", "winograd"):
    if op.rungs[name].refusal("cpu", arguments) is None:
        y = op.rungs[name](*arguments)
        on_this_machine[name] = float(np.abs(y - true).max() / np.abs(true).max())
print({name: f"{error:.0e}" for name, error in on_this_machine.items()})

# %% [markdown]
# ## Exercises
#
# 1. `saving(m, r)`: the factor between the formula's multiplications and Winograd's, for m x m outputs
#    of an r x r filter; and what it tends to for m → ∞.
# 2. `tile_2x2(x, w)`: F(2x2, 3x3) of one 4x4 tile with the matrices written out as numbers, and no
#    multiplication in the transforms other than by ±1 and ½. (Scale a row of G and undo it in Bᵀ.)
#
# Solutions: `examples/solutions/10.py`.
