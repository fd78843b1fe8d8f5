# %% [markdown]
# # Write a CUDA kernel, and run it without a GPU
#
# A CUDA kernel is one function that thousands of threads run at once. Here we write one, launch it
# from Python, and run the very same source on the CPU: each thread becomes a fibre, each access is
# watched. On a machine with a GPU the same calls take CuPy arrays.
#
# The kernel: the softplus log(1 + eˣ), the smooth ReLU, element by element. Written naively it
# overflows at x = 89 (e⁸⁹ > 3·10³⁸); written as max(x, 0) + log(1 + e^−|x|) it never does.

# %%
import tempfile
from pathlib import Path

import numpy as np
from course import show

from kernels import cuda
from kernels.cuda import nvrtc
from kernels.cuda.on_cpu import problem
from minideep import inspect

can_run = problem() is None
print("kernels can be run on this machine's CPU:", can_run or problem())

# %% [markdown]
# ## The source
#
# `blockIdx`, `blockDim` and `threadIdx` say which of all threads this one is. The last block is rarely
# full, so a thread beyond the end must do nothing. `Index` is int, or long long for huge arrays.

# %%
folder = Path(tempfile.mkdtemp())
SOFTPLUS = """
extern "C" __global__ void softplus(const float* x, float* y, Index n)
{
    const Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[i] = fmaxf(x[i], 0.0f) + log1pf(expf(-fabsf(x[i])));
}
"""
(folder / "softplus.cu").write_text(SOFTPLUS)
module = cuda.module(folder / "here.py", "softplus.cu")


def softplus(x, module=module):
    y = cuda.empty(x.shape, like=x)
    module["softplus"](cuda.blocks(x.size, 128), 128, x, y, x.size)
    return y


# %%
x = np.linspace(-100, 100, 1001).astype("float32")
if can_run:
    with cuda.on_cpu():
        y = softplus(x)
else:
    y = np.logaddexp(0, x)
error = float(np.abs(y - np.logaddexp(0, x.astype(float))).max())
print(f"largest error against NumPy in float64: {error:.1e}" if can_run else "not run here")
with inspect.style() as plt:
    figure, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
    near = np.abs(x) < 6
    ax.plot(x[near], y[near], label="softplus, from the kernel")
    ax.plot(x[near], np.maximum(x[near], 0), "--", label="ReLU")
    ax.set(xlabel="x", ylabel="y")
    ax.grid(True)
    ax.legend()
show(figure, "The kernel's softplus bends where ReLU has its kink, and meets it far from 0.")

# %% [markdown]
# ## A mistake, and who notices
#
# Without the line `if (i >= n) return;` the last block's idle threads write behind the array. On a
# GPU that is silent. Here it is an error that names array, element, block and thread.

# %%
(folder / "careless.cu").write_text(SOFTPLUS.replace("    if (i >= n) return;\n", ""))
caught = ""
if can_run:
    try:
        with cuda.on_cpu():
            softplus(x, cuda.module(folder / "here.py", "careless.cu"))
    except RuntimeError as fault:
        caught = str(fault)
print(caught)

# %% [markdown]
# ## Threads that share memory
#
# The largest number of each row: 64 threads of a block look at every 64th column each, then halve the
# candidates in shared memory until one is left. `__syncthreads()` makes all wait for all; without it
# one thread may read what another has not written yet. Running the threads in two different orders
# shows that: the orders disagree.

# %%
ROW_MAX = """
extern "C" __global__ void row_max(const float* x, float* y, int columns)
{
    __shared__ float best[64];
    float mine = -INFINITY;
    for (int j = threadIdx.x; j < columns; j += 64)
        mine = fmaxf(mine, x[blockIdx.x * (Index)columns + j]);
    best[threadIdx.x] = mine;
    for (int half = 32; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) best[threadIdx.x] = fmaxf(best[threadIdx.x],
                                                          best[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) y[blockIdx.x] = best[0];
}
"""
(folder / "row_max.cu").write_text(ROW_MAX)
(folder / "race.cu").write_text(ROW_MAX.replace("__syncthreads();", ""))


def row_max(source, x, schedule):
    y = cuda.empty(x.shape[:1], like=x)
    with cuda.on_cpu(schedule):
        cuda.module(folder / "here.py", source)["row_max"](len(x), 64, x, y, x.shape[1])
    return y


rows = np.random.default_rng(0).standard_normal((4, 200)).astype("float32")
agree, race_agrees = True, False
if can_run:
    results = {source: [row_max(source, rows, order) for order in ("forward", "backward")]
               for source in ("row_max.cu", "race.cu")}
    agree = all(np.array_equal(y, rows.max(axis=1)) for y in results["row_max.cu"])
    race_agrees = np.array_equal(*results["race.cu"])
if can_run:
    print("with barriers, right in both orders:", agree)
    print("without, the two orders agree:", race_agrees)

# %% [markdown]
# ## Machine code for real GPUs
#
# NVIDIA's compiler NVRTC needs no GPU. It makes code for each generation, and rejects what g++ would
# let pass.

# %%
sizes = {}
if nvrtc.problem() is None:
    for architecture in nvrtc.ARCHITECTURES:
        code = nvrtc.compile(module.source(), "softplus.cu", architecture)
        sizes[f"sm_{architecture}"] = len(code)
print("bytes of machine code:", sizes or nvrtc.problem())

# %% [markdown]
# ## Exercises
#
# 1. `saxpy(x, y, a, n)`: the source of a kernel y = a·x + y, in place (y is a `float*`),
#    looping over `i += gridDim.x * blockDim.x`, so that any grid
#    will do. Launch it with one block.
# 2. `reverse(x, y, n)`: y[i] = x[n − 1 − i]. Which accesses of neighbouring threads
#    are neighbours in memory?
#
# Both as texts of CUDA C. Solutions: `examples/solutions/09.py`. More: `write_your_own_kernel.md`.
