# %% [markdown]
# # A gradient by hand, and by autograd
#
# What a derivative is to a program: we differentiate one expression with pencil and paper, then with
# an engine of thirty lines, and see why that engine must walk its graph in topological order.
#
# Take y = (a + b)² · a at a = 2, b = 3. By the product and the chain rule
#
#     ∂y/∂a = 2 (a + b) · a + (a + b)² = 2·5·2 + 25 = 45
#     ∂y/∂b = 2 (a + b) · a            = 20

# %%
import math

import numpy as np
from course import show

import minideep
from minideep import inspect

by_hand = {"a": 45.0, "b": 20.0}

# %% [markdown]
# ## An engine of thirty lines
#
# Every operation remembers its inputs, and how a gradient of its output becomes gradients of them:
# for a product, ∂(uv)/∂u = v. A gradient that arrives is *added* to what is there, since a variable
# that is used twice moves the result along two ways (the multivariate chain rule).


# %%
class Value:
    def __init__(self, data, parents=(), pull=None):
        self.data, self.parents, self.pull, self.grad = data, parents, pull, 0.0

    def __add__(self, other):
        return Value(self.data + other.data, (self, other), lambda g: (g, g))

    def __mul__(self, other):
        return Value(self.data * other.data, (self, other),
                     lambda g: (g * other.data, g * self.data))


def in_topological_order(y):
    """Every value after all those that use it."""
    order, seen = [], set()

    def visit(v):
        if v not in seen:
            seen.add(v)
            for parent in v.parents:
                visit(parent)
            order.append(v)

    visit(y)
    return order[::-1]


def backward(y, order):
    y.grad = 1.0
    for v in order:
        if v.pull is not None:
            for parent, g in zip(v.parents, v.pull(v.grad)):
                parent.grad += g


a, b = Value(2.0), Value(3.0)
s = a + b
y = s * s * a
backward(y, in_topological_order(y))
thirty_lines = {"a": a.grad, "b": b.grad}
print(thirty_lines)

# %% [markdown]
# ## Why the order matters
#
# s is used twice, by both sides of s·s, and a by the sum and by the last product. A node may pass its
# gradient on only when *all* of it has arrived. Breadth-first, nearest to the output first, looks
# reasonable: but it reaches a node along its shortest way, possibly before a longer way has
# delivered.
#
# Below, u = x·x is used by w = u·u·u and directly by the result w + u.

# %%


def breadth_first(y):
    order = [y]
    for v in order:
        order += [p for p in v.parents if p not in order]
    return order


def slope(order):
    x = Value(3.0)
    u = x * x
    y = u * u * u + u  # dy/dx = 6x⁵ + 2x
    backward(y, order(y))
    return x.grad


right, wrong = slope(in_topological_order), slope(breadth_first)
print(f"true 6x⁵ + 2x = {6 * 3**5 + 2 * 3}, topological {right}, breadth-first {wrong}")

# %% [markdown]
# Passing a gradient on as soon as a part of it arrives is not wrong, but it visits a node once for
# each *way* to it, and ways multiply: a chain of n squarings has 2ⁿ of them. In topological order
# each node is visited once.
#
# ## The same in minideep
#
# `Tensor` is `Value` with arrays; the walk always takes the youngest node instead of recursing (what
# used a number is younger than it), so that a graph may be 100,000 ops deep. `inspect.steps` makes
# the walk one op at a time.

# %%
ta, tb = (minideep.tensor(v, dtype="float64", requires_grad=True) for v in (2.0, 3.0))
with inspect.trace():
    ts = ta + tb
    ty = ts * ts * ta
for step in inspect.steps(ty):
    print(step)
autograd = {"a": float(ta.grad), "b": float(tb.grad)}

# %%
graph = inspect.graph(ty, names={ta: "a", tb: "b"})
show(graph, "The graph behind y. Two arrows lead into the first product, since s is used twice; so "
            "is a, by the sum and by the last product.")

# %% [markdown]
# ## And against finite differences
#
# (f(x + ε) − f(x − ε)) / 2ε errs by ε² f‴/6 from cutting Taylor's series, and by about
# 10⁻¹⁶ |f| / ε from rounding. The sum is smallest near ε = 10⁻⁵: that is why `gradcheck` uses it, and
# float64.

# %%
steps = 10.0 ** np.arange(-12, 0.1, 0.5)
errors = [abs((math.exp(1 + e) - math.exp(1 - e)) / (2 * e) - math.e) / math.e for e in steps]
best = steps[int(np.argmin(errors))]
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    ax.loglog(steps, errors, "o-", label="central difference of exp at 1")
    ax.loglog(steps, steps**2 / 6, "--", label="ε²/6: the series cut short")
    ax.loglog(steps, 1e-16 / steps, ":", label="10⁻¹⁶/ε: rounding")
    ax.set(xlabel="ε", ylabel="relative error", ylim=(1e-13, 1))
    ax.grid(True)
    ax.legend()
show(figure, "The error of a finite difference is smallest for a step between 1e-6 and 1e-4.")

# %%
minideep.gradcheck(lambda a, b: (a + b) ** 2 * a, ta, tb)  # raises if the gradients were wrong

# %% [markdown]
# ## Exercises
#
# 1. Give `Value` a division. (∂(u/v)/∂v = −u/v². Check it: d/dx of x/(x + 1) at 1 is 1/4.)
# 2. `count_ways(n)`: how often would "pass on at once" visit the first node of n squarings in a row?
#    Write it as a recursion on n, without building the graph.
#
# Solutions: `examples/solutions/01.py`.
