"""Holds what a function of tensors gives on another device to what it gives on the CPU.

The functions and their inputs are the cases that test_ops_derivatives.py has for every op. They run
on the strict device (strict_array) in test_strict_device.py, and in test_gpu.py on a real GPU.
"""

import json

import numpy as np
from loading import load

import minideep
from minideep import ops

cases = load("minideep/test_ops_derivatives.py")
OPS = {op.name for op in cases.Op.registry.values() if op.__module__.startswith("minideep.")}


def compare_case(name, draw, device, dtype="float64"):
    """compare() of the case that `draw` (Hypothesis's) makes of the op `name`."""
    f, arrays = cases.draw_case(name, draw)
    compare(f, arrays, device, dtype)


def compare(f, arrays, device, dtype="float64"):
    """Values, first and second derivatives of f on the CPU and on `device`, in single precision (there
    the kernels in CUDA C run) or in double.

    In double precision each number is the CPU's to 9 digits, in single precision to 4 digits of the
    largest in its array: the kernels add up in another order.
    """
    results = []
    for where in ("cpu", device):
        with minideep.device(where):
            inputs = [minideep.tensor(a, dtype, requires_grad=True) for a in arrays]
            ys = f(*inputs)
            ys = [ys] if isinstance(ys, minideep.Tensor) else list(ys)
            assert all(y.device == where for y in ys)
            total = sum([ops.real(y * ops.conj(y)).sum() for y in ys], minideep.tensor(0.0))
            fast = minideep.grad(total, inputs, retain_graph=True, allow_unused=True)
            gs = minideep.grad(total, inputs, create_graph=True, allow_unused=True)
            more = [g for g in gs if g is not None and g.requires_grad]
            if more:
                twice = sum([(g * g).sum() for g in more], minideep.tensor(0.0))
                gs = [*fast, *gs, *minideep.grad(twice, inputs, allow_unused=True)]
            assert all(g is None or g.device == where for g in gs)
            results.append([None if t is None else t.numpy() for t in (*ys, *gs)])
    for cpu, other in zip(*results, strict=True):
        assert (cpu is None) == (other is None)
        if cpu is not None:
            assert cpu.dtype == other.dtype and cpu.shape == other.shape
            if dtype == "float64":
                np.testing.assert_allclose(other, cpu, rtol=1e-9, atol=1e-9)
            else:
                np.testing.assert_allclose(other, cpu, rtol=0,
                                           atol=1e-4 * max(1, np.abs(cpu).max(initial=0)))


def compare_demos(folder, other):
    """What `python -m tracker demo` wrote to two folders is the same but for rounding.

    A tracker looks next where it found the target last, so that rounding adds up: on one CPU, by
    another rung of the convolution, the boxes of a clip are those of the first to 0.97 of their
    overlap on average, the AUC to 0.009; in the frame in which a lost target is found again a
    single box may lie elsewhere.
    """
    from tracker.boxes import iou
    from tracker.demo import NAMES
    from tracker.sequences import read_boxes
    for name in NAMES:
        boxes, others = (read_boxes(where / f"{name}-boxes.txt") for where in (folder, other))
        assert boxes.shape == others.shape and len(boxes) > 1
        assert iou(boxes, others).mean() > 0.94, name
        assert np.median(np.abs(boxes - others).max(axis=1)) < 2, name  # pixels
        aucs = [json.loads((where / f"{name}.json").read_text())["auc"] for where in (folder, other)]
        assert abs(aucs[0] - aucs[1]) < 0.02, name
