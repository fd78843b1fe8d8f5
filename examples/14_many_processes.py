# %% [markdown]
# # Many processes: the same training, shared
#
# A gradient of a sum is a sum of gradients. So the pictures of a batch can be shared among processes:
# each computes the gradient of its part, they add up what they have, and all make the same step. Not
# a good approximation of training on the whole batch: the same training.
#
#     ∇L = (1/P) Σ_p ∇L_p        L_p: the mean loss over the part of process p, parts of equal size
#
# The processes talk through MPI (`pip install mpi4py mpich` is enough on one machine), and the heart
# of it is one line in the training step: `comm.Allreduce`.

# %%
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from course import show

from minideep import inspect

WORKER = '''
import hashlib, json, time
import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits
import minideep
from minideep import layers, losses, models, optimizers

comm = MPI.COMM_WORLD
images, digits = load_digits(return_X_y=True)
x, y = (images / 16).astype("float64"), digits

minideep.seed(0)                                        # the same first weights everywhere
model = models.Sequential([layers.Dense(64, activation="tanh", dtype="float64"),
                           layers.Dense(10, dtype="float64")])
loss_of = losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = optimizers.Adam(1e-2)
batches = np.random.default_rng(0).permutation(1792).reshape(-1, 128)[:14]     # the same order

curve, start = [], time.perf_counter()
for epoch in range(3):
    for batch in batches:
        mine = batch[comm.rank::comm.size]              # this process's part
        loss = loss_of(minideep.tensor(y[mine]), model(x[mine]))
        loss.backward()
        for weight in model.trainable_weights:
            g = np.ascontiguousarray(weight.grad.numpy())
            comm.Allreduce(MPI.IN_PLACE, g)             # the line that makes it many
            weight.grad = minideep.tensor(g / comm.size)
        optimizer.step(model.trainable_weights)
        curve.append(comm.allreduce(loss.item()) / comm.size)
seconds = time.perf_counter() - start
same = comm.allgather(hashlib.sha256(b"".join(w.numpy().tobytes() for w in model.weights)).hexdigest())
if comm.rank == 0:
    print(json.dumps({"curve": curve, "seconds": seconds, "weights": same}))
'''

# %% [markdown]
# ## One, two and four processes
#
# `mpiexec -n 2 python worker.py` starts two copies of one program, which differ in `comm.rank` alone.

# %%
mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
missing = [what for what, here in (("mpi4py", importlib.util.find_spec("mpi4py")),
                                   ("mpiexec", mpiexec)) if not here]
results = {}
if missing:
    print(f"this lesson needs {' and '.join(missing)}: pip install mpi4py mpich")
else:
    worker = Path(tempfile.mkdtemp()) / "worker.py"
    worker.write_text(WORKER)
    for count in (1, 2, 4):
        run = subprocess.run([mpiexec, "-n", str(count), sys.executable, str(worker)],
                             capture_output=True, text=True, timeout=100)
        if run.returncode:
            raise RuntimeError(run.stderr)
        results[count] = json.loads(run.stdout.strip().splitlines()[-1])
        print(f"{count} process(es): last loss {results[count]['curve'][-1]:.12f}, "
              f"{results[count]['seconds']:.2f} s")

# %% [markdown]
# The losses agree to rounding: sums of floats in another order differ in the last digits, and nothing
# else does. And the processes of a run end with the very same weights, since all apply the same sum.

# %%
spread = identical = None
if results:
    curves = np.array([result["curve"] for result in results.values()])
    spread = float(np.ptp(curves, axis=0).max())
    identical = all(len(set(result["weights"])) == 1 for result in results.values())
    print(f"largest difference between the curves {spread:.1e}; same weights in all processes: "
          f"{identical}")
    with inspect.style() as plt:
        figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
        for count, result in results.items():
            ax.plot(result["curve"], label=f"{count} process(es)", linewidth=7 - 1.5 * count,
                    alpha=0.7)
        ax.set(xlabel="training step", ylabel="loss")
        ax.grid(True)
        ax.legend()
    show(figure, "One, two and four processes follow one loss curve.")

# %% [markdown]
# ## When does it pay?
#
# Each step computes for T/P seconds and talks for as long as the weights take to travel. Here the
# network is so small that talking may cost more than computing: compare the seconds above. A network
# pays when its arithmetic per weight is large: convolutions, whose weights are used at every pixel.
#
# ## Exercises
#
# 1. `ring_allreduce(parts)`: the sum of P arrays of length P, computed as a ring does it: in P − 1
#    rounds each process sends one piece to its right neighbour and adds what it gets; in P − 1 more
#    the finished pieces go round. Write it with lists instead of processes.
# 2. `bytes_sent(size, processes)`: what one process sends in all for an array of `size` bytes. Why
#    does it hardly grow with the number of processes?
#
# Solutions: `examples/solutions/14.py`.
