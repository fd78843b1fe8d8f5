"""`python -m kernels bench`: how fast every rung is, beside PyTorch and beside what is possible.

    python -m kernels bench                       all ops, then the public API   (about 20 minutes)
    python -m kernels bench conv2d                one op and what is like it     (5 minutes)
    python -m kernels bench adam --json FILE --plot FILE --threads 1
    python -m kernels bench --device cuda         CUDA rungs against cuDNN

The steps: each rung is checked against the formula in float64 on small cases. Then child processes
time the cases of `kernels.bench.cases`, and `minideep.benchmark` those of the public API: one child
for each number of threads (OpenMP, BLAS and Numba read it when they start) and each allocator.
PyTorch is timed with glibc's default settings, where it pays for fresh pages at each large array,
and with settings that keep memory ("tuned"). Within a child all contestants of a case take turns,
in an order that changes, on the same random data, warmed up; medians are printed. One thread: CPU
time of the process; more: wall time, when the others' threads are asleep (measure.interleave).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile

from kernels.bench import cases, report
from kernels.ladder import ladders

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
COUNTS = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMBA_NUM_THREADS".split()


def bench(op=None, json_file=None, plot_file=None, threads=None, device="cpu", seconds=0.3):
    """Check, measure, print. op: a ladder's name or the beginning of several; None: all.

    threads: numbers of threads, by default one and all. seconds: for each contestant of a case.
    Returns the exit code: 1 if a rung is wrong. SystemExit, before anything is measured, for an
    unknown op, for a file that cannot be written and for a plot without a rung.
    """
    chosen = [name for name in ladders() if op is None or name.startswith(op)]
    if not chosen and op != "api":
        raise SystemExit(f"there is no op {op!r}; the ops are api, {', '.join(ladders())}")
    if plot_file and not chosen:
        raise SystemExit("--plot draws the rooflines of rungs, and api has none: leave --plot out, or "
                         "name an op that has rungs, such as conv2d")
    for file in filter(None, (json_file, plot_file)):
        check_output(file)
    if plot_file:
        report.check_plot(plot_file)
    if device == "cuda":
        from kernels.backend import require_cuda

        try:
            require_cuda()
        except RuntimeError as error:
            print(error)
            return 1
    checks = cases.check(chosen, device)
    report.print_checks(checks)
    rows, ceilings = [], {}
    for count in threads or sorted({1, os.cpu_count()}) if device == "cpu" else [1]:
        for allocator in ("default", "tuned") if device == "cpu" else ("default",):
            for module in ("kernels.bench.child", "minideep.benchmark"):
                if module == "minideep.benchmark" and device == "cuda":
                    continue  # the public API adds what it adds on the CPU
                task = {"ops": chosen, "prefix": op, "threads": count, "allocator": allocator,
                        "device": device, "seconds": seconds}
                for answer in answers_of(module, task):
                    if "ceilings" in answer:
                        best = ceilings.setdefault(str(count), answer["ceilings"])
                        for name, speed in answer["ceilings"].items():
                            best[name] = max(best[name], speed)  # what nothing exceeds
                        report.print_ceilings(best, count)
                    else:
                        answer["threads"], answer["allocator"] = count, allocator
                        rows += report.rate(answer, ceilings[str(count)])
    report.print_summary(rows)
    results = {"checks": checks, "ceilings": ceilings, "rows": rows}
    if json_file:
        with open(json_file, "w") as file:
            json.dump(results, file, indent=1)
    if plot_file:
        report.plot(results, plot_file)
    return int(any(check["verdict"] == "WRONG" for check in checks))


def check_output(path):
    """SystemExit if no file can be written at `path`. Leaves nothing behind."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if os.path.exists(path):
            open(path, "a").close()
        else:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SystemExit(f"{path} cannot be written: {error.strerror}") from None


def answers_of(module, task):
    """The answers, one JSON object a line, of a new process that runs `module` on the task.

    Whoever stops before the last answer ends it and the processes that it has started."""
    environment = {**os.environ, **dict.fromkeys(COUNTS, str(task["threads"]))}
    for name, value in TUNED.items():
        environment.pop(name, None)
        if task["allocator"] == "tuned":
            environment[name] = value
    command = [sys.executable, "-m", module, json.dumps(task)]
    # in a session of its own it does not see the terminal's Ctrl-C, and prints no traceback
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        try:
            for line in process.stdout:
                yield json.loads(line)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
