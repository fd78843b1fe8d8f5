"""By the Fourier transform: a sum over KH·KW numbers becomes one product per frequency.

Correlation theorem: with transforms over a period P x Q that holds the padded image,

    Y = X · conj(W),        dX = G · W,        dW = Σ_n conj(G) · X,

each summed over what the contraction sums over, a small matrix product per frequency. Transforms
cost (C + O)·PQ·log PQ, whatever the kernel's size; the products C·O·PQ, where the sum itself has
C·O·PQ·KH·KW. So it wins with large kernels, and with few channels, whose matrices cost little.

Images are transformed some at a time, so that beside the kernel's transform at most BYTES (or one
image's) are in use. Error, relative to the largest result: 1e-6 in float32, 1e-15 in float64; unlike
a sum's it is the same for small results as for large ones.
"""

from math import log2, prod

import numpy as np

from kernels.backend import array_module
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.conv2d.im2col import crop, pad, padded_shape
from kernels.ladder import rung

BYTES = 2**24  # of transformed images
KERNEL_BYTES = 2**27  # of the transformed kernel
TRANSFORM, PRODUCT = 16, 50  # multiplications of `direct` in the measured time of one of these


@rung(conv2d, device="any", why="large kernel: a product per frequency, not one per tap")
def fft(x, w, stride, padding, dilation, groups):
    xp, dtype, period, taps = _setting(x, w, x.shape, w.shape, padding, dilation)
    spectrum = _kernel(xp, w.astype(dtype, copy=False), period, dilation, groups).conj()
    n, (oh, ow) = len(x), _outputs(x.shape, taps, padding)
    y = xp.empty((n, oh, ow, w.shape[3]), dtype)
    for some in _images(n, period, x.shape[3] + w.shape[3], dtype):
        image = _forward(xp, pad(xp, x[some].astype(dtype, copy=False), padding), period)
        # (P, Q, G, n, C/G) @ (P, Q, G, C/G, O/G)
        product = xp.matmul(_by_frequency(image, groups), spectrum)
        y[some] = _backward(xp, _by_image(product), period)[:, :oh, :ow]
    return y


@rung(conv2d_input_grad, device="any", why="large kernel: a product per frequency")
def fft(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    xp, dtype, period, _ = _setting(g, w, x_shape, w.shape, padding, dilation)
    spectrum = _kernel(xp, w.astype(dtype, copy=False), period, dilation, groups)
    spectrum = spectrum.transpose(0, 1, 2, 4, 3)  # (P, Q, G, O/G, C/G)
    dx = xp.empty(x_shape, dtype)
    for some in _images(len(g), period, x_shape[3] + w.shape[3], dtype):
        gradient = _forward(xp, g[some].astype(dtype, copy=False), period)
        product = xp.matmul(_by_frequency(gradient, groups), spectrum)
        dx[some] = crop(_backward(xp, _by_image(product), period), x_shape, padding)
    return dx


@rung(conv2d_weight_grad, device="any", why="large kernel: a product per frequency")
def fft(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    xp, dtype, period, taps = _setting(g, x, x.shape, w_shape, padding, dilation)
    total = 0
    for some in _images(len(g), period, x.shape[3] + w_shape[3], dtype):
        image = _forward(xp, pad(xp, x[some].astype(dtype, copy=False), padding), period)
        gradient = _forward(xp, g[some].astype(dtype, copy=False), period).conj()
        image = _by_frequency(image, groups).transpose(0, 1, 2, 4, 3)  # (P, Q, G, C/G, n)
        total = total + xp.matmul(image, _by_frequency(gradient, groups))
    if len(g) == 0:
        return xp.zeros(w_shape, dtype)
    p, q, groups, c, o = total.shape
    total = total.transpose(3, 0, 1, 2, 4).reshape(c, p, q, groups * o)
    dw = _backward(xp, total, period)[:, : taps[0] : dilation[0], : taps[1] : dilation[1]]
    return xp.ascontiguousarray(dw.transpose(1, 2, 0, 3))


def _setting(one, two, x_shape, w_shape, padding, dilation):
    """(array module, dtype, period, size of the dilated kernel)"""
    xp = array_module(one, two)
    taps = [(k - 1) * d + 1 for k, d in zip(w_shape, dilation)]
    period = [_good_length(size) for size in padded_shape(x_shape, padding)[1:3]]
    return xp, xp.result_type(one.dtype, two.dtype), period, taps


def _outputs(x_shape, taps, padding):
    return [s - t + 1 for s, t in zip(padded_shape(x_shape, padding)[1:3], taps)]


def _good_length(size):
    """The next length with no prime factor above 5: its transform is quick."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _transforms(xp):
    """SciPy's on the CPU: they are several times faster than NumPy's."""
    if xp is np:
        import scipy.fft

        return scipy.fft
    return xp.fft


def _forward(xp, image, period):
    """(n, H, W, C) -> (n, P, Q/2 + 1, C)"""
    return _transforms(xp).rfft2(image, period, axes=(1, 2))


def _backward(xp, spectrum, period):
    return _transforms(xp).irfft2(spectrum, period, axes=(1, 2))


def _kernel(xp, w, period, dilation, groups):
    """(KH, KW, C/G, O) -> (P, Q/2 + 1, G, C/G, O/G)"""
    kh, kw, c, o = w.shape
    spread = xp.zeros((1, (kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1, c * o), w.dtype)
    spread[0, :: dilation[0], :: dilation[1]] = w.reshape(kh, kw, c * o)
    spectrum = _forward(xp, spread, period)[0]
    return spectrum.reshape(*spectrum.shape[:2], c, groups, o // groups).transpose(0, 1, 3, 2, 4)


def _by_frequency(spectrum, groups):
    """(n, P, Q, C) -> (P, Q, G, n, C/G)"""
    n, p, q, c = spectrum.shape
    return spectrum.reshape(n, p, q, groups, c // groups).transpose(1, 2, 3, 0, 4)


def _by_image(product):
    """(P, Q, G, n, C/G) -> (n, P, Q, C)"""
    p, q, groups, n, c = product.shape
    return product.transpose(3, 0, 1, 2, 4).reshape(n, p, q, groups * c)


def _images(n, period, channels, dtype):
    """Slices of the batch whose transforms take BYTES, or one image."""
    some = max(BYTES // (prod(period) * max(channels, 1) * dtype.itemsize), 1)
    return [slice(first, min(first + some, n)) for first in range(0, n, some)]


@fft.needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    return _refusal(g, x, x.shape, w_shape, w_shape[3], stride, padding, dilation, groups)


@conv2d_input_grad.rungs["fft"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    return _refusal(g, w, x_shape, w.shape, w.shape[2], stride, padding, dilation, groups)


@conv2d.rungs["fft"].needs
def _(x, w, stride, padding, dilation, groups):
    return _refusal(x, w, x.shape, w.shape, w.shape[3], stride, padding, dilation, groups)


def _refusal(one, two, x_shape, w_shape, columns, stride, padding, dilation, groups):
    kh, kw, c, o = w_shape
    if kh * kw < 49:
        return f"{kh}x{kw} kernel: the transforms cost more than the sum (from 7x7 on)"
    if stride != (1, 1):
        return "stride 1 only: with others most of what it computes were thrown away"
    if 0 in (c, o):
        return "no channels"
    xp, dtype, period, taps = _setting(one, two, x_shape, w_shape, padding, dilation)
    if dtype.kind != "f" or dtype.itemsize < 4 or not hasattr(xp, "fft"):
        return f"no real Fourier transform of {dtype} in {xp.__name__}"
    taken = prod(period) * c * o * dtype.itemsize
    if taken > KERNEL_BYTES:
        return f"the kernel's transform would take {taken >> 20} MiB, more than {KERNEL_BYTES >> 20}"
    n, oh, ow = x_shape[0], *_outputs(x_shape, taps, padding)
    # a tile of `direct` has 16 columns, whether they are used or not
    other = c * groups * o // columns if groups == 1 else c * o
    sums = n * oh * ow * kh * kw * other * (-(-columns // 16) * 16 if groups == 1 else 1)
    transforms = prod(period) * log2(prod(period)) * (n * (c * groups + o) + c * o)
    products = prod(period) * c * o * n
    if sums < TRANSFORM * transforms + PRODUCT * products:
        return "for these sizes the sum itself was measured to be faster"
    return True
