"""One pass over memory, in CUDA C: only pixels that are looked at are read (crop.cu)."""

from kernels import cuda
from kernels.crop import crop, crop_box_grad, crop_image_grad
from kernels.ladder import rung

THREADS = 256  # as in crop.cu
_cu = cuda.module(__file__, "crop.cu")


@rung(crop, device="cuda", why="one kernel: four reads and a write for each number")
def cuda_raw(x, boxes, size):
    images, height, width, channels = x.shape
    y = cuda.empty((boxes.shape[0], *size, channels), like=x, dtype="float32")
    name = "crop" if x.dtype == "float32" else "crop_bytes"
    grid = cuda.blocks(y.size, THREADS)
    _cu[name](grid, THREADS, x, boxes, y, y.size, images == 1, height, width, channels, *size)
    return y


@rung(crop_image_grad, device="cuda", why="every pixel gathers from the samples that look at it")
def cuda_raw(g, boxes, x_shape):  # noqa: F811
    images, *shape = x_shape
    dx = cuda.empty(x_shape, like=g)
    grid = cuda.blocks(dx.size, THREADS)
    numbers = dx.size, images == 1, boxes.shape[0], *shape, *g.shape[1:3]
    _cu["crop_image_grad"](grid, THREADS, g, boxes, dx, *numbers)
    return dx


@rung(crop_box_grad, device="cuda", why="one kernel, which keeps the sums of a box in one block")
def cuda_raw(g, x, boxes):  # noqa: F811
    images, *shape = x.shape
    d_boxes = cuda.empty(boxes.shape, like=boxes)
    numbers = images == 1, *shape, *g.shape[1:3]
    _cu["crop_box_grad"](boxes.shape[0], THREADS, g, x, boxes, d_boxes, *numbers)
    return d_boxes


@crop.rungs["cuda_raw"].needs
def _(x, boxes, size):
    return cuda.usable(boxes) if x.dtype == "uint8" else cuda.usable(x, boxes)


@crop_image_grad.rungs["cuda_raw"].needs
def _(g, boxes, x_shape):
    return cuda.usable(g, boxes)


@cuda_raw.needs
def _(g, x, boxes):
    return cuda.usable(g, x, boxes)
