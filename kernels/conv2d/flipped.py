"""For stride 1 the transposed convolution is itself a convolution, with the kernel turned around.

    dx[n,a,b,c] = Σ_k Σ_l Σ_o g[n, a + p - k·d, b + p - l·d, o] · w[k,l,c,o]

With k' = KH-1-k the index of g grows with k' again, and the im2col rung can do the work: it
gathers patches, where col2im would add to the same pixel KH·KW times. It unfolds g, with O
channels, where col2im unfolds dx, with C: with many more outputs than inputs, col2im wins.
"""

from kernels.backend import array_module
from kernels.conv2d import conv2d, conv2d_input_grad
from kernels.ladder import rung


@rung(conv2d_input_grad, device="any", why="gathers patches of g, instead of scattered additions")
def flipped(g, w, x_shape, stride, padding, dilation, groups):
    xp = array_module(g, w)
    kh, kw, c_group, o = w.shape
    w = w.reshape(kh, kw, c_group, groups, o // groups)[::-1, ::-1]
    w = xp.ascontiguousarray(w.transpose(0, 1, 4, 3, 2))  # (KH, KW, O/G, G, C/G)
    w = w.reshape(kh, kw, o // groups, groups * c_group)
    border = []
    for axis, (kernel, d, (before, after)) in enumerate(zip((kh, kw), dilation, padding), 1):
        reach = (kernel - 1) * d
        before, after = reach - before, reach - after
        cut = [slice(None)] * 4  # where x was padded by more than its reach, g is cut
        cut[axis] = slice(max(-before, 0), g.shape[axis] - max(-after, 0))
        g = g[tuple(cut)]
        border.append((max(before, 0), max(after, 0)))
    return conv2d.rungs["im2col"](g, w, (1, 1), tuple(border), dilation, groups)


@flipped.needs
def _(g, w, x_shape, stride, padding, dilation, groups):
    if stride != (1, 1):
        return "stride 1 only"
    outputs, inputs = w.shape[3] // groups, w.shape[2]
    return outputs <= 4 * inputs or "more than 4 times as many outputs as inputs"
