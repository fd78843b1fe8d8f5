"""Cut boxes out of images and resize them, bilinearly.

A box is x, y, w, h in pixels, 0-based, top-left: pixel k covers [k, k+1) and its value sits in its
centre. Column j of an output OW wide looks at the centre of its share of the box, which lies at

    u_j = x + (j + 1/2)·w/OW - 1/2

counted in pixel centres, and mixes the columns floor(u_j) and floor(u_j) + 1 by their nearness;
rows likewise. Outside of the image lie zeros. The box (0, 0, W, H) and size (H, W) give the image
itself; other sizes resize it (Keras's and OpenCV's rule, "half-pixel centres", except at the
border, which fades to the zeros outside).
"""

from kernels.backend import array_module, is_array
from kernels.ladder import ladder
from kernels.window import pair


@ladder
def crop(x, boxes, size):
    """Crop x (N, H, W, C) to boxes (N, 4), each resized to size (OH, OW): (N, OH, OW, C).

    A single image (N = 1) serves any number of boxes. x may be uint8, the result is float32 then.
    Raises ValueError for boxes that are not finite, or not wider and higher than zero.
    """
    _check_array("x", x, "(N, H, W, C)", 4)
    if x.dtype != "uint8" and x.dtype.kind != "f":
        raise TypeError(f"x must hold uint8 or floating point numbers, got {x.dtype}")
    _check_boxes(boxes, x.shape)
    return x, boxes, pair(size, "size")


@ladder
def crop_image_grad(g, boxes, x_shape):
    """Gradient of Σ g·crop(x, boxes) with respect to x: returns an array of shape x_shape."""
    x_shape = tuple(int(n) for n in x_shape)
    _check_boxes(boxes, x_shape)
    _check_gradient(g, boxes, x_shape)
    return g, boxes, x_shape


@ladder
def crop_box_grad(g, x, boxes):
    """Gradient of Σ g·crop(x, boxes) with respect to the boxes: returns (N, 4).

    Where a sample falls on a pixel's centre exactly, crop has a kink; this is the slope on the
    side of larger u.
    """
    _check_array("x", x, "(N, H, W, C)", 4)
    _check_boxes(boxes, x.shape)
    _check_gradient(g, boxes, x.shape)
    return g, x, boxes


def _check_array(name, value, axes, ndim):
    if not is_array(value):
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}; numpy.asarray makes it one"
        )
    if value.ndim != ndim:
        raise ValueError(f"{name} must have axes {axes}, got shape {value.shape}")


def _check_boxes(boxes, x_shape):
    _check_array("boxes", boxes, "(N, 4)", 2)
    if boxes.shape[1] != 4 or x_shape[0] not in (1, boxes.shape[0]):
        raise ValueError(
            f"boxes must have shape (N, 4) for N = {x_shape[0]} images, got {boxes.shape}"
        )
    if boxes.dtype.kind != "f":
        raise TypeError(f"boxes must hold floating point numbers, got {boxes.dtype}")
    if boxes.shape[0] and min(x_shape[1:3]) < 1:
        raise ValueError(f"cannot crop from an image without pixels, shape {x_shape}")
    xp = array_module(boxes)
    if not boxes.size or xp.isfinite(boxes).all() and boxes[:, 2:].min() > 0:
        return
    wrong = ~(xp.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1))
    first = int(xp.argmax(wrong))
    values = ", ".join(f"{float(value):g}" for value in boxes[first])
    raise ValueError(
        f"box {first} is ({values}); a box must be finite numbers x, y, w, h with w, h > 0"
    )


def _check_gradient(g, boxes, x_shape):
    _check_array("g", g, "(N, OH, OW, C)", 4)
    if g.shape[0] != boxes.shape[0] or g.shape[3] != x_shape[3]:
        raise ValueError(
            f"g must have shape ({boxes.shape[0]}, OH, OW, {x_shape[3]}), got {g.shape}"
        )


# The rungs, from the formula upward.
from kernels.crop import formula, array, separable, compiled, cuda_raw  # noqa: E402, F401, I001
