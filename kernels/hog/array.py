"""All pixels at once: differences, a count with weights, and sums over shifted cells.

The histograms are one `bincount`: each pixel's share goes to the number of its image, cell and
direction. Runs on NumPy and CuPy.
"""

from kernels.backend import array_module
from kernels.hog import hog
from kernels.ladder import rung


@rung(hog, device="any", why="whole arrays: one weighted count makes all histograms")
def array(x, cell):
    xp = array_module(x)
    n, height, width, _ = x.shape
    rows, columns = height // cell, width // cell
    gx, gy = xp.zeros((2, *x.shape), x.dtype)
    gx[:, 1:-1, 1:-1] = x[:, 1:-1, 2:] - x[:, 1:-1, :-2]
    gy[:, 1:-1, 1:-1] = x[:, 2:, 1:-1] - x[:, :-2, 1:-1]
    longest = xp.argmax(gx * gx + gy * gy, axis=3)[..., None]
    gx, gy = (xp.take_along_axis(g, longest, axis=3)[..., 0] for g in (gx, gy))     # (N, H, W)
    direction = xp.floor(xp.arctan2(gy, gx) / xp.pi * 9 + 0.5).astype("int64") % 18
    length = xp.sqrt(gx * gx + gy * gy)

    # Cells are numbered from -1 to rows, so that what falls outside has a place too.
    h = xp.zeros(n * (rows + 2) * (columns + 2) * 18, x.dtype)
    image = xp.arange(n)[:, None, None]
    v, u = ((xp.arange(size) + 0.5) / cell + 0.5 for size in (height, width))
    for i, near_i in _nearest(xp, v):
        for j, near_j in _nearest(xp, u):
            at = (image * (rows + 2) + i[:, None]) * (columns + 2) + j              # (N, H, W)
            share = length * near_i[:, None] * near_j
            h += xp.bincount((at * 18 + direction).ravel(), share.ravel(), h.size)
    h = h.reshape(n, rows + 2, columns + 2, 18)[:, 1:-1, 1:-1]                      # (N, R, C, 18)

    both = h[..., :9] + h[..., 9:]                                                  # (N, R, C, 9)
    e = xp.pad((both * both).sum(axis=3), ((0, 0), (1, 1), (1, 1)), "edge")
    e = e[:, :-1] + e[:, 1:]
    e = e[:, :, :-1] + e[:, :, 1:]                                      # (N, R+1, C+1): 2x2 sums
    signed, unsigned, texture = 0, 0, []
    for down in (0, 1):
        for right in (0, 1):
            near = e[:, down:rows + down, right:columns + right, None]
            norm = 1 / xp.sqrt(near + 1e-4)
            clipped = xp.minimum(norm * h, 0.2)
            signed = signed + clipped
            unsigned = unsigned + xp.minimum(norm * both, 0.2)
            texture.append(clipped.sum(axis=3, keepdims=True) / 18 ** 0.5)
    return xp.concatenate([signed / 2, unsigned / 2, *texture], axis=3).astype(x.dtype)


def _nearest(xp, v):
    """The cells on both sides of each position, and how near they are."""
    low = xp.floor(v)
    return ((low.astype("int64"), low + 1 - v), (low.astype("int64") + 1, v - low))
