"""A whole step in one kernel, in CUDA C (rnn.cu); of many samples and units, all but the product."""

from kernels import cuda
from kernels.backend import array_module
from kernels.ladder import rung
from kernels.recurrent import before, rows
from kernels.rnn import rnn, rnn_grad
from kernels.through_time import back_through_time, by_matmul, in_one_launch

SIDE = 16  # samples, and units, of a block: as in rnn.cu
_cu = cuda.module(__file__, "rnn.cu")


@rung(rnn, device="cuda", why="a step is one launch, of few samples and units all of them are")
def cuda_raw(xw, h0, R, mask, gate):
    n, steps, units = xw.shape
    hs = cuda.empty(xw.shape, like=xw)
    if in_one_launch(n, units, units):
        block = 32 * cuda.blocks(units, 32)  # whole warps
        _cu["rnn_sequence"](n, block, xw, h0, R, mask, hs, steps, units)
        return hs
    grid = cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)
    for t in range(steps):
        product = (hs[:, t - 1] if t else h0) @ R if by_matmul(n, units) else None
        _cu["rnn_step"](grid, (SIDE, SIDE), xw, h0, R, product, mask, hs, t, n, steps, units)
    return hs


@rung(rnn_grad, device="cuda", why="a step is one launch here too")
def cuda_raw(g, hs, xw, h0, R, mask, gate):  # noqa: F811
    xp = array_module(xw)
    n, steps, units = xw.shape
    grid, block = (cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)), (SIDE, SIDE)
    dxw, dh = cuda.empty(xw.shape, like=xw), xp.zeros(h0.shape, h0.dtype)

    def back(t, with_product, with_cell):
        product = dxw[:, t + 1] @ R.T if with_product and by_matmul(n, units) else None
        _cu["rnn_back"](
            grid, block, g, hs, R, product, mask, dxw, dh,
            1 if gate is None else gate[0], t, n, steps, units, with_product, with_cell,
        )  # fmt: skip

    back_through_time(back, steps, gate, mask, [dh])
    return dxw, dh, rows(before(xp, hs, h0)).T @ rows(dxw)


@rnn.rungs["cuda_raw"].needs
def _(xw, h0, R, mask, gate):
    return cuda.usable(xw, h0, R)


@cuda_raw.needs
def _(g, hs, xw, h0, R, mask, gate):
    return cuda.usable(g, hs, xw, h0, R)
