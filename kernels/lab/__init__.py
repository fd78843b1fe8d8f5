"""The colour of each cell of an image in CIE L*a*b*, where equal distances look about equal.

The mean of a cell's pixels, BGR in sRGB's encoding, 0 to 255, is converted (IEC 61966-2-1, white
D65; CIE 15:2004):

    linear c = (s/12.92 where s <= .04045, else ((s + .055)/1.055)^2.4),    s = mean/255
    X, Y, Z  = linear (R, G, B) through sRGB's matrix, each over the white's
    f(t)     = ∛t where t > (6/29)³, else t/(3·(6/29)²) + 4/29
    L = 116·f(Y) - 16,    a = 500·(f(X) - f(Y)),    b = 200·(f(Y) - f(Z))

and scaled to be of the size of other features: L/100 - 1/2, a/255, b/255.
"""

import numpy as np

from kernels.hog import check_images
from kernels.ladder import ladder
from kernels.window import pair

# Rows X, Y, Z over the white's; columns B, G, R.
MATRIX = np.array([[0.180423, 0.357580, 0.412453],
                   [0.072169, 0.715160, 0.212671],
                   [0.950227, 0.119193, 0.019334]])
MATRIX /= MATRIX.sum(1, keepdims=True)


@ladder
def lab(x, cell=4):
    """Cells' mean colours of images x (N, H, W, 3) BGR, 0 to 255: (N, H/cell, W/cell, 3).

    Raises ValueError where cell does not divide H and W.
    """
    check_images(x, cell)
    if x.shape[3] != 3:
        raise ValueError(f"x must have three channels, blue, green, red, got shape {x.shape}")
    return x, pair(cell, "cell")[0]


# The rungs, from the formula upward.
from kernels.lab import formula, array, compiled  # noqa: E402, F401, I001
