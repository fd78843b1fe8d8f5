"""Vectors of one cache line (16 float32, 8 float64) for functions compiled by `kernels.jit`.

    a = simd.load(x, i)                     # the line that begins at number i of a flat array
    a = simd.fma(simd.splat(x[k]), b, a)    # splat(x[k])·b + a, rounded once
    simd.store(y, i, simd.sqrt(a) + b)      # + - * / act on all numbers of a line
    simd.where(a > b, a, b)                 # as do > == !=, and & | on what they return

What a compiler makes of a loop depends on its mood; a line held in a variable stays in registers
(two of AVX2's 16, so that six sums, a factor and a weight are as many as fit; one of AVX-512's 32).
Nothing is checked: `load` and `store` touch the 64 bytes from x[i] on, whatever is there. At an
array's end `load_some` and `store_some` touch the first few numbers only.

Imports Numba: only `kernels.jit` imports this file, where a compiled function uses it.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    overload,
    register_jitable,
    register_model,
)

BYTES = 64


class Line(types.Type):
    """Numba's type of a vector: `lanes` numbers of `dtype`."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.lanes = BYTES * 8 // dtype.bitwidth
        super().__init__(f"Line({dtype})")


class Truth(types.Type):
    """What comparing two lines makes: a bit for each number."""

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__(f"Truth({lanes})")


@register_model(Truth)
class _TruthModel(models.PrimitiveModel):
    def __init__(self, manager, truth):
        super().__init__(manager, truth, ir.VectorType(ir.IntType(1), truth.lanes))


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
def stream(typing, array, i, line):
    """As `store`, but past the caches, for what is not read again soon: the lines are not fetched
    before they are overwritten. x[i] must begin a cache line; call `fence` after the last one."""

    def emit(context, builder, sig, args):
        at = _address(context, builder, sig, args)
        instruction = builder.store(args[2], at, align=BYTES)
        one = builder.module.add_metadata([ir.IntType(32)(1)])
        instruction.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(array, types.intp, line), emit


@intrinsic
def fence(typing):
    """What was written by `stream` is seen by all threads from here on."""

    def emit(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def prefetch(typing, array, i):
    """Ask for the cache line of x[i], which will be read soon, into the level 2 cache. x[i] need not
    exist."""
    return types.void(array, types.intp), _prefetch(0)


@intrinsic
def prefetch_to_write(typing, array, i):
    """As `prefetch`, of a line that will be written soon."""
    return types.void(array, types.intp), _prefetch(1)


def _prefetch(writes):
    def emit(context, builder, sig, args):
        at = builder.gep(_data(context, builder, sig.args[0], args[0]), [args[1]])
        at, number = builder.bitcast(at, cgutils.voidptr_t), ir.IntType(32)
        ask = _function(builder, "prefetch.p0", ir.VoidType(), [at.type, number, number, number])
        builder.call(ask, [at, number(writes), number(2), number(1)])  # level 2; data
        return context.get_dummy_value()

    return emit


@intrinsic
def load_some(typing, array, i, count):
    """The numbers x[i], ..., x[i + count - 1], then zeros; count < lanes."""
    line = Line(array.dtype)

    def emit(context, builder, sig, args):
        at = _address(context, builder, sig, args)
        vector = context.get_value_type(line)
        masked = _function(
            builder, f"masked.load.{_suffix(line)}.p0", vector,
            [at.type, ir.IntType(32), ir.VectorType(ir.IntType(1), line.lanes), vector],
        )  # fmt: skip
        size = ir.IntType(32)(array.dtype.bitwidth // 8)
        some = _first(builder, args[2], line.lanes)
        return builder.call(masked, [at, size, some, context.get_constant_null(line)])

    return line(array, types.intp, types.intp), emit


@intrinsic
def store_some(typing, array, i, line, count):
    """Write the first `count` numbers of a line to x[i], ..., x[i + count - 1]."""

    def emit(context, builder, sig, args):
        at = _address(context, builder, sig, args)
        vector = context.get_value_type(line)
        masked = _function(
            builder, f"masked.store.{_suffix(line)}.p0", ir.VoidType(),
            [vector, at.type, ir.IntType(32), ir.VectorType(ir.IntType(1), line.lanes)],
        )  # fmt: skip
        size = ir.IntType(32)(array.dtype.bitwidth // 8)
        builder.call(masked, [args[2], at, size, _first(builder, args[3], line.lanes)])
        return context.get_dummy_value()

    return types.void(array, types.intp, line, types.intp), emit


def get(x, i, count):
    """The first `count` numbers of the line at x[i] (None: all of them), then zeros."""
    raise NotImplementedError("for compiled functions only")


@overload(get)
def _get(x, i, count):
    if isinstance(count, types.NoneType):
        return lambda x, i, count: load(x, i)
    lanes = Line(x.dtype).lanes
    return lambda x, i, count: load(x, i) if count == lanes else load_some(x, i, count)


@register_jitable
def put(x, i, line, count):
    """Write the first `count` numbers of a line, which may be all (None: all)."""
    if count is None or count == BYTES // x.itemsize:
        store(x, i, line)
    else:
        store_some(x, i, line, count)


@intrinsic
def transpose(typing, x, at, step, y, to, to_step):
    """As many lines of x as one has numbers, `step` apart, become the columns of as many lines of y:
    y[to + i·to_step + j] = x[at + j·step + i]."""
    line = Line(x.dtype)

    def emit(context, builder, sig, args):
        _, at, step, _, to, to_step = args

        def addresses(which, first, apart):
            for i in range(line.lanes):
                data = _data(context, builder, sig.args[which], args[which])
                place = builder.gep(data, [builder.add(first, builder.mul(apart, apart.type(i)))])
                yield builder.bitcast(place, context.get_value_type(line).as_pointer())

        bytes_ = x.dtype.bitwidth // 8
        rows = [builder.load(here, align=bytes_) for here in addresses(0, at, step)]
        distance = 1
        while distance < line.lanes:  # squares of 1, 2, 4 and 8 numbers change places
            for i in range(line.lanes):
                if not i & distance:
                    pair = rows[i], rows[i + distance]
                    rows[i], rows[i + distance] = _exchange(builder, *pair, distance)
            distance *= 2
        for row, here in zip(rows, addresses(3, to, to_step)):
            builder.store(row, here, align=bytes_)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, y, types.intp, types.intp), emit


def _exchange(builder, a, b, distance):
    """Two lines, of which those numbers of a whose place has the bit `distance` have changed places
    with those of b whose place has it not."""
    lanes = a.type.count
    low = [l + lanes - distance if l & distance else l for l in range(lanes)]  # noqa: E741
    high = [l + lanes if l & distance else l + distance for l in range(lanes)]  # noqa: E741
    index = ir.VectorType(ir.IntType(32), lanes)
    return [builder.shuffle_vector(a, b, ir.Constant(index, places)) for places in (low, high)]


@intrinsic
def put_whole(typing, array, i, line, count):
    """As `put`, into an array of whole numbers: those of the line are whole, and fit."""

    def emit(context, builder, sig, args):
        kind = ir.VectorType(ir.IntType(array.dtype.bitwidth), line.lanes)
        at = _whole_address(context, builder, array, kind, args)
        convert = builder.fptosi if array.dtype.signed else builder.fptoui
        numbers, bytes_ = convert(args[2], kind), array.dtype.bitwidth // 8
        if count == types.none:
            builder.store(numbers, at, align=bytes_)
        else:
            name = f"masked.store.v{line.lanes}i{array.dtype.bitwidth}.p0"
            mask = _first(builder, args[3], line.lanes)
            function = _function(builder, name, ir.VoidType(),
                                 [kind, at.type, ir.IntType(32), mask.type])  # fmt: skip
            builder.call(function, [numbers, at, ir.IntType(32)(bytes_), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, line, count), emit


@intrinsic
def get_whole(typing, array, i, like, count):
    """As `get`, from an array of whole numbers: a line of numbers as `like` has them."""

    def emit(context, builder, sig, args):
        kind = ir.VectorType(ir.IntType(array.dtype.bitwidth), like.lanes)
        at = _whole_address(context, builder, array, kind, args)
        bytes_ = array.dtype.bitwidth // 8
        if count == types.none:
            numbers = builder.load(at, align=bytes_)
        else:
            name = f"masked.load.v{like.lanes}i{array.dtype.bitwidth}.p0"
            mask = _first(builder, args[3], like.lanes)
            function = _function(builder, name, kind, [at.type, ir.IntType(32), mask.type, kind])
            zeros = ir.Constant(kind, None)
            numbers = builder.call(function, [at, ir.IntType(32)(bytes_), mask, zeros])
        convert = builder.sitofp if array.dtype.signed else builder.uitofp
        return convert(numbers, context.get_value_type(like))

    return like(array, types.intp, like, count), emit


def _whole_address(context, builder, array, kind, args):
    at = builder.gep(_data(context, builder, array, args[0]), [args[1]])
    return builder.bitcast(at, kind.as_pointer())


@intrinsic
def pointer(typing, array):
    """A flat array as what `load`, `store` and the others here take too, and no more: to hand to
    functions. (For each array that a function takes, Numba counts its references up and down.)"""

    def emit(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def address(typing, array, i):
    """Where x[i] is, as the number that `kernels.microkernel` takes."""

    def emit(context, builder, sig, args):
        at = builder.gep(_data(context, builder, sig.args[0], args[0]), [args[1]])
        return builder.ptrtoint(at, ir.IntType(64))

    return types.int64(array, types.intp), emit


@intrinsic
def above(typing, a, b):
    """Where a > b, or one of them is NaN."""

    def emit(context, builder, sig, args):
        return builder.fcmp_unordered(">", *args)

    return Truth(a.lanes)(a, b), emit


@intrinsic
def where(typing, truth, a, b):
    """Where true the number of line a, else that of b."""

    def emit(context, builder, sig, args):
        return builder.select(*args)

    return a(truth, a, b), emit


@intrinsic
def zeros(typing, array):
    """A line of zeros of the array's dtype."""
    line = Line(array.dtype)

    def emit(context, builder, sig, args):
        return context.get_constant_null(line)

    return line(array), emit


@intrinsic
def zeros_like(typing, line):
    """A line of zeros."""

    def emit(context, builder, sig, args):
        return context.get_constant_null(line)

    return line(line), emit


@intrinsic
def splat(typing, number):
    """A line of one number, repeated."""
    line = Line(number)

    def emit(context, builder, sig, args):
        return _repeat(builder, args[0], line.lanes)

    return line(number), emit


@intrinsic
def repeat(typing, array, i):
    """A line of x[i], repeated; not checked either."""
    line = Line(array.dtype)

    def emit(context, builder, sig, args):
        data = _data(context, builder, sig.args[0], args[0])
        return _repeat(builder, builder.load(builder.gep(data, [args[1]])), line.lanes)

    return line(array, types.intp), emit


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


@intrinsic
def total(typing, a):
    """The sum of a line's numbers."""

    def emit(context, builder, sig, args):
        return _reduce(builder, args[0], builder.fadd)

    return a.dtype(a), emit


@intrinsic
def largest(typing, a):
    """The largest of a line's numbers; of NaNs it may see nothing."""

    def larger(builder, x, y):
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    def emit(context, builder, sig, args):
        return _reduce(builder, args[0], lambda x, y: larger(builder, x, y))

    return a.dtype(a), emit


def _reduce(builder, line, combine):
    """Combine a line's halves, then their halves, until one number is left."""
    lanes, index = line.type.count, ir.IntType(32)
    while lanes > 1:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(index, lanes), list(range(i, i + lanes))) for i in (0, lanes)]
        line = combine(*[builder.shuffle_vector(line, line, places) for places in halves])
    return builder.extract_element(line, index(0))


@intrinsic
def first(typing, line, count, rest):
    """The first `count` numbers of a line, then those of the line `rest`."""

    def emit(context, builder, sig, args):
        some = _first(builder, args[1], line.lanes)
        return builder.select(some, args[0], args[2])

    return line(line, types.intp, line), emit


@intrinsic
def _two_to_the(typing, line):
    """2ⁿ of a float32 line that holds n + 1.5·2²³: n then stands in the lowest bits."""

    def emit(context, builder, sig, args):
        integers = ir.VectorType(ir.IntType(32), line.lanes)
        n = builder.bitcast(args[0], integers)
        n = builder.add(n, ir.Constant(integers, [127] * line.lanes))
        exponent = builder.shl(n, ir.Constant(integers, [23] * line.lanes))
        return builder.bitcast(exponent, args[0].type)

    return line(line), emit


@register_jitable
def exp(x):
    """Of a float32 line of numbers up to 88, right to 2e-7 (relative); 0 below -87.3. With
    x = n·log 2 + r: 2ⁿ·exp(r), of which a polynomial was fitted to the smallest relative error."""
    low, round_here = splat(np.float32(-87.3)), splat(np.float32(1.5 * 2**23))
    near = fma(x, splat(np.float32(1.4426950409)), round_here)
    n = near - round_here
    r = fma(n, splat(np.float32(-0.693145751953125)), x)
    r = fma(n, splat(np.float32(-1.4286068203e-6)), r)
    p = fma(r, splat(np.float32(1.3901283765e-3)), splat(np.float32(8.3631465797e-3)))
    p = fma(r, p, splat(np.float32(0.04166685347)))
    p = fma(r, p, splat(np.float32(0.16666577283)))
    p = fma(r, p, splat(np.float32(0.49999999553)))
    p = fma(r * r, p, r) + splat(np.float32(1))
    return where(low > x, zeros_like(x), p * _two_to_the(near))


@register_jitable
def log1p(x):
    """log(1 + x) of a float32 line of numbers from 0 to 1, right to 2e-7 (relative)."""
    p = fma(x, splat(np.float32(5.2326161077e-3)), splat(np.float32(-0.029504930566)))
    p = fma(x, p, splat(np.float32(0.078225458837)))
    p = fma(x, p, splat(np.float32(-0.13663204822)))
    p = fma(x, p, splat(np.float32(0.19105987974)))
    p = fma(x, p, splat(np.float32(-0.24842977572)))
    p = fma(x, p, splat(np.float32(0.33319096255)))
    p = fma(x, p, splat(np.float32(-0.49999493117)))
    return x * fma(x, p, splat(np.float32(0.99999996988)))


@register_jitable
def tanh(x):
    """Of a float32 line, right to 3e-7 (relative). A quotient of two polynomials in x², fitted to
    the smallest relative error up to 8, beyond which tanh is 1 to float32's precision."""
    limit = splat(np.float32(8))
    x = where(x > limit, limit, x)
    x = where(zeros_like(x) - limit > x, zeros_like(x) - limit, x)
    s = x * x
    p = fma(s, splat(np.float32(2.3508578574e-11)), splat(np.float32(-1.4704211393e-8)))
    p = fma(s, p, splat(np.float32(9.8786576324e-6)))
    p = fma(s, p, splat(np.float32(2.9858616901e-3)))
    p = fma(s, p, splat(np.float32(0.12979223183)))
    p = fma(s, p, splat(np.float32(0.99999998108)))
    q = fma(s, splat(np.float32(2.3720319960e-4)), splat(np.float32(0.024027923604)))
    q = fma(s, q, splat(np.float32(0.46312539223)))
    q = fma(s, q, splat(np.float32(1)))
    return x * p / q


@register_jitable
def sigmoid(x):
    """1 / (1 + exp(-x)) of a float32 line, right to 2e-7 (absolute)."""
    half = splat(np.float32(0.5))
    return fma(half, tanh(half * x), half)


def _operator(function, kind, emit):
    """Let Numba know `function` of two values of one type, a Line or a Truth."""

    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], kind) and args[0] == args[1]:
                compares = function in (operator.gt, operator.eq, operator.ne)
                return signature(Truth(args[0].lanes) if compares else args[0], *args)

    @lower_builtin(function, kind, kind)
    def lower(context, builder, sig, args):
        return emit(builder, *args)


_operator(operator.add, Line, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, Line, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, Line, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, Line, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.gt, Line, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_operator(operator.eq, Line, lambda builder, a, b: builder.fcmp_ordered("==", a, b))
_operator(operator.ne, Line, lambda builder, a, b: builder.fcmp_unordered("!=", a, b))
_operator(operator.and_, Truth, lambda builder, a, b: builder.and_(a, b))
_operator(operator.or_, Truth, lambda builder, a, b: builder.or_(a, b))


def _address(context, builder, sig, args):
    """Pointer to the line that begins at number i of the array."""
    start = builder.gep(_data(context, builder, sig.args[0], args[0]), [args[1]])
    vector = context.get_value_type(Line(sig.args[0].dtype))
    return builder.bitcast(start, vector.as_pointer())


def _data(context, builder, kind, value):
    """Pointer to the first number of an array, or of what `pointer` made."""
    if isinstance(kind, types.CPointer):
        return value
    return context.make_array(kind)(context, builder, value).data


def _repeat(builder, number, lanes):
    """The same number in every lane."""
    index = ir.IntType(32)
    vector = ir.VectorType(number.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, index(0))
    return builder.shuffle_vector(
        first, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(index, lanes), None)
    )


def _first(builder, count, lanes):
    """True for the first `count` lanes."""
    index = ir.VectorType(count.type, lanes)
    numbers = ir.Constant(index, list(range(lanes)))
    return builder.icmp_signed("<", numbers, _repeat(builder, count, lanes))


def _call(builder, name, line, args):
    """Call LLVM's own function `name` on lines."""
    function = _function(builder, f"{name}.{_suffix(line)}", args[0].type, [a.type for a in args])
    return builder.call(function, args)


def _function(builder, name, returns, arguments):
    kind = ir.FunctionType(returns, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")


def _suffix(line):
    return f"v{line.lanes}f{line.dtype.bitwidth}"
