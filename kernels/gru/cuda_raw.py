"""A whole step in one kernel, in CUDA C (gru.cu); of many samples and units, all but the product."""

from kernels import cuda
from kernels.backend import array_module
from kernels.gru import gru, gru_grad
from kernels.ladder import rung
from kernels.recurrent import before, rows
from kernels.through_time import back_through_time, by_matmul, in_one_launch

SIDE = 16  # samples, and units, of a block: as in gru.cu
_cu = cuda.module(__file__, "gru.cu")


@rung(gru, device="cuda", why="a step is one launch, of few samples and units all of them are")
def cuda_raw(xw, h0, R, rb, mask, gate):
    n, steps, _ = xw.shape
    units = h0.shape[1]
    hs, large = cuda.empty((n, steps, units), like=xw), by_matmul(n, units)
    if in_one_launch(n, 3 * units, units):
        block = 32 * cuda.blocks(3 * units, 32)  # whole warps
        _cu["gru_sequence"](n, block, xw, h0, R, rb, mask, hs, steps, units)
        return hs
    grid = cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)
    for t in range(steps):
        product = (hs[:, t - 1] if t else h0) @ R if large else None
        _cu["gru_step"](grid, (SIDE, SIDE), xw, h0, R, rb, product, mask, hs, t, n, steps, units)
    return hs


@rung(gru_grad, device="cuda", why="a step is one launch here too, and the gates are another")
def cuda_raw(g, hs, xw, h0, R, rb, mask, gate):  # noqa: F811
    xp = array_module(xw)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    grid, block = (cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)), (SIDE, SIDE)
    gates = cuda.empty((n, steps, 4, units), like=xw)
    everywhen = (*grid, min(steps, 65535))
    product = rows(before(xp, hs, h0)) @ R if by_matmul(n * steps, units) else None
    _cu["gru_gates"](everywhen, block, xw, h0, R, rb, product, hs, gates, n, steps, units)
    dxw, d_recurrent = cuda.empty(xw.shape, like=xw), cuda.empty(xw.shape, like=xw)
    dh = xp.zeros(h0.shape, h0.dtype)

    def back(t, with_product, with_cell):
        product = d_recurrent[:, t + 1] @ R.T if with_product and by_matmul(n, units) else None
        _cu["gru_back"](
            grid, block, g, hs, gates, h0, R, product, mask, dxw, d_recurrent, dh,
            1 if gate is None else gate[0], t, n, steps, units, with_product, with_cell,
        )  # fmt: skip

    back_through_time(back, steps, gate, mask, [dh])
    d_recurrent = rows(d_recurrent)
    return dxw, dh, rows(before(xp, hs, h0)).T @ d_recurrent, d_recurrent.sum(axis=0)


@gru.rungs["cuda_raw"].needs
def _(xw, h0, R, rb, mask, gate):
    return cuda.usable(xw, h0, R, rb)


@cuda_raw.needs
def _(g, hs, xw, h0, R, rb, mask, gate):
    return cuda.usable(g, hs, xw, h0, R, rb)
