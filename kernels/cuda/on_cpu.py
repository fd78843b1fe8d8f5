"""CUDA C without a GPU: the .cu file itself, compiled by g++ and run on NumPy arrays.

    with kernels.cuda.on_cpu():
        conv2d.rungs["cuda_raw"](*conv2d.contract(x, w))

A block's threads are fibres (on_cpu.h). For each launch every array is copied to memory of its own
between pages that may not be touched, and what is written is copied back. Found and reported with
file, line, block and thread: an access outside of an array, undefined behaviour, threads that wait
at different barriers. Shared memory begins as NaN. Not found: too little synchronisation that does
no harm in the order in which the threads happen to run; running under several schedules and
comparing the results finds most of that.

Speed: 1 to 2 s for the first launch from a source (kept in __pycache__), then some 50 ns a thread.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import mmap
import pathlib
import re
import threading

import numpy as np

# "forward": threads and blocks in ascending order, arrays end at a forbidden page (to 16 bytes).
# "backward": in descending order, arrays begin after one. "shuffled": threads in a fixed disorder.
SCHEDULES = {"forward": 0, "backward": 1, "shuffled": 7}

_FLAGS = [
    *"-x c++ -std=c++17 -O1 -shared -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti".split(),
    *"-fno-strict-aliasing -ffp-contract=off -U_FORTIFY_SOURCE -Wno-unknown-pragmas".split(),
    *"-fsanitize=undefined,bounds-strict,float-cast-overflow -fno-sanitize=vptr".split(),
    "-fno-sanitize-recover=all",
    "-Werror=frame-larger-than=65536",  # a fibre's stack is small
    "-nodefaultlibs",  # no libubsan: on_cpu.h has what -fsanitize calls
]
_FORBIDDEN = 2**24  # bytes between two arrays: only addresses, no memory
_HEADER = pathlib.Path(__file__).with_name("on_cpu.h")
_DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]")
_schedule = contextvars.ContextVar("kernels.cuda.on_cpu", default=None)
_lock = threading.Lock()


@contextlib.contextmanager
def on_cpu(schedule="forward"):
    """While it lasts, kernels take NumPy arrays and run on the CPU, their threads in this order."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    token = _schedule.set(schedule)
    try:
        yield
    finally:
        _schedule.reset(token)


def schedule():
    """The schedule of the `on_cpu` that we are in, or None."""
    return _schedule.get()


def problem():
    """None if kernels can run on the CPU here, or what is missing in words."""
    import shutil
    import sys

    if sys.platform != "linux":
        return f"running CUDA kernels on the CPU needs Linux (on_cpu.h), not {sys.platform}"
    if shutil.which("g++") is None:
        return "running CUDA kernels on the CPU needs g++ (Debian, Ubuntu: apt-get install g++)"
    return None


def run_on_cpu(kernel, index, grid, block, values, shared):
    """Launch `kernel` (kernels.cuda.Kernel) on checked arguments; RuntimeError for what is found."""
    library = _library(kernel.module.source(index), kernel.module.name, tuple(
        (k.name, tuple(p.ctype for p in k.parameters)) for k in kernel.module.kernels.values()
    ))  # fmt: skip
    arrays = {p.name: v for p, v in zip(kernel.parameters, values) if isinstance(v, np.ndarray)}
    arrays["dynamic shared memory"] = np.empty(shared, np.uint8)
    outputs = [p.name for p in kernel.parameters if p.is_output]
    _check_apart(kernel, arrays, outputs)
    memory = GuardedMemory(arrays, outputs, at_end=schedule() != "backward")
    pointers = (ctypes.c_void_p * len(values))()
    kept = []
    for i, (p, value) in enumerate(zip(kernel.parameters, values)):
        if p.is_array:
            kept.append(ctypes.c_void_p(memory.address(p.name) if value is not None else None))
        else:
            kept.append((ctypes.c_char * value.nbytes).from_buffer_copy(value.tobytes()))
        pointers[i] = ctypes.addressof(kept[-1])
    sizes = (ctypes.c_uint * 6)(*grid, *block)
    text = ctypes.create_string_buffer(1000)
    with _lock:  # the fibres' memory is the module's
        failed = library["run_" + kernel.name](
            pointers, sizes, SCHEDULES[schedule()], memory.regions, len(arrays), text, len(text)
        )
    where = f"{kernel.module.name}, kernel {kernel.name}: "
    if failed:
        raise RuntimeError(where + text.value.decode())
    stray = memory.stray_write()
    if stray is not None:
        raise RuntimeError(where + stray)
    for name in outputs:
        arrays[name][...] = memory.arrays[name]


def _check_apart(kernel, arrays, outputs):
    """Kernels may assume that what they write is nothing else that they read (__restrict__)."""
    for output in outputs:
        for name, array in arrays.items():
            if name != output and np.may_share_memory(array, arrays[output]):
                raise kernel._error(ValueError, f"{output} is written, and shares memory with {name}")


class _Region(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p)] + [
        (name, ctypes.c_size_t) for name in ("begin", "end", "data", "bytes", "item")
    ]


class GuardedMemory:
    """Copies of arrays, each between two stretches of memory that may not be touched.

    An array ends at such a stretch, to 16 bytes, or begins right after one, to 16 bytes: it lies as
    far from a multiple of 16 bytes as where it comes from. What remains of its first or last page is
    filled: a change tells who writes it, and who reads it gets NaN (for `outputs`, a huge number:
    what a stray copy writes is not what was there).
    """

    def __init__(self, arrays, outputs, at_end):
        page = mmap.PAGESIZE
        skews = [array.ctypes.data % 16 if array.size else 0 for array in arrays.values()]
        pages = [-(-(array.nbytes + skew) // page) * page
                 for array, skew in zip(arrays.values(), skews)]  # fmt: skip
        total = sum(pages) + (len(pages) + 1) * _FORBIDDEN
        self.memory = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        everything = np.frombuffer(self.memory, np.uint8)
        start = everything.ctypes.data
        self.regions = (_Region * len(arrays))()
        self.arrays, self.slack = {}, {}
        at = _FORBIDDEN
        _forbid(start, _FORBIDDEN)
        for region, (name, array), size, skew in zip(self.regions, arrays.items(), pages, skews):
            inside = everything[at : at + size]
            offset = (size - array.nbytes - skew) // 16 * 16 * at_end + skew
            end = offset + array.nbytes
            self.arrays[name] = inside[offset:end].view(array.dtype).reshape(array.shape)
            self.arrays[name][...] = array
            fill = 0x7F if name in outputs else 0xFF
            self.slack[name] = (inside[:offset], inside[end:], fill, array)
            inside[:offset] = inside[end:] = fill
            _forbid(start + at + size, _FORBIDDEN)
            region.name = name.encode()
            region.begin = start + at - _FORBIDDEN // 2
            region.end = start + at + size + _FORBIDDEN // 2
            region.data = start + at + offset
            region.bytes, region.item = array.nbytes, array.itemsize
            at += size + _FORBIDDEN

    def address(self, name):
        return self.regions[list(self.arrays).index(name)].data

    def stray_write(self):
        """None, or which array's neighbourhood has been written."""
        for name, (before, after, fill, array) in self.slack.items():
            for part, first in ((before, -before.size), (after, array.nbytes)):
                changed = np.flatnonzero(part != fill)
                if changed.size:
                    element = (first + int(changed[0])) // array.itemsize
                    return f"writes outside of {name}, at element {element} of {array.size}"
        return None


def _forbid(address, size):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), 0):
        raise OSError(ctypes.get_errno(), "mprotect failed")


@functools.lru_cache(maxsize=None)
def _library(source, name, kernels):
    """The source as a shared library with a function run_NAME for each of its kernels."""
    import hashlib

    program = _program(source, kernels)
    digest = hashlib.sha256("\0".join([program, _HEADER.read_text(), *_FLAGS]).encode())
    file = f"{pathlib.Path(name).stem}-{digest.hexdigest()[:24]}.so"
    folder = pathlib.Path(__file__).parent / "__pycache__"
    if (folder / file).exists():
        return ctypes.CDLL(str(folder / file))
    return _compile(program, name, folder, file)


def _compile(program, name, folder, file):
    import os
    import subprocess
    import tempfile

    if problem():
        raise RuntimeError(problem())
    with tempfile.TemporaryDirectory() as scratch:
        built = pathlib.Path(scratch) / file
        command = ["g++", *_FLAGS, "-I", str(_HEADER.parent), "-", "-o", str(built)]
        command += ["-lm", "-lc", "-lgcc"]
        result = subprocess.run(command, input=program, text=True, capture_output=True)
        if result.returncode:
            raise RuntimeError(f"{name} does not compile for the CPU:\n{result.stderr}")
        try:  # kept for the next time; in one step, as others may be doing the same
            folder.mkdir(exist_ok=True)
            beside = folder / f"{file}.{os.getpid()}"
            beside.write_bytes(built.read_bytes())
            beside.chmod(0o755)
            os.replace(beside, folder / file)
        except OSError:  # a folder that cannot be written: compiled anew by every process
            return ctypes.CDLL(str(built))  # which may lose its name while it is in use
        return ctypes.CDLL(str(folder / file))


def _program(source, kernels):
    """C++: the header, the source in an unnamed namespace, and an entry for each kernel."""
    source = source.replace('extern "C" __global__', "__global__")
    source = _DYNAMIC_SHARED.sub(
        r"\1* const \2 = reinterpret_cast<\1*>(on_cpu::dynamic_shared)", source
    )
    entries = []
    for name, types in kernels:
        arguments = ", ".join(f"*({ctype}*)arguments[{i}]" for i, ctype in enumerate(types))
        entries.append(
            f"static void body_{name}() {{ {name}({arguments}); }}\n"
            f'extern "C" __attribute__((visibility("default")))\n'
            f"int run_{name}(void** values, const unsigned* sizes, unsigned order,\n"
            "    const on_cpu::Region* regions, int count, char* text, size_t size)\n"
            "{\n"
            "    arguments = values;\n"
            f"    return on_cpu::guarded_launch(body_{name}, sizes, order, regions, count,\n"
            "                                  text, size);\n"
            "}\n"
        )
    return (
        f'#include "on_cpu.h"\nnamespace {{\n{source}\n}}\n#line 1 "entries"\n'
        "static void** arguments;\n" + "".join(entries)
    )
