"""Arrays next to memory that must not be touched: an index out of bounds ends the process.

Used in a process of its own (`python guard_pages.py MODULE FUNCTION`), since what it finds is a
segmentation fault.
"""

import contextlib
import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
CONVOLUTIONS = "direct", "winograd", "scatter"  # rungs that test_kernels_direct lays beside them


def guarded(array, at_end=True):
    """A copy of the array that ends (or begins) at a page that can be neither read nor written."""
    if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
        return guarded(array.T, at_end).T
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages + 1):
        address = ctypes.c_void_p(start + page * PAGE)
        if ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError("mprotect failed")
    first = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, first).reshape(array.shape)
    copy[...] = array
    return copy


class GuardedNumPy:
    """NumPy, but with guarded arrays from `empty` and `zeros`: to put in place of a module's np."""

    def __init__(self, at_end):
        self.at_end = at_end

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=float):
        return guarded(np.full(shape, 77, dtype), self.at_end)

    def zeros(self, shape, dtype=float):
        return guarded(np.zeros(shape, dtype), self.at_end)


@contextlib.contextmanager
def guarded_modules(*modules, at_end=True):
    """While it lasts, what these modules allocate is guarded. Their compiled functions must have run
    before: Numba cannot compile what is put in the place of NumPy."""
    guarded_numpy = GuardedNumPy(at_end)
    old = [(module, name, getattr(module, name))
           for module in modules for name in ("np", "empty", "workspace") if hasattr(module, name)]
    own = {"np": guarded_numpy,  # the others: kernels.memory's, kernels.microkernel's
           "empty": lambda shape, dtype=np.float32: guarded_numpy.empty(shape, dtype),
           "workspace": lambda name, size: guarded_numpy.empty(size, np.float32)}
    for module, name, _ in old:
        setattr(module, name, own[name])
    try:
        yield
    finally:
        for module, name, value in old:
            setattr(module, name, value)
