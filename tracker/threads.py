"""One thread for BLAS while a tracker works.

A tracker's matrices are small. OpenBLAS shares them among its threads all the same, and these then
wait for the next product without sleeping, on the cores that the kernels' threads need: on two cores
a frame took up to twice as long.
"""
import functools


@functools.lru_cache(maxsize=1)
def _controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()       # of the libraries loaded by now: NumPy's, SciPy's, OpenCV's


def blas_on_one_thread(function):
    """Decorator: BLAS has one thread while the function runs, and then as many as before."""
    @functools.wraps(function)
    def limited(*args, **kwargs):
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)
    return limited
