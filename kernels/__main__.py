"""`python -m kernels`: every op's ladder, checked against its formula and timed on this machine.

Per rung: the largest error in float32, relative to the largest number in the formula's float64
result, on a small random case; and the time of a call on a case of everyday size. The formula is
timed on the small case only.
"""

import sys
import time

import numpy as np

from kernels import ladders
from kernels.backend import cuda_is_available, to_device, to_numpy

TOLERANCE = 1e-4


def example(name, large, depthwise=False, wide=False):
    """Arguments of the op `name`, float64: small enough for Python loops, or of everyday size.

    wide: a small case with enough to do for rungs that leave the smallest to others.
    """
    rng = np.random.default_rng(0)
    random = rng.standard_normal
    n, side, channels, outputs = (1, 13, 12, 12) if wide else (2, 6, 3, 4)
    if large:
        n, side, channels, outputs = 8, 56, 32, 64
    if name.startswith("conv2d"):
        groups, outputs = (channels, channels) if depthwise else (1, outputs)
        x, w = random((n, side, side, channels)), random((3, 3, channels // groups, outputs))
        g = random((n, side, side, outputs))
        arguments = {
            "conv2d": (x, w),
            "conv2d_input_grad": (g, w, x.shape),
            "conv2d_weight_grad": (g, x, w.shape),
        }
        return *arguments[name], 1, "same", 1, groups
    if "pool2d" in name:
        x, g = random((n, side, side, channels)), random((n, side // 2, side // 2, channels))
        arguments = {
            "max_pool2d": (x,),
            "max_pool2d_grad": (g, x),
            "max_pool2d_pick": (random(x.shape), x),
            "avg_pool2d": (x,),
            "avg_pool2d_grad": (g, x.shape),
        }
        return *arguments[name], 2
    if name.startswith("crop"):
        height, width, size = (1080, 1920, 128) if large else (6, 7, 4)
        x, boxes = random((1, height, width, 3)), np.array([[1.3, 2.1, width / 2.5, height / 2.5]])
        g = random((1, size, size, 3))
        arguments = {
            "crop": (x, boxes, size),
            "crop_image_grad": (g, boxes, x.shape),
            "crop_box_grad": (g, x, boxes),
        }
        return arguments[name]
    if name == "adam":
        size = 10**6 if large else 5
        return *(random(size) for _ in range(3)), random(size) ** 2, 1e-3, 3
    cell = name.removesuffix("_grad")
    n, steps, units = (32, 64, 64) if large else (2, 4, 3)
    blocks = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    xw, weights = random((n, steps, blocks * units)), [random((units, blocks * units)) / units]
    first = [random((n, units)) for _ in range(2 if cell == "lstm" else 1)]
    if cell == "gru":
        weights.append(random(blocks * units))
    if cell == name:
        return xw, *first, *weights
    states = ladders()[cell](xw, *first, *weights)
    return random(states.shape), states, xw, *first, *weights


def example_for(rung, op, device, large):
    """Normalised arguments of an example that the rung can run in float32, or None."""
    for kind in ({}, {"depthwise": True}, {"wide": True}):
        arguments = op.contract(*example(op.name, large, **kind))
        if rung.refusal(device, on_device(arguments, "cpu", np.float32)) is None:
            return arguments
    return None


def on_device(arguments, device, dtype=None):
    """The arguments with a copy of every array on `device`, as `dtype`."""
    return [
        to_device(a.astype(dtype or a.dtype), device) if isinstance(a, np.ndarray) else a
        for a in arguments
    ]


def largest_error(rung, arguments, expected, device):
    """Of the rung in float32, relative to the largest number expected."""
    results = rung(*on_device(arguments, device, np.float32))
    errors = []
    for got, want in zip(_tuple(results), _tuple(expected)):
        scale = max(np.abs(want).max(initial=0), np.finfo(np.float32).tiny)
        errors.append(np.abs(to_numpy(got) - want).max(initial=0) / scale)
    return max(errors)


def seconds(rung, arguments, device, budget=0.1):
    """The shortest time of a call in float32, of as many as fit into the budget."""
    arguments = on_device(arguments, device, np.float32)
    times, stop = [], time.perf_counter() + budget
    while not times or time.perf_counter() < stop:
        start = time.perf_counter()
        result = rung(*arguments)
        first = _tuple(result)[0]
        to_numpy(first[(slice(1),) * first.ndim])  # waits, where a device computes on its own
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    device = "cuda" if cuda_is_available() else "cpu"
    failures = 0
    for name, op in ladders().items():
        print(name)
        for rung in reversed(op.rungs.values()):
            where = "cpu" if rung.device == "cpu" else device
            small = example_for(rung, op, where, large=False)
            if small is None:
                wide = on_device(op.contract(*example(name, False, wide=True)), "cpu", np.float32)
                print(f"  {rung.name:<10} {where:<5} cannot run here: {rung.refusal(where, wide)}")
                continue
            expected = op.rungs["formula"](*on_device(small, "cpu"))
            error = largest_error(rung, small, expected, where)
            is_formula = rung.name == "formula"
            timed = small if is_formula else example_for(rung, op, where, large=True)
            milliseconds = 1e3 * seconds(rung, timed, where)
            verdict = "ok" if error < TOLERANCE else "WRONG"
            failures += verdict == "WRONG"
            note = " (small case)" if is_formula else ""
            print(
                f"  {rung.name:<10} {where:<5} {verdict}, error {error:.1e}, "
                f"{milliseconds:9.3f} ms{note}; {rung.why}"
            )
    return 1 if failures else 0


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


if __name__ == "__main__":
    sys.exit(main())
