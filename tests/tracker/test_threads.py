"""BLAS is left with the threads that it had."""

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tracker.threads import blas_on_one_thread


def counts():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_one_thread_inside_and_as_many_as_before_outside():
    @blas_on_one_thread
    def inside(fail):
        if fail:
            raise KeyError
        return counts()

    with threadpool_limits(2, user_api="blas"):
        before = counts()
        assert inside(False) == [1] * len(before)
        assert counts() == before
        with pytest.raises(KeyError):
            inside(True)
        assert counts() == before
