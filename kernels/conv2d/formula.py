"""The sum itself, in plain Python loops: slow, obviously right, the oracle of every other rung.

The loops visit each product of L(g, x, w) once. An index that falls into the padding meets a zero
and is skipped.
"""

import numpy as np

from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad, output_shape
from kernels.ladder import rung


def literal_sum(x, w, b=0.0):
    """The sum as a textbook prints it: y[i,j] = Σ_k Σ_l x[k-i+1, l-j+1] w[k,l] + b.

    One channel: x (H, W), w (KH, KW), all indices counted from 1. Defined for those i, j that keep
    every x[k-i+1, l-j+1] inside the image: 1 - (H - KH) <= i <= 1, and j likewise. They grow as the
    window moves up and left, so that with p = 1 - i and q = 1 - j this is Σ x[k+p, l+q] w[k,l],
    what every library computes, with its outputs numbered backwards.

    Returns y (H-KH+1, W-KW+1) with i and j ascending, as printed.
    """
    (h, w_image), (kh, kw) = x.shape, w.shape
    y = np.zeros((h - kh + 1, w_image - kw + 1), x.dtype)
    for row, i in enumerate(range(1 - (h - kh), 2)):
        for column, j in enumerate(range(1 - (w_image - kw), 2)):
            total = b
            for k in range(1, kh + 1):
                for l in range(1, kw + 1):  # noqa: E741 - the text's own letters
                    total += x[k - i + 1 - 1, l - j + 1 - 1] * w[k - 1, l - 1]  # -1: from 0 here
            y[row, column] = total
    return y


@rung(conv2d, device="cpu", why="the sum itself in Python loops: to read and to test against")
def formula(x, w, stride, padding, dilation, groups):
    shape = output_shape(x.shape, w.shape, stride, padding, dilation, groups)
    y = np.zeros(shape, np.result_type(x, w))
    for at_y, at_x, at_w in _products(x.shape, w.shape, y.shape, stride, padding, dilation, groups):
        y[at_y] += x[at_x] * w[at_w]
    return y


@rung(conv2d_input_grad, device="cpu", why="the sum itself in Python loops")
def formula(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    dx = np.zeros(x_shape, np.result_type(g, w))
    for at_y, at_x, at_w in _products(x_shape, w.shape, g.shape, stride, padding, dilation, groups):
        dx[at_x] += g[at_y] * w[at_w]
    return dx


@rung(conv2d_weight_grad, device="cpu", why="the sum itself in Python loops")
def formula(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    dw = np.zeros(w_shape, np.result_type(g, x))
    for at_y, at_x, at_w in _products(x.shape, w_shape, g.shape, stride, padding, dilation, groups):
        dw[at_w] += g[at_y] * x[at_x]
    return dw


def _products(x_shape, w_shape, y_shape, stride, padding, dilation, groups):
    """Indices (of y, of x, of w) of every product in the sum."""
    images, height, width, _ = x_shape
    kh, kw, c_group, _ = w_shape
    _, oh, ow, outputs = y_shape
    for n in range(images):
        for i in range(oh):
            for j in range(ow):
                for k in range(kh):
                    for l in range(kw):  # noqa: E741
                        row = i * stride[0] + k * dilation[0] - padding[0][0]
                        column = j * stride[1] + l * dilation[1] - padding[1][0]
                        if not (0 <= row < height and 0 <= column < width):
                            continue
                        for o in range(outputs):
                            first = o // (outputs // groups) * c_group
                            for c in range(c_group):
                                yield (n, i, j, o), (n, row, column, first + c), (k, l, c, o)
