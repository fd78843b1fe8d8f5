"""Time, and the ceilings that hold on this machine."""

import random
import statistics
import sys
import time

import numpy as np

from kernels.jit import jit, prange, problem, simd, threads
from kernels.jit import lanes as host_lanes
from kernels.microkernel import lanes

PAUSE = 0.06  # seconds in which idle threads go to sleep: OpenBLAS's after some 30 ms
WAKE = 0.015  # seconds, some ticks of the scheduler, until each woken thread has a core of its own


def interleave(contestants, seconds, threads=1, turns=3):
    """{name: [durations]} of functions that take turns: a change of the machine's speed, or a
    neighbour's load, meets all of them. The order is a new one in each turn: a function that comes
    after one that fills the caches is slower. `seconds`, for each on average, once there are
    `turns`; 1000 turns at most.

    One thread is timed in CPU time: it does not see the neighbours. Where there are several, those
    of the function before (PyTorch's, BLAS's, Numba's) wait for more work without sleeping, on the
    cores that the next one needs: it begins when they have gone to sleep, and wakes its own in calls
    that are not timed."""
    clock = time.process_time if threads == 1 else time.perf_counter
    for function in contestants.values():
        function()  # compiles, allocates, fills caches
    durations = {name: [] for name in contestants}
    order, rng = list(contestants.items()), random.Random(0)
    spent = done = 0
    while done < turns or spent < seconds * len(contestants):
        rng.shuffle(order)
        for name, function in order:
            if threads > 1:
                time.sleep(PAUSE)
                woken = clock() + WAKE
                while clock() < woken:
                    function()
            start = clock()
            function()
            durations[name].append(clock() - start)
            spent += durations[name][-1] + (PAUSE if threads > 1 else 0)
        done += 1
        if done >= 1000:
            break
    return durations


def ceilings(count, seconds=0.3):
    """GFLOP/s of fused multiply-adds from registers and of a matrix product, GB/s of memory."""
    a = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    long = [np.ones(2**25, np.float32) for _ in range(2)]  # 128 MiB each: no cache holds them
    contestants = {"sgemm": lambda: a @ a}
    work = {"sgemm": 2 * 1024**3 / 1e9}
    if problem() is None:
        steps, sums = 10**6, np.zeros((threads(), 16), np.float32)
        contestants["fma"] = lambda: _multiply_add(steps, sums)
        lines = 12 if host_lanes() == 16 else 6
        work["fma"] = 2 * lines * 16 * steps * len(sums) / 1e9
        contestants["stream"] = lambda: _stream(*long)
        work["stream"] = 3 * long[0].nbytes / 1e9  # both are read, one is written
    else:
        contestants["stream"] = lambda: np.add(*long, out=long[0])
        work["stream"] = 3 * long[0].nbytes / 1e9
    found = interleave(contestants, seconds, count)
    # The best, not the median: a ceiling is what nothing exceeds.
    best = {name: work[name] / min(durations) for name, durations in found.items()}
    best["flops"] = max(best.get("fma", 0), best["sgemm"])
    return best


@jit(parallel=True)
def _multiply_add(steps, sums):
    for thread in prange(len(sums)):
        row = sums[thread]
        x = simd.load(row, 0)
        a, b, c, d, e, f = x, x, x, x, x, x  # six lines: as many as AVX2's registers hold, none waits
        g, h, i, j, k, l = x, x, x, x, x, x  # noqa: E741
        for _ in range(steps):
            a, b, c = simd.fma(a, x, x), simd.fma(b, x, x), simd.fma(c, x, x)
            d, e, f = simd.fma(d, x, x), simd.fma(e, x, x), simd.fma(f, x, x)
            if lanes() == 16:
                g, h, i = simd.fma(g, x, x), simd.fma(h, x, x), simd.fma(i, x, x)
                j, k, l = simd.fma(j, x, x), simd.fma(k, x, x), simd.fma(l, x, x)  # noqa: E741
        simd.store(row, 0, (a + b) + (c + d) + (e + f) + (g + h) + (i + j) + (k + l))


@jit(parallel=True)
def _stream(x, y):
    for part in prange(64):
        size = x.size // 64
        for i in range(part * size, (part + 1) * size, 16):
            simd.store(x, i, simd.load(x, i) + simd.load(y, i))


def summary(durations):
    """Median and quartiles, in milliseconds."""
    ordered = sorted(1e3 * d for d in durations)
    quarter = len(ordered) // 4
    return {
        "milliseconds": statistics.median(ordered),
        "quartiles": [ordered[quarter], ordered[-1 - quarter]],
        "calls": len(ordered),
    }


def interleave_cuda(contestants, seconds):
    """As `interleave`, by CUDA events on the current stream; PyTorch is run on the same stream."""
    import cupy

    for function in contestants.values():
        for _ in range(3):
            function()
    cupy.cuda.Device().synchronize()
    durations = {name: [] for name in contestants}
    end_of_time = time.perf_counter() + seconds * len(contestants)
    while time.perf_counter() < end_of_time or not min(map(len, durations.values())):
        for name, function in contestants.items():
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            function()
            end.record()
            end.synchronize()
            durations[name].append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    return durations


def peak_memory():
    """Bytes of this process's memory at most, so far."""
    try:
        with open("/proc/self/status") as file:  # getrusage would begin with the parent's on Linux
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except FileNotFoundError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cuda_ceilings():
    """GB/s of a copy on the device, GFLOP/s of CuPy's float32 matrix product."""
    import cupy

    x, a = cupy.ones(2**28, cupy.float32), cupy.ones((4096, 4096), cupy.float32)
    y = cupy.empty_like(x)
    found = interleave_cuda({"stream": lambda: cupy.copyto(y, x), "sgemm": lambda: a @ a}, 0.5)
    best = {"stream": 2 * x.nbytes / 1e9 / min(found["stream"]),
            "sgemm": 2 * 4096**3 / 1e9 / min(found["sgemm"])}
    return {**best, "flops": best["sgemm"]}
