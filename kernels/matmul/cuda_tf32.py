"""The product on tensor cores, in TF32: a convolution with a kernel of 1x1 (kernels.conv2d.cuda_tf32).

Each row of `a` is a pixel of K channels. Off unless asked for by `kernels.use(matmul="cuda_tf32")` or
MINIDEEP_KERNELS: factors keep about 3 decimal digits. A product whose K or N is no multiple of 4 (that of
Dense(1), say) is refused then, not done by another rung: that is what forcing a rung means.
"""

from kernels.conv2d import conv2d
from kernels.conv2d.cuda_raw import TILE_N
from kernels.conv2d.cuda_tf32 import WHY, wanted
from kernels.ladder import rung
from kernels.matmul import matmul

WIDEST = 65535 * TILE_N  # a grid's second axis


@rung(matmul, device="cuda", why=WHY)
def cuda_tf32(a, b):
    y = conv2d.rungs["cuda_tf32"](*_pixels(a, b), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    return y.reshape(a.shape[0], b.shape[1])


@cuda_tf32.needs
def _(a, b):
    if b.shape[0] % 4 or b.shape[1] % 4 or b.shape[1] > WIDEST:
        return f"K and N in multiples of 4, N {WIDEST} at most"
    return wanted(matmul, (1, 1, *b.shape), 1, a, b)


def _pixels(a, b):
    (m, k), n = a.shape, b.shape[1]
    return a.reshape(m, 1, 1, k), b.reshape(1, 1, k, n)
