"""Histograms of oriented gradients: which edges, in which direction, are in each cell of an image.

    Felzenszwalb, Girshick, McAllester, Ramanan: Object Detection with Discriminatively Trained
    Part-Based Models (PAMI 2010), section 6.1; 31 numbers a cell, after Dalal and Triggs (2005)

1. Gradient: g = (x[r, c+1] - x[r, c-1], x[r+1, c] - x[r-1, c]) of the channel where it is longest
   (the first of equals); the outermost pixels have none.
2. Direction: the nearest of 18, o = floor(9·angle/π + 1/2) mod 18, y pointing down.
3. Histogram h[i, j, o]: every pixel adds |g| to the four cells around it by nearness (bilinear).
4. Energy e[i, j] = Σ_{o<9} (h[o] + h[o+9])². A cell has four neighbourhoods of 2x2 cells (above or
   below, left or right; the outermost cells repeat beyond the border), and with each of them
   n = 1/√(e + e' + e'' + e''' + 1e-4). Then min(n·h, 0.2) is what counts:
5. channels 0..17: half the sum over the four n of min(n·h[o], 0.2), sensitive to contrast's sign;
   channels 18..26: the same of h[o] + h[o+9]; channels 27..30: for each n, Σ_o min(n·h[o], 0.2)/√18.
"""

from kernels.backend import is_array
from kernels.ladder import ladder
from kernels.window import pair

CHANNELS = 31


@ladder
def hog(x, cell=4):
    """HOG of images x (N, H, W, C), values 0 to 255: (N, H/cell, W/cell, 31).

    Raises ValueError where cell does not divide H and W.
    """
    check_images(x, cell)
    return x, pair(cell, "cell")[0]


def check_images(x, cell):
    """TypeError or ValueError unless x is (N, H, W, C) of floats and made of whole cells."""
    if not is_array(x):
        raise TypeError(
            f"x must be an array, got {type(x).__name__}; numpy.asarray makes it one"
        )
    if x.dtype.kind != "f":
        raise TypeError(f"x must hold floating point numbers, got {x.dtype}")
    if x.ndim != 4 or x.shape[3] < 1:
        raise ValueError(f"x must have 4 axes (N, H, W, C), C at least 1, got shape {x.shape}")
    cell = pair(cell, "cell")[0]
    if x.shape[1] % cell or x.shape[2] % cell or 0 in x.shape[1:3]:
        raise ValueError(
            f"images of {x.shape[1]} x {x.shape[2]} pixels are not whole cells of {cell} x {cell}"
        )


# The rungs, from the formula upward.
from kernels.hog import formula, array, compiled  # noqa: E402, F401, I001
