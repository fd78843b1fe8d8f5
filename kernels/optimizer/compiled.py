"""Compiled: one pass over the four arrays, where the array rung makes eleven and six temporaries.

The step is bound by memory: 16 bytes are read and 12 written for each float32 weight. Results
differ from the array rung's by rounding.
"""

from kernels.jit import jit, plain, prange, simd, usable
from kernels.ladder import rung
from kernels.optimizer import adam

BLOCK = 2**14  # numbers; what has no more is not worth waking another thread for


@rung(adam, device="cpu", why="one pass over memory, without temporaries")
def compiled(w, g, m, v, rate, beta_1, beta_2, epsilon):
    arrays = w.reshape(-1), plain(g).reshape(-1), m.reshape(-1), v.reshape(-1)
    numbers = [w.dtype.type(x) for x in (rate, 1 - beta_1, 1 - beta_2, epsilon)]
    if w.size > BLOCK:
        head = -w.ctypes.data % 64 // w.itemsize  # NumPy's arrays begin in the middle of a line
        _adam_block(*arrays, *numbers, 0, head)
        _adam(*arrays, *numbers, head, BLOCK)
    else:
        _adam_block(*arrays, *numbers, 0, w.size)
    return w, m, v


@compiled.needs
def _(w, g, m, v, rate, beta_1, beta_2, epsilon):
    for array in (w, m, v):
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            return "contiguous arrays that can be written only"
    return usable(w, g, m, v)


@jit(parallel=True)
def _adam(w, g, m, v, rate, share_m, share_v, epsilon, head, block):
    for number in prange((w.size - head + block - 1) // block):
        first = head + number * block
        last = min(first + block, w.size)
        _adam_block(w, g, m, v, rate, share_m, share_v, epsilon, first, last)


@jit()
def _adam_block(w, g, m, v, rate, share_m, share_v, epsilon, first, last):
    rates, epsilons = simd.splat(rate), simd.splat(epsilon)
    shares_m, shares_v = simd.splat(share_m), simd.splat(share_v)
    lanes = 64 // w.itemsize
    pairs = first + (last - first) // (2 * lanes) * 2 * lanes
    for i in range(first, pairs, 2 * lanes):  # two lines: all are on their way before one is stored
        j = i + lanes
        g_i, m_i, v_i, w_i = simd.load(g, i), simd.load(m, i), simd.load(v, i), simd.load(w, i)
        g_j, m_j, v_j, w_j = simd.load(g, j), simd.load(m, j), simd.load(v, j), simd.load(w, j)
        m_i, m_j = simd.fma(g_i - m_i, shares_m, m_i), simd.fma(g_j - m_j, shares_m, m_j)
        v_i = simd.fma(g_i * g_i - v_i, shares_v, v_i)
        v_j = simd.fma(g_j * g_j - v_j, shares_v, v_j)
        w_i = w_i - rates * m_i / (simd.sqrt(v_i) + epsilons)
        w_j = w_j - rates * m_j / (simd.sqrt(v_j) + epsilons)
        simd.store(m, i, m_i)
        simd.store(m, j, m_j)
        simd.store(v, i, v_i)
        simd.store(v, j, v_j)
        simd.store(w, i, w_i)
        simd.store(w, j, w_j)
    for i in range(pairs, last, lanes):
        count = min(lanes, last - i)
        g_i, m_i = simd.get(g, i, count), simd.get(m, i, count)
        v_i, w_i = simd.get(v, i, count), simd.get(w, i, count)
        m_i = simd.fma(g_i - m_i, shares_m, m_i)
        v_i = simd.fma(g_i * g_i - v_i, shares_v, v_i)
        simd.put(m, i, m_i, count)
        simd.put(v, i, v_i, count)
        simd.put(w, i, w_i - rates * m_i / (simd.sqrt(v_i) + epsilons), count)
