"""Arrays in, arrays out: every op from the textbook formula to the fastest code we have.

Knows nothing of gradients, layers or boxes. See `kernels.ladder` for how a rung is picked,
`python -m kernels` for all ladders, checked and timed on this machine.
"""

from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.ladder import explain, ladders, use

__all__ = [
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "explain",
    "ladders",
    "use",
]
