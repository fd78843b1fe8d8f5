"""Vectors of one cache line (16 float32, 8 float64) for functions compiled by `kernels.jit`.

    a = simd.load(x, i)                     # the line that begins at number i of a flat array
    a = simd.fma(simd.splat(x[k]), b, a)    # splat(x[k])·b + a, rounded once
    simd.store(y, i, simd.exp(a) + b)       # + - * / act on all numbers of a line

What a compiler makes of a loop depends on its mood; a line held in a variable stays in registers
(two of AVX2's 16, so that six sums, a factor and a weight are as many as fit). Nothing is checked:
`load` and `store` touch the 64 bytes from x[i] on, whatever is there. `exp` is right to 2e-7
(float32; relative) and is computed as Cephes does, with numbers held between ±87.

Imports Numba: only `kernels.jit` imports this file, where a compiled function uses it.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

BYTES = 64


class Line(types.Type):
    """Numba's type of a vector: `lanes` numbers of `dtype`."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.lanes = BYTES * 8 // dtype.bitwidth
        super().__init__(f"Line({dtype})")


@register_model(Line)
class _LineModel(models.PrimitiveModel):
    def __init__(self, manager, line):
        element = manager[line.dtype].get_value_type()
        super().__init__(manager, line, ir.VectorType(element, line.lanes))


@intrinsic
def load(typing, array, i):
    """The numbers x[i], x[i + 1], ... of a flat array."""
    line = Line(array.dtype)

    def emit(context, builder, sig, args):
        return builder.load(_address(context, builder, sig, args), align=array.dtype.bitwidth // 8)

    return line(array, types.intp), emit


@intrinsic
def store(typing, array, i, line):
    """Write a line to x[i], x[i + 1], ... of a flat array."""

    def emit(context, builder, sig, args):
        at = _address(context, builder, sig, args)
        builder.store(args[2], at, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, line), emit


@intrinsic
def zeros(typing, array):
    """A line of zeros of the array's dtype."""
    line = Line(array.dtype)

    def emit(context, builder, sig, args):
        return context.get_constant_null(line)

    return line(array), emit


@intrinsic
def splat(typing, number):
    """A line of one number, repeated."""
    line = Line(number)

    def emit(context, builder, sig, args):
        return _repeat(builder, args[0], line.lanes)

    return line(number), emit


@intrinsic
def fma(typing, a, b, c):
    """a·b + c"""

    def emit(context, builder, sig, args):
        return _call(builder, "fma", a, args)

    return a(a, b, c), emit


@intrinsic
def sqrt(typing, a):
    def emit(context, builder, sig, args):
        return _call(builder, "sqrt", a, args)

    return a(a), emit


def _operator(function, instruction):
    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Line) and args[0] == args[1]:
                return signature(args[0], *args)

    @lower_builtin(function, Line, Line)
    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


def _address(context, builder, sig, args):
    """Pointer to the line that begins at number i of the array."""
    array = context.make_array(sig.args[0])(context, builder, args[0])
    start = builder.gep(array.data, [args[1]])
    vector = context.get_value_type(Line(sig.args[0].dtype))
    return builder.bitcast(start, vector.as_pointer())


def _repeat(builder, number, lanes):
    """The same number in every lane."""
    index = ir.IntType(32)
    vector = ir.VectorType(number.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, index(0))
    return builder.shuffle_vector(
        first, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(index, lanes), None)
    )


def _call(builder, name, line, args):
    """Call LLVM's own function `name` on lines."""
    vector = args[0].type
    kind = ir.FunctionType(vector, [vector] * len(args))
    full = f"llvm.{name}.v{line.lanes}f{line.dtype.bitwidth}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)
