"""The inner loop of every compiled matrix product: 6 rows x 16 columns held in vector registers.

    C[i, 0:16] = Σ_r Σ_k A[row[i] + tap[r] + k·step] · B[r·length + k, 0:16]        i = 0 ... 5

A product whose operands come from the cache for every multiplication waits for the cache. Here
the 96 sums stay in 12 registers of 8 numbers; a pass of the loop loads 2 registers of B and 6
numbers of A for 12 multiply-adds, which keeps both arithmetic units of an AVX2 core busy: 155 to
190 GFLOP/s on two cores at their peak of 170 to 200. A is read through two tables of offsets, so
that the patches of an image are the rows of A without being copied ("implicit GEMM").

No compiler finds this form from loops over arrays reliably, so `_tile` emits it as LLVM
instructions. The addresses it gets are trusted: `multiply` is the only caller, and keeps it inside
of the arrays.
"""

import numpy as np

from kernels.jit import intrinsic, jit
from kernels.memory import empty as aligned  # noqa: F401 (no vector lies in two cache lines)

# Arguments of `multiply`. Numba would compile it anew for every plain integer.
ZERO, ONE = np.int64(0), np.int64(1)
ROWS, COLUMNS, LANES = 6, 16, 8  # of a tile, and of a vector register
CACHED = 2**16  # numbers of B that stay in the level 2 cache
LONG = 1024  # terms are added up in registers at most, then to C: so that sums stay exact


@jit()
def spare():
    """What `multiply` needs for the tiles at the edges: a table of rows, and a tile."""
    return np.empty(ROWS, np.int64), np.empty(ROWS * COLUMNS, np.float32)


@jit(error_model="numpy")
def multiply(a, rows, m, taps, n_taps, length, step, b, c, at, c_step, n, add, edge):
    """C (m, n) = A B, or C += A B if `add`. All offsets and steps count float32 numbers.

    a: the address of A; rows (m), taps (n_taps): int64 arrays, the two tables of offsets into A.
    b: the address of B, in panels (n_taps·length, 16) one after the other, the last one filled up.
    c: a flat float32 array; row i of C starts at c[at + i·c_step]. edge: made by `spare`.
    """
    some_rows, some = edge
    size = n_taps * length * COLUMNS  # of a panel
    panels = (n + COLUMNS - 1) // COLUMNS
    group = max(CACHED // size, 1)
    some_taps = max(LONG // length, 1)
    for first_panel in range(0, panels, group):
        for tap in range(0, n_taps, some_taps):
            adds = add or tap > 0
            for first in range(0, m, ROWS):
                height = min(ROWS, m - first)
                for panel in range(first_panel, min(first_panel + group, panels)):
                    width = min(COLUMNS, n - panel * COLUMNS)
                    to = at + first * c_step + panel * COLUMNS
                    whole = height == ROWS and width == COLUMNS
                    for i in range(0 if whole else ROWS):  # at the edge, only rows that exist
                        some_rows[i] = rows[first + min(i, height - 1)]
                    _tile(
                        a,
                        rows.ctypes.data + 8 * first if whole else some_rows.ctypes.data,
                        taps.ctypes.data + 8 * tap,
                        min(some_taps, n_taps - tap),
                        length,
                        step,
                        b + 4 * (panel * size + tap * length * COLUMNS),
                        c.ctypes.data + 4 * to if whole else some.ctypes.data,
                        c_step if whole else COLUMNS,
                        adds and whole,
                    )
                    for i in range(0 if whole else height):  # ... and a part of the tile
                        for j in range(width):
                            old = c[to + i * c_step + j] if adds else np.float32(0)
                            c[to + i * c_step + j] = old + some[i * COLUMNS + j]


@intrinsic
def _tile(context, a, rows, taps, n_taps, length, step, b, c, c_step, add):
    """One tile. Addresses as int64, steps in numbers; n_taps and length at least 1."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    int64, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
    halves = range(COLUMNS // LANES)

    def constant(value):
        return ir.Constant(int64, value)

    def emit(context, builder, signature, args):
        a, rows, taps, n_taps, length, step, b, c, c_step, add = args
        step, c_step = (builder.mul(s, constant(4)) for s in (step, c_step))
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
        )

        def pointer(kind, base, offset=0):
            offset = constant(offset) if isinstance(offset, int) else offset
            return builder.inttoptr(builder.add(base, offset), kind.as_pointer())

        def load(kind, base, offset=0):
            return builder.load(pointer(kind, base, offset), align=8 if kind is int64 else 4)

        def repeat(number):
            """The number in all lanes."""
            undefined = ir.Constant(vector, ir.Undefined)
            one = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(one, undefined, lanes)

        def values_from(initial, before):
            values = [builder.phi(value.type) for value in initial]
            for value, first in zip(values, initial):
                value.add_incoming(first, before)
            return values

        row_addresses = [
            builder.add(a, builder.mul(load(int64, rows, 8 * i), constant(4))) for i in range(ROWS)
        ]
        c_rows = [builder.add(c, builder.mul(c_step, constant(i))) for i in range(ROWS)]
        start = builder.block
        tap, inner, tap_end, after, total, end = map(
            builder.append_basic_block, ("tap", "inner", "tap_end", "after", "total", "end")
        )
        zeros = [ir.Constant(vector, [0.0] * LANES) for _ in c_rows for _ in halves]
        builder.branch(tap)

        builder.position_at_end(tap)  # for r in range(n_taps)
        r, b_r, *sums = values_from([constant(0), b, *zeros], start)
        offset = builder.mul(load(int64, taps, builder.mul(r, constant(8))), constant(4))
        a_rows = [builder.add(row, offset) for row in row_addresses]
        builder.branch(inner)

        builder.position_at_end(inner)  # for k in range(length)
        k, a_k, b_k, *inner_sums = values_from([length, constant(0), b_r, *sums], tap)
        b_row = [load(vector, b_k, 4 * LANES * half) for half in halves]
        new = []
        for i, row in enumerate(a_rows):
            number = repeat(load(ir.FloatType(), row, a_k))
            for half in halves:
                old_sum = inner_sums[i * len(halves) + half]
                new.append(builder.call(fma, [number, b_row[half], old_sum]))
        b_next = builder.add(b_k, constant(4 * COLUMNS))
        k_next = builder.sub(k, constant(1))
        moved = [k_next, builder.add(a_k, step), b_next, *new]
        for value, following in zip((k, a_k, b_k, *inner_sums), moved):
            value.add_incoming(following, inner)
        builder.cbranch(builder.icmp_signed(">", k_next, constant(0)), inner, tap_end)

        builder.position_at_end(tap_end)
        r_next = builder.add(r, constant(1))
        for value, following in zip((r, b_r, *sums), (r_next, b_next, *new)):
            value.add_incoming(following, tap_end)
        builder.cbranch(builder.icmp_signed("<", r_next, n_taps), tap, after)

        builder.position_at_end(after)
        results = [pointer(vector, row, 4 * LANES * half) for row in c_rows for half in halves]
        builder.cbranch(builder.icmp_signed("!=", add, constant(0)), total, end)

        builder.position_at_end(total)  # C += A B
        totals = [builder.fadd(v, builder.load(to, align=4)) for v, to in zip(new, results)]
        builder.branch(end)

        builder.position_at_end(end)
        finals = values_from(new, after)
        for final, with_old in zip(finals, totals):
            final.add_incoming(with_old, total)
        for final, to in zip(finals, results):
            builder.store(final, to, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), emit


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
