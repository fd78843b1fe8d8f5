"""Data sets and loaders: samples one by one, batches in a shuffled order, read ahead by a thread.

A data set is anything with `len(dataset)` and `dataset[i]`, which gives one sample: an array or a
number, or a tuple of them, as (x, y). Batches are NumPy arrays with the samples along axis 0; they
become tensors, on the model's device, where the model takes them in.
"""

import queue
import threading

import numpy as np

from minideep import random
from minideep.tensor import Tensor

__all__ = "ArrayDataset DataLoader".split()


class ArrayDataset:
    """Sample i is (arrays[0][i], arrays[1][i], ...); of a single array it is the bare arrays[0][i]."""

    def __init__(self, *arrays):
        self.arrays = [a.numpy() if isinstance(a, Tensor) else np.asarray(a) for a in arrays]
        lengths = [len(a) if a.ndim else None for a in self.arrays]
        if len(set(lengths)) != 1 or lengths[0] is None:
            raise ValueError("all arrays need one sample along axis 0 for each sample of the first; "
                             f"their shapes are {[a.shape for a in self.arrays]}")

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, i):
        """Sample i; or, i being an array of numbers, all of these at once."""
        samples = tuple(a[i] for a in self.arrays)
        return samples if len(samples) > 1 else samples[0]


class DataLoader:
    """Batches of a data set, one pass over it for each `for batch in loader`.

    shuffle: a new order each epoch. It comes from minideep.random (so `minideep.seed` and resumed
    training repeat it), or with `seed` from (seed, epoch) alone; epochs are counted in `.epoch`.
    drop_last: leave out a last batch that is not full. prefetch: batches that a thread reads ahead;
    with 0 there is no thread. An error in the data set is raised where the batch would have come.
    """

    def __init__(self, dataset, batch_size=32, shuffle=False, drop_last=False, prefetch=2, seed=None):
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}; it must be an integer, 1 at least")
        self.dataset, self.batch_size, self.shuffle = dataset, int(batch_size), shuffle
        self.drop_last, self.prefetch, self.seed, self.epoch = drop_last, prefetch, seed, 0

    def __len__(self):
        """Batches in one epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self):
        order = np.arange(len(self.dataset))
        if self.shuffle:
            rng = random.generator() if self.seed is None else np.random.default_rng(
                [self.seed, self.epoch])
            order = rng.permutation(order)
        self.epoch += 1
        batches = (self._batch(order[i * self.batch_size:(i + 1) * self.batch_size])
                   for i in range(len(self)))
        return _read_ahead(batches, self.prefetch) if self.prefetch else batches

    def _batch(self, indices):
        if isinstance(self.dataset, ArrayDataset):
            return self.dataset[indices]
        samples = [self.dataset[int(i)] for i in indices]
        if isinstance(samples[0], tuple):
            return tuple(np.stack(parts) for parts in zip(*samples))
        return np.stack(samples)


def _read_ahead(items, depth):
    """The same items, made by a thread up to `depth` ahead. The thread ends with the generator: at
    the last item, at an error, or when a loop over it is left early."""
    ready, stop = queue.Queue(depth), threading.Event()

    def put(*message):
        while not stop.is_set():
            try:
                return ready.put(message, timeout=0.05)
            except queue.Full:
                pass

    def work():
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:  # to be raised in the thread that waits for the item
            put("error", error)

    thread = threading.Thread(target=work, name="minideep-loader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join()
