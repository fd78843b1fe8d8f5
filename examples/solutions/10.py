"""Solutions of lesson 10."""

import numpy as np


def saving(m, r):
    """m²r² / (m + r − 1)², which tends to r²."""
    return m * m * r * r / (m + r - 1) ** 2


def tile_2x2(x, w):
    """x (4, 4), w (3, 3) -> (2, 2). Points 0, 1, −1, ∞; the halves are moved from Bᵀ to G."""
    AT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    BT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    return AT @ ((G @ w @ G.T) * (BT @ x @ BT.T)) @ AT.T
