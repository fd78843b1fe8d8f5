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
import os
import threading

import numpy as np

SMALL = 2**12  # bytes; below, NumPy's allocator reuses memory by itself
SLACK = 2**27  # bytes: those 128 MiB
LINE = 64  # bytes of a cache line, where every array begins

_lock = threading.Lock()  # never waited for by `empty`
_free = collections.OrderedDict()  # id(block) -> block, the longest unused first
_by_size = {}  # size -> its free blocks, the longest unused first
_returned = collections.deque()  # blocks of leases that died, at any time and in any thread
_bytes = {"in use": 0, "free": 0, "most in use": 0}


def empty(shape, dtype=np.float32):
    """What numpy.empty(shape, dtype) makes, at the beginning of a cache line.

    For results, and for what Python reads or writes before it is done with it. What only one call of
    compiled code touches may lie in a `kernels.microkernel.workspace`, which costs less.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        block = _Block(size)
        return np.ndarray(shape, dtype, block.memory, block.start)
    block = _take(size)
    try:
        lease = _Lease(shape, dtype, block.memory, block.start)
    except ValueError:  # more axes than NumPy has
        _returned.append(block)
        raise
    lease.block = block
    return lease.view(np.ndarray)


def release():
    """Give all free blocks back to the operating system.

    Those of `kernels.microkernel.workspace`, 16 MiB each at most, are in use while their thread lives.
    """
    with _lock:
        _collect()
        _free.clear()
        _by_size.clear()
        _bytes["free"] = 0


class _Block:
    """Memory, and where the first line of it begins that is whole."""

    def __init__(self, size):
        self.size, self.counted = size, False  # among the bytes in use?
        self.memory = _Memory(size + LINE, np.uint8)
        self.start = -self.memory.ctypes.data % LINE


class _Memory(np.ndarray):
    """Not np.ndarray: the base of an array would be that at once, and not the lease between."""


class _Lease(np.ndarray):
    """The right to a block of memory. Ends with the last array that is a view of it."""

    __slots__ = "block"

    def __del__(self, give_back=_returned.append):
        block = getattr(self, "block", None)  # a view of a lease is none
        if block is not None:
            give_back(block)


def _take(size):
    if not _lock.acquire(blocking=False):  # another thread is at it, or what a signal interrupted
        return _Block(size)
    try:
        _collect()
        block = _pop(size)
        if block is None:
            _make_room(size)
            block = _Block(size)  # where there is no memory, nothing is counted
        block.counted = True
        _bytes["in use"] += size
        if _bytes["in use"] > _bytes["most in use"]:
            _bytes["most in use"] = _bytes["in use"]
    finally:
        _lock.release()
    return block


def _collect():
    while _returned:
        block = _returned.popleft()
        _free[id(block)] = block
        _by_size.setdefault(block.size, []).append(block)
        _bytes["free"] += block.size
        if block.counted:
            _bytes["in use"] -= block.size


def _pop(size, which=-1):
    """Of the free blocks of that size the one unused for the shortest time (0: the longest)."""
    blocks = _by_size.get(size)
    if blocks is None:
        return None
    block = blocks.pop(which)
    if not blocks:
        del _by_size[size]
    del _free[id(block)]
    _bytes["free"] -= size
    return block


def _make_room(size):
    """Give up free blocks, the longest unused first, until another one of that size fits."""
    in_use = _bytes["in use"] + size
    most = max(_bytes["most in use"], in_use) * 3 // 2 + SLACK
    while _free and in_use + _bytes["free"] > most:
        _pop(next(iter(_free.values())).size, 0)


def _after_fork():
    """A thread that was here does not exist in the child, to go away."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
