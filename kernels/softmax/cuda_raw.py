"""One kernel an op, in CUDA C: a row stays in the registers of its threads (softmax.cu)."""

from kernels import cuda
from kernels.ladder import rung
from kernels.softmax import (
    log_softmax,
    log_softmax_grad,
    sigmoid_crossentropy,
    sigmoid_crossentropy_grad,
    softmax,
    softmax_crossentropy,
    softmax_crossentropy_grad,
    softmax_grad,
)

THREADS, FOUR = 256, 4  # for what goes number by number: as in softmax.cu
_cu = cuda.module(__file__, "softmax.cu")


@rung(softmax, device="cuda", why="one kernel: a row's maximum and sum never leave the chip")
def cuda_raw(x):
    return _by_row("softmax", x.shape, x, x)


@rung(softmax_grad, device="cuda", why="one kernel: a row's sum never leaves the chip")
def cuda_raw(g, y):  # noqa: F811
    return _by_row("softmax_grad", y.shape, y, g, y)


@rung(log_softmax, device="cuda", why="one kernel: a row's maximum and sum never leave the chip")
def cuda_raw(x):  # noqa: F811
    return _by_row("log_softmax", x.shape, x, x)


@rung(log_softmax_grad, device="cuda", why="one kernel: a row's sum never leaves the chip")
def cuda_raw(g, y):  # noqa: F811
    return _by_row("log_softmax_grad", y.shape, y, g, y)


@rung(softmax_crossentropy, device="cuda", why="one kernel, which writes the losses only")
def cuda_raw(logits, labels):  # noqa: F811
    return _by_row("softmax_crossentropy", labels.shape, logits, logits, labels)


@rung(softmax_crossentropy_grad, device="cuda", why="one kernel, the softmax is not kept")
def cuda_raw(g, logits, labels):  # noqa: F811
    return _by_row("softmax_crossentropy_grad", logits.shape, logits, g, logits, labels)


@rung(sigmoid_crossentropy, device="cuda", why="one pass instead of half a dozen")
def cuda_raw(logits, targets):  # noqa: F811
    return _by_number("sigmoid_crossentropy", logits, targets)


@rung(sigmoid_crossentropy_grad, device="cuda", why="one pass instead of half a dozen")
def cuda_raw(g, logits, targets):  # noqa: F811
    return _by_number("sigmoid_crossentropy_grad", g, logits, targets)


for op in (
    softmax, softmax_grad, log_softmax, log_softmax_grad,
    sigmoid_crossentropy, sigmoid_crossentropy_grad,
):  # fmt: skip
    op.rungs["cuda_raw"].needs(cuda.usable)
softmax_crossentropy.rungs["cuda_raw"].needs(lambda logits, labels: cuda.usable(logits))
softmax_crossentropy_grad.rungs["cuda_raw"].needs(lambda g, logits, labels: cuda.usable(g, logits))


def _by_row(name, shape, of, *arrays):
    """A new array of this shape, written by some threads for each row of the array `of`."""
    result, classes = cuda.empty(shape, like=of), of.shape[-1]
    rows = of.size // classes
    block = cuda.row_block(classes)
    _cu[name](cuda.blocks(rows, block[1]), block, *arrays, result, rows, classes)
    return result


def _by_number(name, *arrays):
    result = cuda.empty(arrays[0].shape, like=arrays[0])
    grid = min(cuda.blocks(result.size, THREADS * FOUR), 2**16)
    _cu[name](grid, THREADS, *arrays, result, result.size)
    return result
