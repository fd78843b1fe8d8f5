"""Every linear op A: <A x, y> = <x, A'y>, with A'y from the way back; real part for complex."""

import numpy as np
import pytest

import kernels
import minideep
from minideep import ops
from minideep.ops import conv as conv_ops

RNG = np.random.default_rng(1)


def random(*shape, complex=False):
    a = RNG.standard_normal(shape)
    return a + 1j * RNG.standard_normal(shape) if complex else a


W, X = minideep.tensor(random(3, 2, 2, 6)), minideep.tensor(random(2, 7, 6, 4))
CONV = dict(stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2), groups=2)
Z = minideep.tensor(random(*ops.conv2d(X, W, **CONV).shape))
POOL = dict(size=(3, 2), stride=2, padding=(1, 0))
_, WINNERS = kernels.max_pool2d(X.data, **POOL, keep=True)
BOXES = minideep.tensor([[0.3, -0.4, 4.2, 5.1], [2.2, 1.7, 3.0, 6.6]], "float64")
DEPTHWISE = minideep.tensor(np.ones((3, 3, 1, 8)))

LINEAR = {
    "conv2d in x": (lambda x: ops.conv2d(x, W, **CONV), X.shape),
    "conv2d in w": (lambda w: ops.conv2d(X, w, **CONV), W.shape),
    "conv2d same": (lambda x: ops.conv2d(x, W, padding="same", stride=2, groups=2), X.shape),
    "depthwise": (lambda x: ops.conv2d(x, DEPTHWISE, groups=4, dilation=2), X.shape),
    "input_grad in z": (lambda z: conv_ops._conv2d_input_grad(z, W, x_shape=X.shape, **CONV), Z.shape),
    "input_grad in w": (lambda w: conv_ops._conv2d_input_grad(Z, w, x_shape=X.shape, **CONV), W.shape),
    "weight_grad in z": (lambda z: conv_ops._conv2d_weight_grad(z, X, w_shape=W.shape, **CONV), Z.shape),
    "weight_grad in x": (lambda x: conv_ops._conv2d_weight_grad(Z, x, w_shape=W.shape, **CONV), X.shape),
    "conv2d_transpose": (lambda z: ops.conv2d_transpose(z, W, stride=2, groups=2), (2, 3, 2, 6)),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, **POOL), X.shape),
    "avg_pool2d_grad": (lambda z: conv_ops._avg_pool2d_grad(z, x_shape=X.shape, **POOL),
                        ops.avg_pool2d(X, **POOL).shape),
    "max_pool2d_scatter": (lambda z: conv_ops._max_pool2d_scatter(
        z, winners=WINNERS, x_shape=X.shape, **POOL), WINNERS.shape),
    "max_pool2d_pick": (lambda u: conv_ops._max_pool2d_pick(u, winners=WINNERS, **POOL), X.shape),
    "global_avg_pool2d": (ops.global_avg_pool2d, X.shape),
    "crop": (lambda x: ops.crop(x, BOXES, (4, 3)), X.shape),
    "crop of one image": (lambda x: ops.crop(x, BOXES, 5), (1, 7, 6, 4)),
    "resize": (lambda x: ops.resize(x, (5, 9)), X.shape),
    "rfft2": (ops.rfft2, (2, 5, 6)),
    "rfft2 odd, other axes": (lambda x: ops.rfft2(x, axes=(2, 0)), (5, 4, 3)),
    "irfft2": (lambda x: ops.irfft2(x, shape=(5, 6)), (2, 5, 4), True),
    "irfft2 odd": (lambda x: ops.irfft2(x, shape=(4, 5)), (2, 4, 3), True),
    "pad": (lambda x: ops.pad(x, width=((1, 2), (0, 3))), (3, 4)),
    "getitem": (lambda x: x[[0, 2, 2], 1:], (3, 4)),
    "index_add": (lambda g: ops.index_add(g, index=[0, 2, 2], shape=(4, 2)), (3, 2)),
    "take": (lambda x: ops.take(x, minideep.tensor([[0, 1], [1, 1]]), 1), (3, 2)),
    "gather": (lambda x: ops.gather(x, minideep.tensor([[0, 1, 1], [1, 0, 1]]), 0), (2, 3)),
    "scatter": (lambda x: ops.scatter(x, minideep.tensor([[0, 1, 1], [1, 3, 1]]), 0, 4), (2, 3)),
    "broadcast_to": (lambda x: ops.broadcast_to(x, shape=(4, 3, 2)), (3, 1)),
    "sum_to": (lambda x: ops.sum_to(x, shape=(3, 1)), (4, 3, 2)),
    "transpose": (lambda x: ops.transpose(x, axes=(2, 0, -2)), (2, 3, 4)),
    "reshape": (lambda x: x.reshape(4, 3), (2, 6)),
    "flip": (lambda x: ops.flip(x, -1), (2, 3)),
    "concatenate": (lambda x: ops.concatenate([x, 2.0 * x], 1), (2, 3)),
    "stack": (lambda x: ops.stack([x, 2.0 * x], 1), (2, 3)),
    "split": (lambda x: ops.split(x, [1], 1)[1], (2, 3)),
    "sum": (lambda x: x.sum(axis=(0, -1)), (2, 3, 4)),
    "mean": (lambda x: x.mean(axis=1, keepdims=True), (2, 3)),
    "matmul": (lambda x: x @ random_matrix, (2, 5, 4), True),
    "einsum": (lambda x: ops.einsum("bij,jk->ki", x, random_matrix), (2, 5, 4), True),
    "product": (lambda x: x * (2 - 3j), (3,), True),
    "quotient": (lambda x: x / minideep.tensor(2 - 3j), (3,), True),
    "conj": (ops.conj, (3,), True),
    "real": (ops.real, (3,), True),
    "imag": (ops.imag, (3,), True),
}
random_matrix = minideep.tensor(random(4, 3, complex=True))


def inner(a, b):
    return np.vdot(a, b).real


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint(name):
    f, shape, *is_complex = LINEAR[name]
    x = minideep.tensor(random(*shape, complex=bool(is_complex)), requires_grad=True)
    ax = f(x)
    y = random(*ax.shape, complex=ax.dtype.kind == "c")
    back = minideep.grad(ax, x, minideep.tensor(y)).numpy()
    assert back.dtype == x.dtype
    np.testing.assert_allclose(inner(ax.numpy(), y), inner(x.numpy(), back), rtol=1e-10, atol=1e-10)
    # and it is linear, without which the identity says less
    z = random(*shape, complex=bool(is_complex))
    np.testing.assert_allclose(f(minideep.tensor(x.numpy() + 2 * z)).numpy(),
                               ax.numpy() + 2 * f(minideep.tensor(z)).numpy(), rtol=1e-9, atol=1e-9)
