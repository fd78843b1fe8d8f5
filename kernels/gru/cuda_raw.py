"""A whole step of the cell in one kernel, in CUDA C (gru.cu)."""

from kernels import cuda
from kernels.backend import array_module
from kernels.gru import gru, gru_grad
from kernels.ladder import rung
from kernels.recurrent import before, rows
from kernels.through_time import back_through_time

SIDE = 16  # samples, and units, of a block: as in gru.cu
_cu = cuda.module(__file__, "gru.cu")


@rung(gru, device="cuda", why="a step is one launch: the product and the gates together")
def cuda_raw(xw, h0, R, rb, mask, gate):
    n, steps, _ = xw.shape
    units = h0.shape[1]
    hs = cuda.empty((n, steps, units), like=xw)
    grid = cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)
    for t in range(steps):
        _cu["gru_step"](grid, (SIDE, SIDE), xw, h0, R, rb, mask, hs, t, n, steps, units)
    return hs


@rung(gru_grad, device="cuda", why="a step is one launch here too, and the gates are another")
def cuda_raw(g, hs, xw, h0, R, rb, mask, gate):  # noqa: F811
    xp = array_module(xw)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    grid, block = (cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)), (SIDE, SIDE)
    gates = cuda.empty((n, steps, 4, units), like=xw)
    everywhen = (*grid, min(steps, 65535))
    _cu["gru_gates"](everywhen, block, xw, h0, R, rb, hs, gates, n, steps, units)
    dxw, d_recurrent = cuda.empty(xw.shape, like=xw), cuda.empty(xw.shape, like=xw)
    dh = xp.zeros(h0.shape, h0.dtype)

    def back(t, with_product, with_cell):
        _cu["gru_back"](
            grid, block, g, hs, gates, h0, R, mask, dxw, d_recurrent, dh,
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
