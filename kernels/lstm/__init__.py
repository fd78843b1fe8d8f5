"""Long short-term memory over a whole sequence (Hochreiter & Schmidhuber 1997, with the forget
gate of Gers et al. 2000; Keras's order of gates).

    i, f, o = σ(xi + h Ri), σ(xf + h Rf), σ(xo + h Ro)
    ĉ  = tanh(xc + h Rc)
    c' = f·c + i·ĉ
    h' = o·tanh(c')

xw (N, T, 4U) = [xi, xf, xc, xo] is the input projected already, x W + b. h0 and c0 (N, U) are the
states before the first step; R (U, 4U) holds the recurrent weights in the order i, f, c, o. Where
mask (N, T) is False both states are carried on unchanged. gate: see `kernels.recurrent`.
"""

from kernels import recurrent
from kernels.ladder import ladder


@ladder
def lstm(xw, h0, c0, R, mask=None, gate=None, keep=False):
    """All states (2, N, T, U), [0] is h and [1] is c. Raises ValueError for shapes that clash.

    keep: returns (states, gates), where gates (N, T, 4U) are i, f, ĉ and o after σ and tanh, zeros
    at masked steps: for `lstm_grad`, which computes them again otherwise.
    """
    gate = recurrent.check(
        gate, mask, h0=(h0, "NU"), c0=(c0, "NU"), xw=(xw, ("N", "T", "4U")), R=(R, ("U", "4U"))
    )
    return xw, h0, c0, R, mask, gate, bool(keep)


@ladder
def lstm_grad(g, states, xw, h0, c0, R, mask=None, gate=None, gates=None):
    """Gradients of Σ g·lstm(xw, h0, c0, R): returns (dxw, dh0, dc0, dR).

    g (2, N, T, U); states, and gates where they were kept, are what lstm returned.
    """
    gate = recurrent.check(
        gate,
        mask,
        h0=(h0, "NU"),
        c0=(c0, "NU"),
        xw=(xw, ("N", "T", "4U")),
        R=(R, ("U", "4U")),
        states=(states, (2, "N", "T", "U")),
        g=(g, (2, "N", "T", "U")),
        **({} if gates is None else {"gates": (gates, ("N", "T", "4U"))}),
    )
    return g, states, xw, h0, c0, R, mask, gate, gates


# The rungs, from the formula upward.
from kernels.lstm import formula, array, compiled, cuda_numba, cuda_raw  # noqa: E402, F401, I001
