"""Arrays in, arrays out: every op from the textbook formula to the fastest code we have.

Knows nothing of gradients, layers or boxes. See `kernels.ladder` for how a rung is picked,
`python -m kernels` for all ladders, checked and timed on this machine.
"""

from kernels.conv2d import conv2d, conv2d_bias, conv2d_input_grad, conv2d_weight_grad
from kernels.crop import crop, crop_box_grad, crop_image_grad
from kernels.gram import gram
from kernels.gru import gru, gru_grad
from kernels.hog import hog
from kernels.lab import lab
from kernels.ladder import explain, ladders, use
from kernels.lstm import lstm, lstm_grad
from kernels.matmul import matmul
from kernels.normalization import moments, normalize, normalize_grad
from kernels.optimizer import adam
from kernels.patch import patch
from kernels.pool2d import (
    avg_pool2d,
    avg_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_pick,
)
from kernels.rectify import rectify_grad
from kernels.rnn import rnn, rnn_grad
from kernels.softmax import (
    log_softmax,
    log_softmax_grad,
    sigmoid_crossentropy,
    sigmoid_crossentropy_grad,
    softmax,
    softmax_crossentropy,
    softmax_crossentropy_grad,
    softmax_grad,
)

__all__ = [
    "adam",
    "avg_pool2d",
    "avg_pool2d_grad",
    "conv2d",
    "conv2d_bias",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "crop",
    "crop_box_grad",
    "crop_image_grad",
    "explain",
    "gram",
    "gru",
    "gru_grad",
    "hog",
    "lab",
    "ladders",
    "log_softmax",
    "log_softmax_grad",
    "lstm",
    "lstm_grad",
    "matmul",
    "max_pool2d",
    "max_pool2d_grad",
    "max_pool2d_pick",
    "moments",
    "normalize",
    "normalize_grad",
    "patch",
    "rectify_grad",
    "rnn",
    "rnn_grad",
    "sigmoid_crossentropy",
    "sigmoid_crossentropy_grad",
    "softmax",
    "softmax_crossentropy",
    "softmax_crossentropy_grad",
    "softmax_grad",
    "use",
]
