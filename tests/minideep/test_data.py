"""Data sets and loaders: every sample once, seeded orders, read-ahead threads that end."""

import threading
import time

import numpy as np
import pytest

import minideep
from minideep.data import ArrayDataset, DataLoader


class Squares:
    """A data set of one's own, which counts what was asked of it."""

    def __init__(self, n, fail_at=None):
        self.n, self.fail_at, self.asked = n, fail_at, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.asked.append(i)
        if i == self.fail_at:
            raise KeyError(f"sample {i} is broken")
        return np.full(2, i), i * i


def _threads():
    return [t for t in threading.enumerate() if t.name == "minideep-loader"]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("n, batch_size, drop_last, sizes", [
    (10, 4, False, [4, 4, 2]), (10, 4, True, [4, 4]), (8, 4, True, [4, 4]), (0, 4, False, []),
    (3, 5, False, [3]), (3, 5, True, [])])
def test_batches(n, batch_size, drop_last, sizes, prefetch):
    for dataset in (Squares(n), ArrayDataset(np.repeat(np.arange(n), 2).reshape(n, 2),
                                             np.arange(n) ** 2)):
        loader = DataLoader(dataset, batch_size, drop_last=drop_last, prefetch=prefetch)
        assert len(loader) == len(sizes)
        batches = list(loader)
        assert [len(x) for x, _ in batches] == sizes
        seen = [int(v) for x, y in batches for v in x[:, 1]]
        assert seen == list(range(sum(sizes)))
        assert all((y == x[:, 0] ** 2).all() and x.shape[1:] == (2,) for x, y in batches)
    assert not _threads()


def test_shuffling_is_seeded_and_different_each_epoch():
    def epochs(loader, n):
        return [[int(v) for batch in loader for v in batch] for _ in range(n)]

    data = ArrayDataset(np.arange(50))
    first = epochs(DataLoader(data, 8, shuffle=True, seed=3), 3)
    assert all(sorted(e) == list(range(50)) for e in first)
    assert first[0] != first[1] != first[2] and first[0] != list(range(50))
    assert epochs(DataLoader(data, 8, shuffle=True, seed=3, prefetch=0), 3) == first
    assert epochs(DataLoader(data, 8, shuffle=True, seed=4), 1)[0] != first[0]
    again = DataLoader(data, 8, shuffle=True, seed=3)
    again.epoch = 2
    assert epochs(again, 1)[0] == first[2]
    minideep.seed(5)
    one = epochs(DataLoader(data, 8, shuffle=True), 2)
    minideep.seed(5)
    assert epochs(DataLoader(data, 8, shuffle=True), 2) == one and one[0] != one[1]


def test_an_error_in_the_data_set_is_raised_where_its_batch_would_come():
    loader = DataLoader(Squares(20, fail_at=9), batch_size=4, prefetch=4)
    got = []
    with pytest.raises(KeyError, match="sample 9 is broken") as error:
        for x, _ in loader:
            got.append(len(x))
    assert got == [4, 4] and not _threads()
    assert any(entry.name == "__getitem__" for entry in error.traceback)


@pytest.mark.parametrize("prefetch", [1, 4])
def test_leaving_a_loop_early_ends_the_thread(prefetch):
    dataset = Squares(1000)
    for _ in DataLoader(dataset, 2, prefetch=prefetch):
        break
    assert not _threads()
    asked = len(dataset.asked)
    assert asked <= 2 * (prefetch + 3)  # it read ahead no further than allowed
    iter(DataLoader(dataset, 2, prefetch=prefetch))  # never asked for a batch
    assert not _threads() and len(dataset.asked) == asked


def test_reading_ahead_happens_during_the_work():
    class Slow(Squares):
        def __getitem__(self, i):
            time.sleep(0.02)
            return super().__getitem__(i)

    dataset, waiting = Slow(8), []
    for number, _ in enumerate(DataLoader(dataset, 1, prefetch=2)):
        if number == 0:
            deadline = time.time() + 5
            while len(dataset.asked) < 3 and time.time() < deadline:
                time.sleep(0.005)
            waiting.append(len(dataset.asked))
    assert waiting[0] >= 3


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\(3, 2\), \(4,\)"):
        ArrayDataset(np.zeros((3, 2)), np.zeros(4))
    with pytest.raises(ValueError, match="batch_size=0"):
        DataLoader(ArrayDataset(np.zeros(3)), 0)
