"""Launches every kernel in CUDA C, in each module that the launchers compile, on small cases.

    compute-sanitizer --tool racecheck python tests/every_kernel.py             on a GPU: test_gpu.py
    with launches() as launched, on_cpu(): launch_all("cpu")                    test_every_kernel.py

The cases are those of test_cuda_conv2d.py and test_cuda_rungs.py, some of each path; every result is
held to NumPy's in float64.
"""

import contextlib
import sys
from unittest import mock

import numpy as np
from loading import load

import kernels
import kernels.cuda
from kernels import backend
from kernels.bench import cases

convolution, rungs = load("kernels/test_cuda_conv2d.py"), load("kernels/test_cuda_rungs.py")
random = rungs.random

# A weight gradient's sum over so many pixels is cut into two parts, which are added up.
PARTS = ((1, 48, 48, 4), (3, 3, 4, 8), {"padding": 1})


def _convolutions():
    for rung, names in [("cuda_raw", convolution.CASES), ("cuda_tf32", ["strided", "grouped"])]:
        for name in names:
            for op, arguments in convolution.three(*convolution.CASES[name]):
                yield op, rung, arguments
        *_, (op, arguments) = convolution.three(*PARTS)
        yield op, rung, arguments
    yield kernels.matmul, "cuda_tf32", (random((20, 12)), random((12, 8)))


def _pooling():
    for channels in (3, 8):
        for geometry in [(2, 2, 0), (2, 3, 1), (3, 2, 1)]:  # windows that touch, lie apart, overlap
            x = random((2, 7, 8, channels))
            y, winners = kernels.max_pool2d(x, *geometry, keep=True)
            g = random(y.shape)
            for op, args in [("max_pool2d", (x,)), ("max_pool2d_grad", (g, winners, x.shape)),
                             ("max_pool2d_pick", (x, winners)), ("avg_pool2d", (x,)),
                             ("avg_pool2d_grad", (g, x.shape))]:
                keep = [True] * (op == "max_pool2d")
                yield op, "cuda_raw", (*args, *geometry, *keep)


def _crops():
    for channels in (1, 3, 4):
        x, g = random((2, 6, 7, channels)), random((2, 3, 4, channels))
        boxes = np.array([[0.3, 1.2, 4.4, 3.7], [-2.1, -1.3, 11.7, 9.1]])
        yield "crop", "cuda_raw", (x, boxes, (3, 4))
        yield "crop", "cuda_raw", ((100 + 20 * x).astype(np.uint8), boxes, (3, 4))
        yield "crop_image_grad", "cuda_raw", (g, boxes, x.shape)
        yield "crop_box_grad", "cuda_raw", (g, x, boxes)


def _rows():
    for op in rungs.BY_ROW + ["sigmoid_crossentropy", "sigmoid_crossentropy_grad"]:
        for classes in (40, 1500):  # a warp's part, several warps
            yield op, "cuda_raw", rungs.classifying(op, classes)
    for op in rungs.NORMALIZATION:
        for shape, groups in [((9, 1, 17), 1), ((2, 1, 17000), 1), ((3, 5, 64), 2), ((1, 5000, 3), 3)]:
            yield op, "cuda_raw", rungs.normalizing(op, shape, groups)
    w, g, m, v = (random(5001) for _ in range(4))
    yield "adam", "cuda_raw", (w, g, m, v**2, 0.1, 3)


def _cells():
    for cell in ("rnn", "gru", "lstm"):
        for limits in ({}, {"SMALL": -1}, {"SMALL": -1, "LARGE": 0}):
            yield cell, "cuda_raw", rungs.recurrent(cell), limits
            for gate in (None, (1.0, 0.3)):
                yield f"{cell}_grad", "cuda_raw", rungs.through_time(cell, gate), limits


def launch_all(device):
    """Run all cases with arrays on `device`; AssertionError where a result is not NumPy's."""
    through_time = sys.modules["kernels.through_time"]
    for op, name, arguments, *rest in (*_convolutions(), *_pooling(), *_crops(), *_rows(), *_cells()):
        op = kernels.ladders()[op] if isinstance(op, str) else op
        limits = rest[0] if rest else {}
        normal = op.contract(*arguments)
        there, own = cases.on_device(normal, device, True), cases.on_device(normal, "cpu")
        with kernels.use(**{op.name: name}), mock.patch.dict(vars(through_time), limits):
            assert op.rungs[name].refusal("cuda", there) is None, f"{op.name}, {name}"
            got = op.rungs[name](*there)
        want = op.rungs["im2col" if op.name.startswith("conv") else "array"](*own)
        tolerance = cases.TF32_TOLERANCE if name == "cuda_tf32" else cases.TOLERANCE
        assert cases.largest_error(got, want) < tolerance, f"{op.name}, {name}, {limits}"
    geometry = (3, 2), 2, ((1, 0), (2, 1)), 2
    x = backend.to_device(random((2, 9, 8, 3)).astype(np.float32), device)
    columns = convolution.cuda_raw.unfold(x, *geometry)
    convolution.cuda_raw.fold(columns, x.shape, *geometry[1:])


def all_kernels():
    """{(file, macros, kernel)} of what the launchers can launch."""
    found = set()
    for name, module in list(sys.modules.items()):
        own = getattr(module, "_cu", None) if name.startswith("kernels.") else None
        for cu in own.values() if isinstance(own, dict) else [own] if own else []:
            found |= {(cu.name, cu.macros, kernel) for kernel in cu.kernels if _is_used(cu, kernel)}
    return found


def _is_used(cu, kernel):
    """Not of use, though compiled: on tensor cores what is not aligned, and wide gradients of boxes."""
    if "TENSOR_CORES" in cu.macros:
        return kernel.endswith("_aligned") or kernel == "add_up"
    return kernel != "crop_box_grad" or "WIDTH 1" in cu.macros


@contextlib.contextmanager
def launches():
    """The set, as all_kernels() gives it, of what is launched inside."""
    found, on_gpu, on_cpu = set(), kernels.cuda.Kernel._run_on_gpu, kernels.cuda.run_on_cpu

    def noting(launch):
        def noted(kernel, *arguments):
            found.add((kernel.module.name, kernel.module.macros, kernel.name))
            return launch(kernel, *arguments)
        return noted

    with mock.patch.object(kernels.cuda.Kernel, "_run_on_gpu", noting(on_gpu)), \
            mock.patch.object(kernels.cuda, "run_on_cpu", noting(on_cpu)):
        yield found


if __name__ == "__main__":
    backend.require_cuda().cuda.set_allocator(None)  # every array an allocation of its own
    with launches() as launched:
        launch_all("cuda")
    if launched != all_kernels():
        sys.exit(f"not launched: {sorted(all_kernels() - launched)}")
    print(f"{len(launched)} kernels")
