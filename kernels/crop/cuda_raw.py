"""One pass over memory, in CUDA C: only pixels that are looked at are read (crop.cu)."""

from kernels import cuda
from kernels.crop import crop, crop_box_grad, crop_image_grad
from kernels.ladder import rung

THREADS = 256  # as in crop.cu
ENOUGH_THREADS = 2**18  # to keep a large GPU busy
_cu = {width: cuda.module(__file__, "crop.cu", f"WIDTH {width}") for width in (1, 3, 4)}


@rung(crop, device="cuda", why="one kernel: four reads and a write for each number")
def cuda_raw(x, boxes, size):
    images, h, w, c = x.shape
    count, (oh, ow) = boxes.shape[0], size
    y = cuda.empty((count, *size, c), like=x, dtype="float32")
    width = _width(c, x, y)
    name = "crop" if x.dtype == "float32" else "crop_bytes"
    (across, down), block = _blocks(ow * c // width, oh)
    rows_each = max(1, min(8, y.size // width // ENOUGH_THREADS))
    grid = across, cuda.blocks(down, rows_each), min(count, 65535)
    _cu[width][name](grid, block, x, boxes, y, count, images == 1, h, w, c // width, *size)
    return y


@rung(crop_image_grad, device="cuda", why="every pixel gathers from the samples that look at it")
def cuda_raw(g, boxes, x_shape):  # noqa: F811
    images, h, w, c = x_shape
    dx = cuda.empty(x_shape, like=g)
    width, rows = _width(c, g, dx), images * h
    grid, block = _blocks(w * c // width, rows)
    numbers = rows, images == 1, boxes.shape[0], h, w, c // width, *g.shape[1:3]
    _cu[width]["crop_image_grad"](grid, block, g, boxes, dx, *numbers)
    return dx


@rung(crop_box_grad, device="cuda", why="one kernel, which keeps the sums of a box in one block")
def cuda_raw(g, x, boxes):  # noqa: F811
    images, *shape = x.shape
    d_boxes = cuda.empty(boxes.shape, like=boxes)
    numbers = images == 1, *shape, *g.shape[1:3]
    _cu[1]["crop_box_grad"](boxes.shape[0], THREADS, g, x, boxes, d_boxes, *numbers)
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


def _width(channels, *arrays):
    return 3 if channels == 3 else cuda.width(channels, *arrays)


def _blocks(columns, rows):
    """The grid and the block for that many threads across and down."""
    wide = min(128, 32 * cuda.blocks(max(columns, 1), 32))  # whole warps
    high = 128 // wide
    return (cuda.blocks(columns, wide), min(cuda.blocks(rows, high), 65535)), (wide, high)
