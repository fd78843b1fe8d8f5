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
import itertools
import math
import threading

import numpy as np

SMALL = 2**12  # bytes; below, NumPy's allocator reuses memory by itself
SLACK = 2**27  # bytes: those 128 MiB
LINE = 64  # bytes of a cache line, where every array begins

_lock = threading.Lock()
_free = {}  # size -> blocks of it, the longest unused first
_returned = collections.deque()  # blocks of leases that died, at any time and in any thread
_bytes = {"in use": 0, "free": 0, "most in use": 0}
_returns = itertools.count()


def empty(shape, dtype=np.float32):
    """What numpy.empty(shape, dtype) makes, at the beginning of a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        block = _Block(size)
        return np.ndarray(shape, dtype, block.memory, block.start)
    block = _take(size)
    lease = _Lease(shape, dtype, block.memory, block.start)
    lease.block = block
    return lease.view(np.ndarray)


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
        self.memory = _Memory(size + LINE, np.uint8)
        self.start = -self.memory.ctypes.data % LINE
        self.returned = 0  # the how manieth return of a block its last one was


class _Memory(np.ndarray):
    """Not np.ndarray: the base of an array would be that at once, and not the lease between."""


class _Lease(np.ndarray):
    """The right to a block of memory. Ends with the last array that is a view of it."""

    __slots__ = "block"

    def __del__(self, give_back=_returned.append):
        give_back(self.block)


def _take(size):
    with _lock:
        if _returned:
            _collect()
        if _free.get(size):
            block = _free[size].pop()
            _bytes["free"] -= size
        else:
            _make_room(size)
            block = _Block(size)  # where there is no memory, nothing is counted
        _bytes["in use"] += size
        if _bytes["in use"] > _bytes["most in use"]:
            _bytes["most in use"] = _bytes["in use"]
    return block


def _collect():
    while _returned:
        block = _returned.popleft()
        block.returned = next(_returns)
        _free.setdefault(block.size, []).append(block)
        _bytes["free"] += block.size
        _bytes["in use"] -= block.size


def _make_room(size):
    """Give up free blocks, the longest unused first, until another one of that size fits."""
    in_use = _bytes["in use"] + size
    most = max(_bytes["most in use"], in_use) * 3 // 2 + SLACK
    while _bytes["free"] and in_use + _bytes["free"] > most:
        oldest = min(filter(None, _free.values()), key=lambda blocks: blocks[0].returned)
        _bytes["free"] -= oldest.pop(0).size
