"""A process of the benchmark: times the kernels' cases for one number of threads and one allocator.

    python -m kernels.bench.child '{"ops": [...], "threads": 1, "allocator": "default", ...}'

Prints a JSON object a line: first the ceilings, then a row for each case.
"""

import json
import math
import sys

import numpy as np

from kernels import memory
from kernels.bench import cases, measure, peers
from kernels.ladder import ladders, use


def main(task):
    on_gpu = task["device"] == "cuda"
    peers.set_up(task["threads"])
    show({"ceilings": measure.cuda_ceilings() if on_gpu else measure.ceilings(task["threads"])})
    for name in task["ops"]:
        for case in cases.everyday(name, task["device"]):
            for row in rows(case, task):
                show(row)
            memory.release()
    if "conv2d" in task["ops"] and not on_gpu and (task["threads"], task["allocator"]) == (1, "default"):
        for row in scaling(task["seconds"]):
            show(row)


def rows(case, task):
    """Of one case: what each contestant took. On a GPU twice: PyTorch without TF32, then with."""
    op, eligible = ladders()[case.op], []
    for rung in op.rungs.values():
        with use(**{op.name: rung.name}):  # those that run only if asked for as well
            if rung.name != "formula" and rung.refusal(task["device"], case.args) is None:
                eligible.append(rung)
    chosen = op.pick(case.args)
    if task["allocator"] == "tuned":
        eligible = [chosen]  # the allocator matters to PyTorch; one rung to compare with will do
    ours = {rung.name: lambda rung=rung: rung(*case.args) for rung in eligible}
    moved = cases.bytes_of(case.args, chosen(*case.args))
    common = {"op": case.op, "case": case.label, "flops": case.flops, "bytes": moved,
              "chosen": chosen.name}
    if task["device"] == "cuda":
        for tf32 in (False, True):
            peers.set_up(1, tf32)
            theirs = {f"{name}, TF32 {'on' if tf32 else 'off'}": function
                      for name, function in peers.contestants(case.op, case.args).items()}
            alike = {name: f for name, f in ours.items() if tf32 or name != "cuda_tf32"}
            if theirs or not tf32:
                found = measure.interleave_cuda({**alike, **theirs}, task["seconds"])
                yield {**common, "times": {k: measure.summary(d) for k, d in found.items()}}
        return
    contestants = {**ours, **peers.contestants(case.op, case.args)}
    found = measure.interleave(contestants, task["seconds"], task["threads"])
    yield {**common, "times": {k: measure.summary(d) for k, d in found.items()}}


def scaling(seconds, factors=(1, 2, 4, 8, 16)):
    """Convolution of more images, and of larger ones: the time for a pixel should stay."""
    forward, to_input, to_weight = (
        ladders()[name] for name in ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
    )
    shapes = {
        "batch": [(factor, 56, 56) for factor in factors],
        "area": [(1, round(56 * math.sqrt(factor)), round(56 * math.sqrt(factor))) for factor in factors],
    }
    for what, sizes in shapes.items():
        contestants, pixels = {}, {}
        for factor, size in zip(factors, sizes):
            rng = np.random.default_rng(0)
            x, g, w = (rng.standard_normal(shape, "float32")
                       for shape in ((*size, 32), (*size, 64), (3, 3, 32, 64)))

            def both(x=x, g=g, w=w):
                forward(x, w, 1, "same")
                to_input(g, w, x.shape, 1, "same")
                to_weight(g, x, w.shape, 1, "same")

            for name, function in (("forward", lambda x=x, w=w: forward(x, w, 1, "same")),
                                   ("forward + backward", both)):
                contestants[f"{name} {factor}x"] = function
                pixels[f"{name} {factor}x"] = math.prod(size)
        found = measure.interleave(contestants, seconds / 2)
        yield {"op": "scaling", "case": what, "pixels": pixels,
               "times": {name: measure.summary(d) for name, d in found.items()}}


def show(answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
