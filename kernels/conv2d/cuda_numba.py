"""Tiles of a matrix product in shared memory, in Python for the GPU.

Each contraction is a matrix product whose left matrix is never built ("implicit GEMM"): for the
output, row (n, i, j) and depth (k, l, c) name a pixel of x. A block of 16 x 16 threads makes 64 x
64 numbers. It brings a slice of both matrices, 16 deep, into shared memory, where each number then
serves 64 products, and each thread keeps its 4 x 4 sums in registers. Gradients gather: every
number is written by one thread, so that results are the same from run to run.
"""

from kernels.backend import array_module
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.cuda.numba_cuda import cuda, device, kernel, usable
from kernels.ladder import rung

SIDE = 16  # threads of a block, in both directions
EACH = 4  # rows and columns of a thread
TILE = SIDE * EACH
PADDED = TILE + 1  # so that no two threads of a warp write to the same bank of shared memory
DEPTH = 16
BLOCKS = 512  # keep a large GPU busy


def _product(left, left_along_depth, right, right_along_depth):
    """A kernel: out[s, row, group·columns + column] = Σ left · right over share s of the depth.

    along_depth: neighbours in memory are neighbours in depth, so that is how neighbouring threads
    read them.
    """

    @kernel
    def product(out, a, b, columns, depth, share, groups, geometry):
        left_tile = cuda.shared.array((DEPTH, PADDED), a.dtype)
        right_tile = cuda.shared.array((DEPTH, PADDED), a.dtype)
        sums = cuda.local.array((EACH, EACH), a.dtype)
        for p in range(EACH):
            for q in range(EACH):
                sums[p, q] = 0
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        thread = ty * SIDE + tx
        rows = out.shape[1]
        first_row, first_column = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
        group, s = cuda.blockIdx.z % groups, cuda.blockIdx.z // groups
        stop = min(depth, (s + 1) * share)
        for start in range(s * share, stop, DEPTH):
            for turn in range(DEPTH * TILE // (SIDE * SIDE)):
                item = turn * SIDE * SIDE + thread
                if left_along_depth:
                    d, r = item % DEPTH, item // DEPTH
                else:
                    d, r = item // TILE, item % TILE
                left_tile[d, r] = 0
                if first_row + r < rows and start + d < stop:
                    left_tile[d, r] = left(a, group, first_row + r, start + d, geometry)
                if right_along_depth:
                    d, r = item % DEPTH, item // DEPTH
                else:
                    d, r = item // TILE, item % TILE
                right_tile[d, r] = 0
                if first_column + r < columns and start + d < stop:
                    right_tile[d, r] = right(b, group, start + d, first_column + r, geometry)
            cuda.syncthreads()
            for d in range(DEPTH):
                for p in range(EACH):
                    for q in range(EACH):
                        sums[p, q] += left_tile[d, ty + p * SIDE] * right_tile[d, tx + q * SIDE]
            cuda.syncthreads()
        for p in range(EACH):
            for q in range(EACH):
                row, column = first_row + ty + p * SIDE, first_column + tx + q * SIDE
                if row < rows and column < columns:
                    out[s, row, group * columns + column] = sums[p, q]

    return product


@device
def _pixel(x, group, place, tap, geometry):
    """x at tap (k, l, c) of the window at place (n, i, j); 0 in the padding."""
    (oh, ow), (_, kw), (sh, sw), (dh, dw), (top, left), (channels, _) = geometry
    k, l, c = tap // channels // kw, tap // channels % kw, tap % channels
    n, i, j = place // ow // oh, place // ow % oh, place % ow
    row, column = i * sh + k * dh - top, j * sw + l * dw - left
    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
        return x[n, row, column, group * channels + c]
    return x.dtype.type(0)


@device
def _pixel_at_tap(x, group, tap, place, geometry):
    """The same, for the product whose rows are taps and whose depth is places."""
    return _pixel(x, group, place, tap, geometry)


@device
def _seen_by(g, group, pixel, tap, geometry):
    """g where pixel (n, a, b) of the image lies under tap (k, l, o); 0 where it does nowhere."""
    (height, width), (_, kw), (sh, sw), (dh, dw), (top, left), (_, outputs) = geometry
    k, l, o = tap // outputs // kw, tap // outputs % kw, tap % outputs
    n, a, b = pixel // width // height, pixel // width % height, pixel % width
    row, column = a + top - k * dh, b + left - l * dw  # i·s and j·s
    i, j = row // sh, column // sw
    if row >= 0 and column >= 0 and i * sh == row and j * sw == column:
        if i < g.shape[1] and j < g.shape[2]:
            return g[n, i, j, group * outputs + o]
    return g.dtype.type(0)


@device
def _entry(matrix, group, row, column, geometry):
    return matrix[row, group * geometry[5][1] + column]


@device
def _turned(w, group, tap, c, geometry):
    """w (KH·KW, C/groups, O) at tap (k, l, o) and input channel c."""
    outputs = geometry[5][1]
    return w[tap // outputs, c, group * outputs + tap % outputs]


_output = _product(_pixel, True, _entry, False)
_input_grad = _product(_seen_by, True, _turned, True)
_weight_grad = _product(_pixel_at_tap, False, _entry, False)


@rung(conv2d, device="cuda", why="tiles in shared memory: each number fetched serves 64 products")
def cuda_numba(x, w, stride, padding, dilation, groups):
    xp = array_module(x, w)
    x, w = xp.ascontiguousarray(x), xp.ascontiguousarray(w)
    n, oh, ow, o = output_shape(x.shape, w.shape, stride, padding, dilation, groups)
    depth = w.shape[0] * w.shape[1] * w.shape[2]
    y = xp.empty((1, n * oh * ow, o), x.dtype)
    geometry = _geometry((oh, ow), w.shape, stride, padding, dilation, groups)
    _launch(_output, y, x, w.reshape(depth, o), depth, groups, geometry)
    return y.reshape(n, oh, ow, o)


@rung(conv2d_input_grad, device="cuda", why="gathers: tiles as for the output, no atomics")
def cuda_numba(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    xp = array_module(g, w)
    g, w = xp.ascontiguousarray(g), xp.ascontiguousarray(w)
    n, height, width, c = x_shape
    kh, kw, c_group, o = w.shape
    dx = xp.empty((1, n * height * width, c), g.dtype)
    geometry = _geometry((height, width), w.shape, stride, padding, dilation, groups)
    w = w.reshape(kh * kw, c_group, o)
    _launch(_input_grad, dx, g, w, kh * kw * (o // groups), groups, geometry)
    return dx.reshape(x_shape)


@rung(conv2d_weight_grad, device="cuda", why="tiles, and the long sum over pixels in shares")
def cuda_numba(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    xp = array_module(g, x)
    g, x = xp.ascontiguousarray(g), xp.ascontiguousarray(x)
    n, oh, ow, o = g.shape
    kh, kw, c_group, _ = w_shape
    rows, depth = kh * kw * c_group, n * oh * ow
    tiles = -(-rows // TILE) * -(-(o // groups) // TILE) * groups
    shares = max(1, min(BLOCKS // max(1, tiles), depth // TILE))
    dw = xp.empty((shares, rows, o), g.dtype)
    geometry = _geometry((oh, ow), w_shape, stride, padding, dilation, groups)
    _launch(_weight_grad, dw, x, g.reshape(depth, o), depth, groups, geometry)
    return dw.sum(axis=0).reshape(w_shape)


def _geometry(rows_of, w_shape, stride, padding, dilation, groups):
    """What the kernels must know: six pairs. rows_of: (height, width) of the image of places."""
    kh, kw, c_group, o = w_shape
    (top, _), (left, _) = padding
    return rows_of, (kh, kw), stride, dilation, (top, left), (c_group, o // groups)


def _launch(product, out, a, b, depth, groups, geometry):
    shares, rows, columns = out.shape
    columns //= groups
    share = -(-depth // shares)
    blocks = (-(-rows // TILE), -(-columns // TILE), groups * shares)
    product(blocks, (SIDE, SIDE), out, a, b, columns, depth, share, groups, geometry)


@conv2d.rungs["cuda_numba"].needs
def _(x, w, *_):
    return _usable(w.shape, x, w)


@conv2d_input_grad.rungs["cuda_numba"].needs
def _(g, w, *_):
    return _usable(w.shape, g, w)


@cuda_numba.needs
def _(g, x, w_shape, *_):
    return _usable(w_shape, g, x)


def _usable(w_shape, *arrays):
    if 0 in w_shape:
        return "one channel at least: Numba's kernels take no empty arrays"
    return usable(*arrays)
