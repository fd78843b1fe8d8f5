"""The gated recurrent unit over a whole sequence (Cho et al. 2014, in the form that Keras calls
reset_after=True and cuDNN computes).

    z  = σ(xz + h Rz + bz)            how much of the old state stays
    r  = σ(xr + h Rr + br)            how much of it the candidate sees
    ĥ  = tanh(xh + r·(h Rh + bh))
    h' = z·h + (1 - z)·ĥ

xw (N, T, 3U) = [xz, xr, xh] is the input projected already, x W + b. h0 (N, U) is the state before
the first step; R (U, 3U) and rb (3U,) hold the recurrent weights and biases in the order z, r, h.
Where mask (N, T) is False the state is carried on unchanged, and is the output. gate: see
`kernels.recurrent`.
"""

from kernels import recurrent
from kernels.ladder import ladder


@ladder
def gru(xw, h0, R, rb, mask=None, gate=None):
    """All states hs (N, T, U). Raises ValueError for shapes that do not fit together."""
    gate = recurrent.check(
        gate, mask, h0=(h0, "NU"), xw=(xw, ("N", "T", "3U")), R=(R, ("U", "3U")), rb=(rb, ("3U",))
    )
    return xw, h0, R, rb, mask, gate


@ladder
def gru_grad(g, hs, xw, h0, R, rb, mask=None, gate=None):
    """Gradients of Σ g·gru(xw, h0, R, rb): returns (dxw, dh0, dR, drb). hs is what gru returned."""
    gate = recurrent.check(
        gate,
        mask,
        h0=(h0, "NU"),
        xw=(xw, ("N", "T", "3U")),
        R=(R, ("U", "3U")),
        rb=(rb, ("3U",)),
        hs=(hs, "NTU"),
        g=(g, "NTU"),
    )
    return g, hs, xw, h0, R, rb, mask, gate


# The rungs, from the formula upward.
from kernels.gru import formula, array, compiled, cuda_raw  # noqa: E402, F401, I001
