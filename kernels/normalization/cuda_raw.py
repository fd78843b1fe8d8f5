"""Each number is read once for the sums and once for the result, in CUDA C (normalization.cu).

Sums over many pixels are cut into parts, so that all of a GPU has something to do where there is
one sample and few channels; the parts are few and are put together by CuPy.
"""

from kernels import cuda
from kernels.backend import array_module
from kernels.ladder import rung
from kernels.normalization import moments, normalize, normalize_grad

THREADS, WIDE, HIGH = 256, 32, 8  # as in normalization.cu
ENOUGH_BLOCKS = 1024  # to keep a large GPU busy
_cu = cuda.module(__file__, "normalization.cu")


@rung(moments, device="cuda", why="means and variances while the numbers are on the chip")
def cuda_raw(x, groups):
    xp = array_module(x)
    n, p, c = x.shape
    k = c // groups
    if k >= WIDE:  # a block a group
        result = cuda.empty((2, n, groups), like=x)
        _cu["moments_of_wide_groups"](n * groups, THREADS, x, result, n, p, c, groups)
        return result
    parts, each = _parts(x.shape)
    mean, squares = both = cuda.empty((2, parts, n, c), like=x)
    _cu["moments_of_channels"](_grid(c, parts, n), (WIDE, HIGH), x, both, n, p, c, each)
    mean, squares = (a.reshape(parts, n, groups, k) for a in (mean, squares))
    counts = [min(each, p - part * each) for part in range(parts)]
    share = xp.asarray(counts, x.dtype)[:, None, None, None] / (p * k)
    whole = (mean * share).sum(axis=(0, 3))  # (N, G)
    apart = (mean - whole[:, :, None]) ** 2 * share
    return xp.stack([whole, squares.sum(axis=(0, 3)) / (p * k) + apart.sum(axis=(0, 3))])


@rung(normalize, device="cuda", why="one pass instead of one for each operation")
def cuda_raw(x, moments, gamma, beta, epsilon):  # noqa: F811
    n, p, c = x.shape
    y, rows = cuda.empty(x.shape, like=x), cuda.blocks(n * p, HIGH)
    numbers = n, p, c, moments.shape[2], epsilon
    _cu["normalize"](_grid(c, rows), (WIDE, HIGH), x, moments, gamma, beta, y, *numbers)
    return y


@rung(normalize_grad, device="cuda", why="two passes: the sums, then the result")
def cuda_raw(g, x, moments, gamma, epsilon):  # noqa: F811
    n, p, c = x.shape
    groups = moments.shape[2]
    k = c // groups
    dx, numbers = cuda.empty(x.shape, like=x), (n, p, c, groups, epsilon)
    if k >= WIDE:  # a block a group
        _cu["wide_groups_grad"](n * groups, THREADS, g, x, moments, gamma, dx, *numbers)
        dbeta, dgamma = _gradient_sums(g, x, moments, (1, n * p, c), epsilon)[:, 0]
        return dx, dgamma, dbeta
    sums = _gradient_sums(g, x, moments, x.shape, epsilon)  # (2, N, C)
    by_group = (sums * gamma).reshape(2, n, groups, k).sum(axis=3) * (1 / (p * k))
    rows, arrays = cuda.blocks(n * p, HIGH), (g, x, moments, gamma, by_group, dx)
    _cu["normalize_grad"](_grid(c, rows), (WIDE, HIGH), *arrays, *numbers)
    dbeta, dgamma = sums.sum(axis=1)
    return dx, dgamma, dbeta


def _gradient_sums(g, x, moments, shape, epsilon):
    """Σ g and Σ g·(x - mean)/root over the pixels of x seen as `shape` (N, P, C): (2, N, C)."""
    n, p, c = shape
    parts, each = _parts(shape)
    partial = cuda.empty((2, parts, n, c), like=x)
    numbers = n, p, c, moments.shape[2], x.shape[1], each, epsilon
    grid = _grid(c, parts, n)
    _cu["gradient_sums"](grid, (WIDE, HIGH), g, x, moments, partial, *numbers)
    return partial.sum(axis=1)


@moments.rungs["cuda_raw"].needs
def _(x, groups):
    return cuda.usable(x)


@normalize.rungs["cuda_raw"].needs
def _(x, moments, gamma, beta, epsilon):
    return _usable(x, moments, gamma, beta)


@normalize_grad.rungs["cuda_raw"].needs
def _(g, x, moments, gamma, epsilon):
    return _usable(x, g, moments, gamma)


def _usable(x, *others):
    return "one number at least" if not x.size else cuda.usable(x, *others)


def _parts(shape):
    """Into how many parts the pixels are cut, and of how many each. The shape alone decides, not
    the GPU, so that results are the same everywhere."""
    n, p, c = shape
    tiles = max(1, cuda.blocks(c, WIDE) * n)
    parts = max(1, min(cuda.blocks(ENOUGH_BLOCKS, tiles), p // (8 * HIGH)))
    each = cuda.blocks(p, parts)
    return cuda.blocks(p, each), each


def _grid(channels, *others):
    return cuda.blocks(channels, WIDE), *(min(size, 65535) for size in others)
