"""In CUDA C (normalization.cu): rows that stay in registers, or channels that keep their scale.

Sums over many pixels are cut into parts, so that all of a GPU has something to do where there is
one sample and few channels; a second kernel puts the parts together.
"""

from kernels import cuda
from kernels.ladder import rung
from kernels.normalization import moments, normalize, normalize_grad

THREADS, EIGHT = 256, 8  # as in normalization.cu
ENOUGH_BLOCKS = 1024  # to keep a large GPU busy
_cu = cuda.module(__file__, "normalization.cu")


@rung(moments, device="cuda", why="means and variances while the numbers are on the chip")
def cuda_raw(x, groups):
    n, p, c = x.shape
    k, rows = c // groups, n * groups
    result = cuda.empty((2, n, groups), like=x)
    if p == 1:
        _by_row("moments_of_rows", rows, k, x, result)
        return result
    count, each = _parts(x.shape)
    parts = cuda.empty((2, n, c, count), like=x)
    _cu["moments_of_channels"](_grid(c, count, n), _block(c), x, parts, n, p, c, each)
    block = cuda.row_block(k * count)
    grid = cuda.blocks(rows, block[1])
    _cu["join_moments"](grid, block, parts, result, rows, k, p, count, each)
    return result


@rung(normalize, device="cuda", why="one pass instead of one for each operation")
def cuda_raw(x, moments, gamma, beta, epsilon):  # noqa: F811
    n, p, c = x.shape
    groups = moments.shape[2]
    y, arrays = cuda.empty(x.shape, like=x), (x, moments, gamma, beta)
    if p == 1:
        _by_row("normalize_rows", n * groups, c // groups, *arrays, y, then=(groups, epsilon))
    else:
        _by_channel("normalize", x.shape, *arrays, y, then=(groups, epsilon))
    return y


@rung(normalize_grad, device="cuda", why="two passes: the sums, then the result")
def cuda_raw(g, x, moments, gamma, epsilon):  # noqa: F811
    n, p, c = x.shape
    groups = moments.shape[2]
    dx, arrays = cuda.empty(x.shape, like=x), (g, x, moments, gamma)
    if p == 1:
        _by_row("rows_grad", n * groups, c // groups, *arrays, dx, then=(groups, epsilon))
        dbeta, dgamma = _gradient_sums(g, x, moments, (1, n, c), epsilon)[:, 0]
        return dx, dgamma, dbeta
    sums = _gradient_sums(g, x, moments, x.shape, epsilon)
    means = cuda.empty((2, n, groups), like=x)
    _by_row("group_means", n * groups, c // groups, sums, gamma, means, then=(groups, p))
    _by_channel("normalize_grad", x.shape, *arrays, means, dx, then=(groups, epsilon))
    dbeta, dgamma = sums[:, 0] if n == 1 else sums.sum(axis=1)
    return dx, dgamma, dbeta


def _gradient_sums(g, x, moments, shape, epsilon):
    """Σ g and Σ g·(x - mean)/root over the pixels of x seen as `shape` (N, P, C): (2, N, C)."""
    n, p, c = shape
    count, each = _parts(shape)
    parts = cuda.empty((2, n, c, count), like=x)
    numbers = n, p, c, moments.shape[2], each, x.shape[1] == 1, epsilon
    _cu["gradient_sums"](_grid(c, count, n), _block(c), g, x, moments, parts, *numbers)
    if count == 1:
        return parts[..., 0]
    sums = cuda.empty((2, n, c), like=x)
    _by_row("add_parts", sums.size, count, parts, sums)
    return sums


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


def _by_row(name, rows, size, *arrays, then=()):
    block = cuda.row_block(size)
    _cu[name](cuda.blocks(rows, block[1]), block, *arrays, rows, size, *then)


def _by_channel(name, shape, *arrays, then):
    n, p, c = shape
    wide, high = _block(c)
    eights = cuda.blocks(p, EIGHT * high)
    each = max(1, min(4, cuda.blocks(c, wide) * n * eights // (4 * ENOUGH_BLOCKS)))  # of a thread
    grid = _grid(c, cuda.blocks(eights, each), n)
    _cu[name](grid, (wide, high), *arrays, *shape, *then)


def _block(channels):
    """Neighbouring channels, a power of two up to a warp, and pixels that are read at once."""
    wide = min(32, 1 << (channels - 1).bit_length())
    return wide, THREADS // wide


def _parts(shape):
    """Into how many parts the pixels are cut, and of how many each. The shape alone decides, not
    the GPU, so that results are the same everywhere."""
    n, p, c = shape
    wide, high = _block(c)
    tiles = max(1, cuda.blocks(c, wide) * n)
    parts = max(1, min(cuda.blocks(ENOUGH_BLOCKS, tiles), p // (EIGHT * high)))
    each = cuda.blocks(p, parts)
    return cuda.blocks(p, each), each


def _grid(channels, *others):
    return cuda.blocks(channels, _block(channels)[0]), *(min(size, 65535) for size in others)
