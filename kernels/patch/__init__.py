"""Look at boxes of one image at a given size: shrunk without skipping pixels, no edge at the border.

Row i of an output OH high is the mean of k samples, spread evenly over its share of the box,

    v = y + (i + (s + 1/2)/k)·h/OH - 1/2,    s = 0 ... k-1,    k = max(1, floor(h/OH))

each the linear mixture of the two rows of pixel centres around v; columns likewise. So enlarging
and shrinking by less than two is bilinear interpolation, and shrinking by more averages over every
pixel. Outside of the image its border repeats: `kernels.crop`, which fades to zeros there, draws
an edge that is no part of the scene.
"""

from kernels.crop import _check_array, _check_boxes
from kernels.ladder import ladder
from kernels.window import pair


@ladder
def patch(x, boxes, size):
    """Boxes (N, 4) of x (H, W, C), x y w h in pixels, each at size (OH, OW): (N, OH, OW, C).

    x may be uint8, the result is float32 then. Raises ValueError for boxes that are not finite, or
    not wider and higher than zero.
    """
    _check_array("x", x, "(H, W, C)", 3)
    if x.dtype != "uint8" and x.dtype.kind != "f":
        raise TypeError(f"x must hold uint8 or floating point numbers, got {x.dtype}")
    _check_boxes(boxes, (1, *x.shape))
    return x, boxes, pair(size, "size")


# The rungs, from the formula upward.
from kernels.patch import formula, array, compiled  # noqa: E402, F401, I001
