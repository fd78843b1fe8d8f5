"""A whole step of the cell in one kernel, in Python for the GPU.

A thread owns one unit of one sample and sums all four of its gates; a block of 16 units by 16
samples shares the states and the recurrent weights that they need in shared memory. So a step is
one launch, and the gates never travel to memory and back. Through time a step is one launch too:
the gradient that comes back from the step after, then the cell's own.
"""

import math

from kernels.backend import array_module
from kernels.cuda.numba_cuda import cuda, device, kernel, usable
from kernels.ladder import rung
from kernels.lstm import lstm, lstm_grad
from kernels.recurrent import before, rows

SIDE = 16  # units, and samples, of a block
PADDED = SIDE + 1  # so that no two threads of a warp want the same bank of shared memory


@device
def _sigmoid(x, half):
    """half is 1/2 in x's own type: a literal would be float64."""
    return half * math.tanh(half * x) + half


def _cell(keep_gates):
    """A kernel for the step first + blockIdx.z, which writes either its gates or its states."""

    @kernel
    def cell(states, gates, xw, h0, c0, R, mask, first):
        h_tile = cuda.shared.array((SIDE, SIDE), xw.dtype)
        R_tile = cuda.shared.array((4, SIDE, SIDE), xw.dtype)
        sums = cuda.local.array(4, xw.dtype)
        units = R.shape[0]
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        n, u = cuda.blockIdx.y * SIDE + y, cuda.blockIdx.x * SIDE + x
        t = first + cuda.blockIdx.z
        for q in range(4):
            sums[q] = 0
        for start in range(0, units, SIDE):
            h_tile[y, x] = 0
            if n < xw.shape[0] and start + x < units:
                if t == 0:
                    h_tile[y, x] = h0[n, start + x]
                else:
                    h_tile[y, x] = states[0, n, t - 1, start + x]
            for q in range(4):
                R_tile[q, y, x] = 0
                if start + y < units and u < units:
                    R_tile[q, y, x] = R[start + y, q * units + u]
            cuda.syncthreads()
            for k in range(SIDE):
                for q in range(4):
                    sums[q] += h_tile[y, k] * R_tile[q, k, x]
            cuda.syncthreads()
        if n < xw.shape[0] and u < units:
            half = xw.dtype.type(0.5)
            i = _sigmoid(xw[n, t, u] + sums[0], half)
            f = _sigmoid(xw[n, t, units + u] + sums[1], half)
            candidate = math.tanh(xw[n, t, 2 * units + u] + sums[2])
            o = _sigmoid(xw[n, t, 3 * units + u] + sums[3], half)
            if keep_gates:
                gates[n, t, 0, u] = i
                gates[n, t, 1, u] = f
                gates[n, t, 2, u] = candidate
                gates[n, t, 3, u] = o
            else:
                if t == 0:
                    h, c = h0[n, u], c0[n, u]
                else:
                    h, c = states[0, n, t - 1, u], states[1, n, t - 1, u]
                if mask[n, t]:
                    c = f * c + i * candidate
                    h = o * math.tanh(c)
                states[0, n, t, u] = h
                states[1, n, t, u] = c

    return cell


_forward = _cell(keep_gates=False)
_gates_of = _cell(keep_gates=True)


@kernel
def _back(g, states, gates, c0, R, mask, dxw, dh, dc, scale, t):
    """The gradient of step t's pre-activations, dxw[:, t], from that of step t + 1.

    dh and dc (N, U) hold what comes back to the states of step t (dh without what passes through R
    of step t + 1), and leave with what goes back to those of step t - 1. At t = -1 dh is dh0.
    """
    da_tile = cuda.shared.array((SIDE, SIDE), R.dtype)
    R_tile = cuda.shared.array((SIDE, PADDED), R.dtype)
    units, samples, steps = R.shape[0], mask.shape[0], mask.shape[1]
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    n, u = cuda.blockIdx.y * SIDE + y, cuda.blockIdx.x * SIDE + x
    total = R.dtype.type(0)
    if t + 1 < steps:
        for start in range(0, 4 * units, SIDE):
            da_tile[y, x] = 0
            if n < samples and start + x < 4 * units:
                da_tile[y, x] = dxw[n, t + 1, start + x]
            R_tile[y, x] = 0
            if cuda.blockIdx.x * SIDE + y < units and start + x < 4 * units:
                R_tile[y, x] = R[cuda.blockIdx.x * SIDE + y, start + x]
            cuda.syncthreads()
            for k in range(SIDE):
                total += da_tile[y, k] * R_tile[x, k]
            cuda.syncthreads()
    if n < samples and u < units:
        dh_here = dh[n, u] + scale * total
        if t < 0:
            dh[n, u] = dh_here
        else:
            dh_here += g[0, n, t, u]
            dc_here = dc[n, u] + g[1, n, t, u]
            di = df = d_candidate = do = R.dtype.type(0)
            if mask[n, t]:
                one = R.dtype.type(1)
                i, f = gates[n, t, 0, u], gates[n, t, 1, u]
                candidate, o = gates[n, t, 2, u], gates[n, t, 3, u]
                squashed = math.tanh(states[1, n, t, u])
                c_before = c0[n, u] if t == 0 else states[1, n, t - 1, u]
                dc_here += dh_here * o * (one - squashed * squashed)
                di = dc_here * candidate * i * (one - i)
                df = dc_here * c_before * f * (one - f)
                d_candidate = dc_here * i * (one - candidate * candidate)
                do = dh_here * squashed * o * (one - o)
                dh_here, dc_here = R.dtype.type(0), scale * dc_here * f
            dxw[n, t, u] = di
            dxw[n, t, units + u] = df
            dxw[n, t, 2 * units + u] = d_candidate
            dxw[n, t, 3 * units + u] = do
            dh[n, u] = dh_here
            dc[n, u] = dc_here


@rung(lstm, device="cuda", why="a step is one launch: the product and the gates together")
def cuda_numba(xw, h0, c0, R, mask, gate, keep):
    xp = array_module(xw, h0, c0, R)
    xw, h0, c0, R = (xp.ascontiguousarray(a) for a in (xw, h0, c0, R))
    n, steps, _ = xw.shape
    units = h0.shape[1]
    mask = _everywhere(xp, mask, n, steps)
    states, no_gates = xp.empty((2, n, steps, units), xw.dtype), xp.empty((1, 1, 4, 1), xw.dtype)
    for t in range(steps):
        _forward(_blocks(n, units), (SIDE, SIDE), states, no_gates, xw, h0, c0, R, mask, t)
    return states


@rung(lstm_grad, device="cuda", why="a step is one launch here too, and the gates are another")
def cuda_numba(g, states, xw, h0, c0, R, mask, gate, gates):  # noqa: F811
    xp = array_module(g, states, xw, h0, c0, R)
    g, states, xw = (xp.ascontiguousarray(a) for a in (g, states, xw))
    h0, c0, R = (xp.ascontiguousarray(a) for a in (h0, c0, R))
    n, steps, _ = xw.shape
    units = h0.shape[1]
    mask = _everywhere(xp, mask, n, steps)
    gates, dxw = xp.empty((n, steps, 4, units), xw.dtype), xp.empty_like(xw)
    dh, dc = xp.zeros_like(h0), xp.zeros_like(c0)
    scale = xw.dtype.type(1 if gate is None else gate[0])
    blocks, threads = _blocks(n, units), (SIDE, SIDE)
    _gates_of((*blocks, steps), threads, states, gates, xw, h0, c0, R, mask, 0)
    for t in range(steps - 1, -2 if steps else -1, -1):
        _back(blocks, threads, g, states, gates, c0, R, mask, dxw, dh, dc, scale, t)
    return dxw, dh, dc, rows(before(xp, states[0], h0)).T @ rows(dxw)


@lstm.rungs["cuda_numba"].needs
def _(xw, h0, c0, R, mask, gate, keep):
    return "does not keep the gates" if keep else usable(xw, h0, c0, R)


@cuda_numba.needs
def _(g, states, xw, h0, c0, R, mask, gate, gates):
    if gate is not None and gate[1] is not None:
        return "the norm limit of the gradient gate needs all units of a sample at once"
    if xw.shape[1] >= 2**16:
        return "fewer than 65536 steps only"
    return usable(g, states, xw, h0, c0, R)


def _blocks(samples, units):
    return -(-units // SIDE), -(-samples // SIDE)


def _everywhere(xp, mask, samples, steps):
    return xp.ones((samples, steps), bool) if mask is None else xp.ascontiguousarray(mask)
