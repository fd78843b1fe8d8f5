"""A whole step in one kernel, in CUDA C (lstm.cu); of many samples and units, all but the product."""

from kernels import cuda
from kernels.backend import array_module
from kernels.ladder import rung
from kernels.lstm import lstm, lstm_grad
from kernels.recurrent import before, rows
from kernels.through_time import back_through_time, by_matmul, in_one_launch

SIDE = 16  # samples, and units, of a block: as in lstm.cu
_cu = cuda.module(__file__, "lstm.cu")


@rung(lstm, device="cuda", why="of few samples and units, all steps are one launch")
def cuda_raw(xw, h0, c0, R, mask, gate, keep):
    n, steps, _ = xw.shape
    units = h0.shape[1]
    states, large = cuda.empty((2, n, steps, units), like=xw), by_matmul(n, units)
    if in_one_launch(n, 4 * units, units):
        block = 32 * cuda.blocks(4 * units, 32)  # whole warps
        _cu["lstm_sequence"](n, block, xw, h0, c0, R, mask, states, n, steps, units)
        return states
    grid = cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)
    for t in range(steps):
        product = (states[0, :, t - 1] if t else h0) @ R if large else None
        arrays = xw, h0, c0, R, product, mask, states
        _cu["lstm_step"](grid, (SIDE, SIDE), *arrays, t, n, steps, units)
    return states


@rung(lstm_grad, device="cuda", why="and it has the gradient gate's limit")
def cuda_raw(g, states, xw, h0, c0, R, mask, gate, gates):  # noqa: F811
    xp = array_module(xw)
    n, steps, _ = xw.shape
    units = h0.shape[1]
    grid, block = (cuda.blocks(n, SIDE), cuda.blocks(units, SIDE)), (SIDE, SIDE)
    gates = cuda.empty((n, steps, 4, units), like=xw)
    everywhen = (*grid, min(steps, 65535))
    product = rows(before(xp, states[0], h0)) @ R if by_matmul(n * steps, units) else None
    _cu["lstm_gates"](everywhen, block, xw, h0, R, product, states, gates, n, steps, units)
    dxw = cuda.empty(xw.shape, like=xw)
    dh, dc = xp.zeros(h0.shape, h0.dtype), xp.zeros(c0.shape, c0.dtype)

    def back(t, with_product, with_cell):
        product = dxw[:, t + 1] @ R.T if with_product and by_matmul(n, units) else None
        _cu["lstm_back"](
            grid, block, g, states, gates, c0, R, product, mask, dxw, dh, dc,
            1 if gate is None else gate[0], t, n, steps, units, with_product, with_cell,
        )  # fmt: skip

    back_through_time(back, steps, gate, mask, [dh, dc])
    return dxw, dh, dc, rows(before(xp, states[0], h0)).T @ rows(dxw)


@lstm.rungs["cuda_raw"].needs
def _(xw, h0, c0, R, mask, gate, keep):
    return "does not keep the gates" if keep else cuda.usable(xw, h0, c0, R)


@cuda_raw.needs
def _(g, states, xw, h0, c0, R, mask, gate, gates):
    return cuda.usable(g, states, xw, h0, c0, R)
