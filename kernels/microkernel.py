"""The inner loop of every compiled matrix product: 6 rows x 2 vectors of sums in registers.

    C[to[i] + j] = Σ_k A[row[i] + column[k]] · B[k, j]        i = 0 ... 5, j = 0 ... 15 (or 31)

A product whose operands come from the cache for every multiplication waits for the cache. Here
the sums stay in 12 registers, of 8 numbers each with AVX2, of 16 with AVX-512; a pass of the loop
loads 2 registers of B and 6 numbers of A for 12 multiply-adds. A core begins two of those a cycle: a
pass takes 6 cycles at best. Zen 3 (AVX2, 2.84 GHz) then makes 91 GFLOP/s, of which 98 % were measured
for k = 256 and more; a Zen 5 of some 4 GHz 249 with AVX-512 and 128 with AVX2. A short sum pays for
its begin and end too: some 20 cycles a tile, so that k = 27 gets 89 %.

B lies in panels of 16 columns whatever the processor: a tile goes over one of them, or two. The last
rows of C make tiles of 4, the last columns tiles of one vector, so that little is computed in vain.

A is read through two tables of offsets, so that the patches of an image are the rows of A without
being copied ("implicit GEMM"), whatever their stride, dilation and group; and their transpose is
the same two tables, exchanged. C has a table as well: a result may have gaps.

No compiler finds this form from loops over arrays reliably, so `tile` emits it as LLVM instructions.
The addresses it gets are trusted: its callers keep it inside of the arrays.
"""

import math
import threading

import numpy as np

from kernels import memory
from kernels.jit import intrinsic, jit, simd
from kernels.jit import lanes as host_lanes

ROWS, LOW = 6, 4  # of a tile, and of the last ones
COLUMNS, MOST = 16, 32  # of a panel of B, and of a tile at most
CACHED = 2**16  # numbers of B that stay in the level 2 cache
LONG = 1024  # terms are added up in registers at most, then to C: so that sums stay exact
KEPT = 2**22  # numbers of a workspace that is kept
NONE = np.float32(-np.inf)  # a `floor` that changes nothing
# Numba would compile anew for every plain integer
ZERO, ONE = np.int64(0), np.int64(1)

_workspaces = threading.local()


def workspace(name, size):
    """float32 numbers of any value, from a cache line on, for the time of one call. size: how many,
    or a shape.

    The next call of this thread gets the same memory: fresh pages cost more than the arithmetic on
    them. So no result may lie in it, and Python neither writes it before the compiled function runs
    nor reads it afterwards: between any two bytecodes a signal's handler may compute something else
    there. For what Python touches there is `kernels.memory.empty`, whose memory is nobody else's.
    """
    count = math.prod(size) if type(size) is tuple else size
    kept = vars(_workspaces)
    space = kept.get(name)
    if space is None or space.size < count:
        space = memory.empty((count,))
        if count <= KEPT:
            kept[name] = space
    return space[:count].reshape(size)


@jit(inline="always")
def address(array):
    """Where an array begins, as the signed number that differences and steps are."""
    return np.int64(array.ctypes.data)


@jit()
def spare():
    """What `multiply` needs at the edges of C: two tables of rows, a tile with its table, zeros."""
    tile_rows = np.arange(ROWS) * MOST
    tables = np.empty(2 * ROWS, np.int64)
    return tables, tile_rows, np.zeros((ROWS + 1) * MOST, np.float32)


@jit(error_model="numpy")
def pack(b, first, b_row, b_column, begin, end, count, packed, at):
    """Rows begin ... end - 1 of a panel for `multiply`: 16 columns of b from b[first] on, of which
    `count` are there, then zeros. b and packed are flat; the panel begins at packed[at]."""
    if b_column == 1:
        for row in range(begin, end):
            simd.store(packed, at + row * COLUMNS, simd.get(b, first + row * b_row, count))
        return
    squares = end - (end - begin) % COLUMNS if b_row == 1 and count == COLUMNS else begin
    for row in range(begin, squares, COLUMNS):
        simd.transpose(b, first + row, b_column, packed, at + row * COLUMNS, COLUMNS)
    for j in range(COLUMNS):
        for row in range(squares, end):
            number = b[first + row * b_row + j * b_column] if j < count else np.float32(0)
            packed[at + row * COLUMNS + j] = number


@jit(error_model="numpy")
def multiply(a, rows, m, columns, k, b, c, to, n, bias, floor, add, edge, b_row=0):
    """C (m, n) = max(A B + bias, floor), or C += A B if `add`.

    a, b, c, bias: addresses. rows (m), columns (k), to (m): int64 tables of offsets, in float32
    numbers: of A's rows and columns, and of C's rows. b: panels (k, 16) one after the other, the
    last one filled up; or B as it is, its rows `b_row` apart, where n is a multiple of 16. bias:
    (panels, 16), or 0 for none. edge: made by `spare`.
    """
    b_step, b_panel = (b_row, COLUMNS) if b_row else (COLUMNS, COLUMNS * k)
    tables, tile_rows, some = edge
    edge_tile, zeros = address(some), address(some) + 4 * ROWS * MOST
    wide = 2 * lanes()
    step = wide // COLUMNS  # panels that a tile goes over
    next_line = 4 * (b_panel if step > 1 else lanes())
    panels = (n + COLUMNS - 1) // COLUMNS
    group = max(CACHED // (k * COLUMNS * step), 1) * step
    even = m + m % 2
    sixes = even - LOW * ((0, 2, 1)[even % ROWS // 2])
    for first_panel in range(0, panels, group):
        for start in range(0, k, LONG):
            length = min(LONG, k - start)
            adds = add or start > 0
            lowest = floor if start + length == k else NONE
            first = 0
            while first < m:
                low = first >= sixes
                height = min(LOW if low else ROWS, m - first)
                these, those = address(rows) + 8 * first, address(to) + 8 * first
                if first + ROWS > m:  # the last row again, in place of those that do not exist
                    for i in range(ROWS):
                        tables[i] = rows[first + min(i, height - 1)]
                        tables[ROWS + i] = to[first + min(i, height - 1)]
                    these, those = address(tables), address(tables) + 8 * ROWS
                for panel in range(first_panel, min(first_panel + group, panels), step):
                    width = min(wide, n - panel * COLUMNS)
                    half = width <= lanes()
                    whole = width == wide or width == lanes()
                    at = c + 4 * COLUMNS * panel
                    if adds and not whole:
                        for i in range(height):
                            copy(edge_tile + 4 * MOST * i, at + 4 * to[first + i], width)
                    tile(
                        a,
                        these,
                        address(columns) + 8 * start,
                        length,
                        b + 4 * (panel * b_panel + start * b_step),
                        4 * b_step,
                        next_line,
                        zeros if adds or bias == 0 else bias + 4 * COLUMNS * panel,
                        at if whole else edge_tile,
                        those if whole else address(tile_rows),
                        low,
                        half,
                        adds,
                        lowest,
                    )
                    for i in range(0 if whole else height):
                        copy(at + 4 * to[first + i], edge_tile + 4 * MOST * i, width)
                first += height


@intrinsic
def lanes(context):
    """As `kernels.jit.lanes`; a constant to the compiler."""
    from numba import types

    def emit(context, builder, signature, args):
        return context.get_constant(types.int64, host_lanes())

    return types.int64(), emit


@intrinsic
def tile(
    context, a, rows, columns, k, b, b_step, next_line, bias, c, to, low, half, add, floor
):
    """One tile: of 4 rows if low, of one vector if half. Addresses, steps in bytes and k as int64, k
    at least 1; low, half and add bool; floor a float32."""
    from numba import types

    def emit(context, builder, signature, args):
        *args, low, half, add, floor = args
        with builder.if_else(low) as heights:
            for block, rows in zip(heights, (LOW, ROWS)):
                with block, builder.if_else(half) as widths:
                    for block, vectors in zip(widths, (1, 2)):
                        with block:
                            _emit_tile(builder, rows, vectors, *args, add, floor)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, *[types.boolean] * 3, types.float32), emit


def _emit_tile(
    builder, height, vectors, a, rows, columns, k, b, b_step, next_line, bias, c, to, add, floor
):
    from llvmlite import ir
    from numba.core import cgutils

    lanes, int64, number = host_lanes(), ir.IntType(64), ir.FloatType()
    vector = ir.VectorType(number, lanes)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
    )

    def constant(value):
        return ir.Constant(int64, value)

    def at(base, offset):
        """The address `offset` numbers (or bytes, if a constant) after `base`."""
        if isinstance(offset, int):
            return builder.add(base, constant(offset))
        return builder.add(base, builder.shl(offset, constant(2)))

    def load(kind, address):
        pointer = builder.inttoptr(address, kind.as_pointer())
        return builder.load(pointer, align=8 if kind is int64 else 4)

    def line(address, step=constant(4 * lanes)):
        """The addresses of the tile's vectors, `step` bytes apart."""
        return [address, builder.add(address, step)][:vectors]

    def repeat(value):
        """The number in all lanes."""
        undefined = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        return builder.shuffle_vector(one, undefined, zeros)

    def values_from(initial, before):
        values = [builder.phi(value.type) for value in initial]
        for value, first in zip(values, initial):
            value.add_incoming(first, before)
        return values

    a_rows = [at(a, load(int64, at(rows, 8 * i))) for i in range(height)]
    c_rows = [at(c, load(int64, at(to, 8 * i))) for i in range(height)]
    results = [address for row in c_rows for address in line(row)]
    starts = [load(vector, address) for address in line(bias)]
    start = builder.block
    inner, after, total, end = map(
        builder.append_basic_block, ("inner", "after", "total", "end")
    )
    builder.branch(inner)

    builder.position_at_end(inner)  # for each k
    left, column, b_k, *sums = values_from([k, columns, b, *starts * height], start)
    offset = load(int64, column)
    b_row = [load(vector, address) for address in line(b_k, next_line)]
    new = []
    for i, row in enumerate(a_rows):
        factor = repeat(load(number, at(row, offset)))
        for j, numbers in enumerate(b_row):
            new.append(builder.call(fma, [factor, numbers, sums[i * vectors + j]]))
    left_next = builder.sub(left, constant(1))
    moved = [left_next, at(column, 8), builder.add(b_k, b_step), *new]
    for value, following in zip((left, column, b_k, *sums), moved):
        value.add_incoming(following, inner)
    builder.cbranch(builder.icmp_signed(">", left_next, constant(0)), inner, after)

    builder.position_at_end(after)
    builder.cbranch(add, total, end)

    builder.position_at_end(total)  # C += A B
    totals = [builder.fadd(v, load(vector, to)) for v, to in zip(new, results)]
    builder.branch(end)

    builder.position_at_end(end)
    finals = values_from(new, after)
    for final, with_old in zip(finals, totals):
        final.add_incoming(with_old, total)
    lowest = repeat(floor)
    for final, to in zip(finals, results):  # one instruction (maxps), which lets NaN through
        final = builder.select(builder.fcmp_ordered(">", lowest, final), lowest, final)
        builder.store(final, builder.inttoptr(to, vector.as_pointer()), align=4)


@intrinsic
def copy(context, to, source, count):
    """Copy `count` float32 numbers between two addresses (memcpy)."""
    from numba import types
    from numba.core import cgutils

    def emit(context, builder, signature, args):
        to, source, count = args
        pointers = (builder.inttoptr(at, cgutils.voidptr_t) for at in (to, source))
        cgutils.raw_memcpy(builder, *pointers, count, 4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), emit


@intrinsic
def clear(context, to, count):
    """Set `count` float32 numbers from an address on to zero (memset)."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    def emit(context, builder, signature, args):
        to, count = args
        size = builder.mul(count, ir.Constant(count.type, 4))
        cgutils.memset(builder, builder.inttoptr(to, cgutils.voidptr_t), size, 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 2), emit
