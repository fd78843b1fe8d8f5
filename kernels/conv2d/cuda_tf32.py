"""Convolution on tensor cores, in TF32: conv2d.cu with the macro TENSOR_CORES.

The factors are rounded to 10 bits of mantissa, sums stay float32: about 3 decimal digits, many times
as fast. Off unless asked for by `kernels.use(conv2d="cuda_tf32")` or MINIDEEP_KERNELS.
"""

from kernels import cuda
from kernels.conv2d import conv2d, conv2d_input_grad, conv2d_weight_grad
from kernels.conv2d.cuda_raw import input_grad, is_narrow, output, suffix, usable, weight_grad
from kernels.ladder import choice, rung

_cu = cuda.module(__file__, "conv2d.cu", "TENSOR_CORES")
WHY = "tensor cores multiply 16 x 8 by 8 x 8 at once, to 3 digits"


@rung(conv2d, device="cuda", why=WHY)
def cuda_tf32(x, w, stride, padding, dilation, groups):
    return output(_cu, x, w, stride, padding, dilation, groups)


@rung(conv2d_input_grad, device="cuda", why=WHY)
def cuda_tf32(g, w, x_shape, stride, padding, dilation, groups):  # noqa: F811
    return input_grad(_cu, g, w, x_shape, stride, padding, dilation, groups)


@rung(conv2d_weight_grad, device="cuda", why=WHY)
def cuda_tf32(g, x, w_shape, stride, padding, dilation, groups):  # noqa: F811
    return weight_grad(_cu, g, x, w_shape, stride, padding, dilation, groups)


@conv2d.rungs["cuda_tf32"].needs
def _(x, w, stride, padding, dilation, groups):
    return wanted(conv2d, w.shape, groups, x, w)


@conv2d_input_grad.rungs["cuda_tf32"].needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    return wanted(conv2d_input_grad, w.shape, groups, g, w)


@conv2d_weight_grad.rungs["cuda_tf32"].needs
def _(g, x, w_shape, stride, padding, dilation, groups):
    return wanted(conv2d_weight_grad, w_shape, groups, g, x)


def wanted(op, w_shape, groups, *arrays):
    """True where the rung "cuda_tf32" of `op` was asked for and can run, or the reason why not."""
    if choice(op.name) != "cuda_tf32":
        return f"keeps 3 digits only: ask for it with kernels.use({op.name}='cuda_tf32')"
    if is_narrow(w_shape, groups) or not suffix(w_shape, groups):
        return "channels in multiples of 4, and 8 or more of them where there are groups"
    return usable(w_shape, groups, *arrays)
