"""What is measured: for every op a small case, on which rungs are checked against the formula in
Python loops, and cases of everyday size, on which they are timed. A new ladder needs one entry in
EXAMPLES; one of which nothing is known is listed as such.
"""

import dataclasses
import math

import numpy as np

from kernels.backend import to_device, to_numpy
from kernels.conv2d import output_shape
from kernels.ladder import ladders, use
from kernels.window import pair

TOLERANCE, TF32_TOLERANCE = 1e-4, 2e-3
SINGLE = {"f": np.dtype(np.float32), "c": np.dtype(np.complex64)}  # in place of a kind of numbers

# Images N, H, W, C -> O channels, K x K, stride, padding: layers of real networks.
CONVOLUTIONS = {
    "A: 8x56x56x32 -> 64, 3x3": (8, 56, 56, 32, 64, 3, 1, 1),
    "B: 8x28x28x64 -> 128, 3x3": (8, 28, 28, 64, 128, 3, 1, 1),
    "C: 1x125x125x3 -> 32, 3x3": (1, 125, 125, 3, 32, 3, 1, 1),
    "D: 1x125x125x32 -> 32, 3x3": (1, 125, 125, 32, 32, 3, 1, 1),
    "E: 8x224x224x3 -> 64, 7x7 stride 2": (8, 224, 224, 3, 64, 7, 2, 3),
}
FIRST_LAYERS = "CE"  # their input is the image, which needs no gradient
# What other rungs are for: a large kernel; one for each channel (the last number: groups); the gradient
# of an image of few channels, where that is wanted.
MORE_CONVOLUTIONS = {
    "F: 1x128x128x4 -> 4, 15x15": (1, 128, 128, 4, 4, 15, 1, 7),
    "G: 8x56x56x64, 3x3 depthwise": (8, 56, 56, 64, 64, 3, 1, 1, 64),
    "H: 4x64x64x3 -> 32, 3x3": (4, 64, 64, 3, 32, 3, 1, 1),
}


def make(name, *size):
    """The op's arguments for a size of EXAMPLES: each array other numbers, the same in every run."""
    return EXAMPLES[name][0](np.random.default_rng(0), name, *size)


# ------------------------------------------------------------------------------------ convolution

def _conv2d(rng, name, n, h, w, c, o, k, stride, padding, groups=1):
    oh, ow = ((size + 2 * padding - k) // stride + 1 for size in (h, w))
    shapes = (n, h, w, c), (k, k, c // groups, o), (n, oh, ow, o)
    x, kernel, g = map(rng.standard_normal, shapes)
    arrays = {
        "conv2d": (x, kernel),
        "conv2d_input_grad": (g, kernel, x.shape),
        "conv2d_weight_grad": (g, x, kernel.shape),
    }
    return *arrays[name], stride, padding, 1, groups


# ------------------------------------------------------------------------------------------- rest

def _pool2d(rng, name, n, h, w, c):
    x, g = map(rng.standard_normal, ((n, h, w, c), (n, h // 2, w // 2, c)))
    winners = rng.integers(0, 4, g.shape, np.uint8)
    arrays = {
        "max_pool2d": (x,),
        "max_pool2d_grad": (g, winners, x.shape),
        "max_pool2d_pick": (x, winners),
        "avg_pool2d": (x,),
        "avg_pool2d_grad": (g, x.shape),
    }
    return *arrays[name], 2


def _crop(rng, name, h, w, size):
    x, g = map(rng.standard_normal, ((1, h, w, 3), (1, *pair(size, "size"), 3)))
    boxes = np.array([[1.3, 2.1, w / 2.5, h / 2.5]])
    arrays = {
        "crop": (x, boxes, size),
        "crop_image_grad": (g, boxes, x.shape),
        "crop_box_grad": (g, x, boxes),
    }
    return arrays[name]


def _patch(rng, name, h, w, size):
    return rng.standard_normal((h, w, 3)), np.array([[1.3, 2.1, w / 2.5, h / 2.5]]), size


def _adam(rng, name, size):
    w, g, m, v = rng.standard_normal((4, size))
    return w, g, m, v**2, 0.1, 3  # so high a rate that an error of w is seen beside w


def _recurrent(rng, name, n, steps, units):
    cell, random = name.removesuffix("_grad"), rng.standard_normal
    blocks = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    xw, weights = random((n, steps, blocks * units)), [random((units, blocks * units)) / units**.5]
    first = [random((n, units)) for _ in range(2 if cell == "lstm" else 1)]
    if cell == "gru":
        weights.append(random(blocks * units))
    if cell == name:
        return xw, *first, *weights
    states = ladders()[cell](xw, *first, *weights)
    return random(states.shape), states, xw, *first, *weights


def _softmax(rng, name, rows, classes):
    x, g = rng.standard_normal((2, rows, classes))
    labels, targets = rng.integers(0, classes, rows), rng.random((rows, classes))
    y = ladders()[name.removesuffix("_grad")](x) if name in ("softmax_grad", "log_softmax_grad") else x
    arrays = {
        "softmax": (x,), "log_softmax": (x,),
        "softmax_grad": (g, y), "log_softmax_grad": (g, y),
        "softmax_crossentropy": (x, labels),
        "softmax_crossentropy_grad": (g[:, 0].copy(), x, labels),
        "sigmoid_crossentropy": (x, targets),
        "sigmoid_crossentropy_grad": (g, x, targets),
    }
    return arrays[name]


def _normalization(rng, name, n, pixels, channels, groups):
    x, g = rng.standard_normal((2, n, pixels, channels))
    gamma, beta = rng.standard_normal((2, channels))
    if name == "moments":
        return x, groups
    moments = ladders()["moments"](x, groups)
    if name == "normalize":
        return x, moments, gamma, beta
    return g, x, moments, gamma


def _cells(rng, name, h, w):
    return rng.uniform(0, 255, (1, h, w, 3)), 4


def _gram(rng, name, samples, frequencies, channels):
    x, f = map(rng.standard_normal, ((samples, frequencies, channels, 2), (frequencies, channels, 2)))
    return x, rng.random(samples), f


def _rectify(rng, name, *shape):
    g, y = rng.standard_normal((2, *shape))
    return g, np.maximum(y, 0)


def _matmul(rng, name, m, k, n, what):
    """Of a dense layer of (K, N): its output, the gradient of its input, that of its weights."""
    x, w, g = map(rng.standard_normal, ((m, k), (k, n), (m, n)))
    return {"x w": (x, w), "g wT": (g, w.T), "xT g": (x.T, g)}[what]


# op: (how to make its arguments, the small sizes, {label: everyday sizes})
_CONV = (_conv2d, [
    (2, 6, 7, 3, 4, 3, 1, 1),
    (2, 7, 6, 3, 3, 3, 1, 1, 3),
    (1, 9, 8, 4, 6, 3, 2, 1),
    (1, 21, 17, 12, 12, 3, 1, 1),  # enough to do for rungs that decline little
    (1, 21, 21, 2, 2, 21, 1, 10),  # a kernel so large that fft does not decline
], CONVOLUTIONS | MORE_CONVOLUTIONS)
_POOL = (_pool2d, [(2, 6, 6, 3), (1, 6, 8, 17)], {"8x222x222x32, 2x2": (8, 222, 222, 32)})
_CUT = (_crop, [(6, 7, (4, 5))], {"1080x1920 -> 128x128": (1080, 1920, 128)})
_CELL = (_recurrent, [(2, 4, 3), (3, 3, 18)], {"T 32, N 32, 128 units": (32, 32, 128)})
_LOSS = (_softmax, [(3, 4), (7, 37)], {"4096x1000": (4096, 1000)})
_NORM = (_normalization, [(2, 6, 4, 2), (3, 1, 5, 1), (2, 30, 34, 2), (5, 1, 37, 1)], {
    "layer 4096x512": (4096, 1, 512, 1),
    "batch 8x56x56x64": (1, 8 * 56 * 56, 64, 64),
})
_IMAGE = (_cells, [(8, 12)], {"256x256": (256, 256)})
EXAMPLES = {
    "conv2d": _CONV, "conv2d_input_grad": _CONV, "conv2d_weight_grad": _CONV,
    "max_pool2d": _POOL, "max_pool2d_grad": _POOL, "max_pool2d_pick": _POOL,
    "avg_pool2d": _POOL, "avg_pool2d_grad": _POOL,
    "crop": _CUT, "crop_image_grad": _CUT, "crop_box_grad": _CUT,
    "patch": (_patch, [(16, 17, (4, 5)), (30, 41, (4, 5))], {"1080x1920 -> 128x128": (1080, 1920, 128)}),
    "rnn": _CELL, "rnn_grad": _CELL, "gru": _CELL, "gru_grad": _CELL,
    "lstm": _CELL, "lstm_grad": _CELL,
    "adam": (_adam, [(5,), (2**14 + 300,)], {"10 million": (10**7,)}),
    "softmax": _LOSS, "softmax_grad": _LOSS, "log_softmax": _LOSS, "log_softmax_grad": _LOSS,
    "softmax_crossentropy": _LOSS, "softmax_crossentropy_grad": _LOSS,
    "sigmoid_crossentropy": _LOSS, "sigmoid_crossentropy_grad": _LOSS,
    "moments": _NORM, "normalize": _NORM, "normalize_grad": _NORM,
    "hog": _IMAGE, "lab": _IMAGE,
    "matmul": (_matmul, [(3, 4, 5, "x w"), (4, 512, 520, "g wT"), (60, 300, 80, "xT g"),
                         (2, 2048, 1024, "x w")], {
        f"{m}x{k} and {k}x{n}, {what}": (m, k, n, what)
        for m, k, n in ((8, 16384, 1024), (1024, 128, 512)) for what in ("x w", "g wT", "xT g")
    }),
    "rectify_grad": (_rectify, [(2, 3, 4), (5, 37)], {"8x111x111x64": (8, 111, 111, 64)}),
    "gram": (_gram, [(3, 4, 2), (2, 3, 19)], {"K 30, 33x64, C 32": (30, 33 * 64, 32)}),
}


def small(name):
    """Small cases of the op, float64, in normal form; none for an op of which nothing is known."""
    for size in EXAMPLES[name][1] if name in EXAMPLES else ():
        yield ladders()[name].contract(*make(name, *size))


@dataclasses.dataclass
class Case:
    op: str
    label: str
    args: list  # float32, in normal form
    flops: float | None  # of the formula; None where memory is what counts


def everyday(name, device="cpu"):
    """Cases of everyday size of the op, one after the other, in float32."""
    for label, sizes in EXAMPLES[name][2].items() if name in EXAMPLES else ():
        if name == "conv2d_input_grad" and label[0] in FIRST_LAYERS:
            continue
        args = on_device(ladders()[name].contract(*make(name, *sizes)), device, True)
        yield Case(name, label, args, _flops(name, args))


def _flops(name, args):
    if name == "conv2d":
        x, w, *rest = args
        return 2 * math.prod(output_shape(x.shape, w.shape, *rest)[:3]) * math.prod(w.shape)
    if name.startswith("conv2d"):
        w_shape = args[1].shape if name == "conv2d_input_grad" else args[2]
        return 2 * math.prod(args[0].shape[:3]) * math.prod(w_shape)
    if name.removesuffix("_grad") in ("rnn", "gru", "lstm"):
        grad = name.endswith("_grad")
        xw = args[2 if grad else 0]
        weights = max((a for a in args if getattr(a, "ndim", 0) == 2), key=lambda a: a.shape[1])
        return 2 * math.prod(xw.shape[:2]) * math.prod(weights.shape) * (2 if grad else 1)
    if name == "matmul":
        return 2 * math.prod(args[0].shape) * args[1].shape[1]
    if name == "gram":
        return 8 * math.prod(args[0].shape)
    return None


def bytes_of(args, results):
    """What must move at least: each argument read once, each result written once."""
    results = results if isinstance(results, tuple) else (results,)
    return sum(a.nbytes for a in (*args, *results) if hasattr(a, "nbytes"))


def on_device(args, device, single=False):
    """The arguments with a copy of every array on `device`; single: in single precision."""
    return [
        to_device(a.astype(SINGLE.get(a.dtype.kind, a.dtype) if single else a.dtype), device)
        if isinstance(a, np.ndarray) else a
        for a in args
    ]


# ---------------------------------------------------------------------------------------- checking

def check(names, device="cpu"):
    """Each rung's largest error in float32 in all small cases that it can run, relative to the
    largest number of the formula's result in float64; a list of {op, rung, device, verdict, error,
    cases, why}."""
    found = []
    for name in names:
        op, given = ladders()[name], list(small(name))
        expected = [op.rungs["formula"](*on_device(args, "cpu")) for args in given]
        for rung in reversed(op.rungs.values()):
            where = "cpu" if rung.device == "cpu" else device
            answer = {"op": name, "rung": rung.name, "device": where, "why": rung.why}
            found.append({**answer, **_check(rung, op, where, given, expected)})
    return found


def _check(rung, op, where, given, expected):
    refusal = f"nothing is known of {op.name}: add it to EXAMPLES in kernels/bench/cases.py"
    errors = []
    for args, want in zip(given, expected):
        with use(**{op.name: rung.name}):  # some run only if asked for
            reason = rung.refusal(where, on_device(args, "cpu", True))
        if reason is None:
            errors.append(largest_error(rung(*on_device(args, where, True)), want))
        refusal = reason or refusal
    if not errors:
        return {"verdict": "cannot run here", "reason": refusal}
    tolerance = TF32_TOLERANCE if rung.name == "cuda_tf32" else TOLERANCE
    verdict = "ok" if max(errors) < tolerance else "WRONG"
    return {"verdict": verdict, "error": max(errors), "cases": len(errors)}


def largest_error(results, expected):
    """Relative to the largest number expected. A NaN is an infinite error, and so is another shape or
    dtype than that of the expected, in single precision."""
    errors = []
    for got, want in zip(_tuple(results), _tuple(expected), strict=True):
        if got.shape != want.shape or got.dtype != SINGLE.get(want.dtype.kind, want.dtype):
            return math.inf
        scale = max(np.abs(want).max(initial=0), np.finfo(np.float32).tiny)
        error = np.abs(to_numpy(got) - want).max(initial=0) / scale
        errors.append(float(error) if np.isfinite(error) else math.inf)
    return max(errors)


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)
