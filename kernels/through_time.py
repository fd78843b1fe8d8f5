"""How the recurrent cells' CUDA kernels go back through time, and the limit of the gradient gate.

The product with R needs the gradients of all units of the step after, so each step is one launch at
least. The gate's limit needs all units of what that product gives: where there is one, a step is
three launches, the product, `shorten` (through_time.cu), and the cell.
"""

from kernels import cuda

LARGE = 2**24  # multiplications, for each gate: one launch more pays from about here
SMALL = 2**24  # numbers of R that all samples together read in a step
THREADS = 256  # at most what through_time.cu has room for, a power of two
_cu = cuda.module(__file__, "through_time.cu")


def in_one_launch(samples, columns, units):
    """Whether all steps may be one launch, of a block a sample and a thread for each column of R:
    all blocks read all of R, so samples and units must be few."""
    return 0 < columns <= 1024 and samples * columns * units <= SMALL


def by_matmul(samples, units):
    """Whether the product of so many states with R is better left to cuBLAS: a launch of its own,
    but several sums a thread and no waiting for shared memory."""
    return samples * units * units >= LARGE


def back_through_time(back, steps, gate, mask, gradients):
    """Call back(t, with_product, with_cell) for t = steps - 1, ..., -1: see lstm.cu.

    At t = -1 there is no cell, only what goes back to the initial state. gradients: the arrays
    (N, U) that `back` keeps between the steps, each of which passes through the gate.
    """
    limit = None if gate is None else gate[1]
    for t in range(steps - 1, -2, -1):
        product, cell = t + 1 < steps, t >= 0
        if product and limit is not None:
            back(t, True, False)
            for gradient in gradients:
                samples, units = gradient.shape
                _cu["shorten"](samples, THREADS, gradient, mask, limit, t + 1, steps, units)
            product = False
        if product or cell:
            back(t, product, cell)
