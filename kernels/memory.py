"""Arrays on memory that was used before.

A fresh page of memory is zeroed by the operating system when it is first touched. For arrays of
some MB that takes longer than the arithmetic which fills them, and a training step makes the same
ones again and again. `empty` hands out the memory of an array that is gone.

No two arrays share memory: the `base` of an array made here is a _Lease, which the array and all
its views keep alive; its block is free once the lease has died, not before. And nothing is hoarded:
before new memory is asked for, free blocks are given up as long as all blocks together, in use and
free, are more than 128 MiB plus 3/2 of the most that was ever in use at once.
"""

import collections
import math
import threading

import numpy as np

SMALL = 2**20  # bytes; below, NumPy's allocator reuses memory by itself
SLACK = 2**27  # bytes: those 128 MiB
LINE = 64  # bytes of a cache line, where every array begins

_lock = threading.Lock()
_free = collections.OrderedDict()  # id(block) -> block, the longest unused first
_returned = collections.deque()  # blocks of leases that died, at any time and in any thread
_bytes = {"in use": 0, "free": 0, "most in use": 0}


def empty(shape, dtype=np.float32):
    """What numpy.empty(shape, dtype) makes, at the beginning of a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        block = _Block(size)
        return np.ndarray(shape, dtype, block.memory, block.start)
    return np.asarray(_Lease(_take(size), shape, dtype))


def release():
    """Give all free blocks back to the operating system."""
    with _lock:
        _collect()
        _free.clear()
        _bytes["free"] = 0


class _Block:
    """Memory, and where the first line of it begins that is whole."""

    def __init__(self, size):
        self.size = size
        self.memory = np.empty(size + LINE, np.uint8)
        address = self.memory.ctypes.data
        self.start = -address % LINE
        self.address = address + self.start


class _Lease:
    """The right to a block of memory, in NumPy's array protocol. Ends with its last array."""

    def __init__(self, block, shape, dtype):
        self.block = block
        self.__array_interface__ = {
            "version": 3,
            "data": (block.address, False),
            "shape": tuple(shape),
            "typestr": dtype.str,
        }

    def __del__(self, give_back=_returned.append):
        give_back(self.block)


def _take(size):
    with _lock:
        _collect()
        block = next((b for b in reversed(_free.values()) if b.size == size), None)
        if block is not None:
            del _free[id(block)]
            _bytes["free"] -= size
        in_use = _bytes["in use"] + size
        most = max(_bytes["most in use"], in_use) * 3 // 2 + SLACK
        while _free and in_use + _bytes["free"] > most:
            _bytes["free"] -= _free.popitem(last=False)[1].size
    block = block or _Block(size)  # where there is no memory, nothing is counted
    with _lock:
        _bytes["in use"] += size
        _bytes["most in use"] = max(_bytes["most in use"], _bytes["in use"])
    return block


def _collect():
    while _returned:
        block = _returned.popleft()
        _free[id(block)] = block
        _bytes["free"] += block.size
        _bytes["in use"] -= block.size
