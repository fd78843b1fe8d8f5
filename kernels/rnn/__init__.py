"""The plain recurrent cell over a whole sequence (Elman 1990; Keras's SimpleRNN).

    h_t = tanh(xw_t + h_{t-1} R)

xw (N, T, U) is the input projected already, x W + b: one matrix product for all steps, made
outside. h0 (N, U) is the state before the first step, R (U, U). Where mask (N, T) is False the
state is carried on unchanged, and is the output. gate: see `kernels.recurrent`.
"""

from kernels import recurrent
from kernels.ladder import ladder


@ladder
def rnn(xw, h0, R, mask=None, gate=None):
    """All states hs (N, T, U). Raises ValueError for shapes that do not fit together."""
    gate = recurrent.check(gate, mask, xw=(xw, "NTU"), h0=(h0, "NU"), R=(R, "UU"))
    return xw, h0, R, mask, gate


@ladder
def rnn_grad(g, hs, xw, h0, R, mask=None, gate=None):
    """Gradients of Σ g·rnn(xw, h0, R): returns (dxw, dh0, dR). hs is what rnn returned."""
    gate = recurrent.check(
        gate,
        mask,
        xw=(xw, "NTU"),
        h0=(h0, "NU"),
        R=(R, "UU"),
        hs=(hs, "NTU"),
        g=(g, "NTU"),
    )
    return g, hs, xw, h0, R, mask, gate


# The rungs, from the formula upward.
from kernels.rnn import formula, array, compiled, cuda_raw  # noqa: E402, F401, I001
