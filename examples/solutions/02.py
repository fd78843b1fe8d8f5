"""Solutions of lesson 02."""

import numpy as np


def output_size(n, k, stride=1, padding=0, dilation=1):
    """Windows that fit: the last one begins at n + 2·padding - (dilation·(k - 1) + 1)."""
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def shift_and_add(x, w):
    """Σ over the taps of a shifted x times its (C, O) matrix. Nothing is copied: the products
    themselves are large enough (C terms each) to run at full speed."""
    (kh, kw), (h, width) = w.shape[:2], x.shape[:2]
    rows, columns = h - kh + 1, width - kw + 1
    y = np.zeros((rows, columns, w.shape[3]))
    for k in range(kh):
        for l in range(kw):
            y += x[k:k + rows, l:l + columns] @ w[k, l]
    return y
