"""A correlation filter as an op: fitted on one map of features, run over another, differentiable.

    r = filter_response(template, search, label, penalty, mask)         # (N, H, W)

The filter f is the one that answers `label` on the template, by ridge regression: it minimises
‖Σc x_c * f_c - y‖² + λ‖f‖², * being circular convolution. In the Fourier domain (capitals), where
each frequency is on its own, with D = Σc |X_c|² + λ it is

    F_c = conj(X_c)·Y / D                   r = F⁻¹ Σc Z_c·F_c              (no mask)

(Bolme et al. 2010; Henriques et al. 2015; with many channels Kiani Galoogahi et al. 2013.) Such a
filter is as large as the map and learns the surroundings by heart. The mask m cuts it off, as the
tracker's own filter is: h_c = m·f_c is run over z, and the features must do with the target alone.
The gradients go through the fit itself (Valmadre et al., CFNet, 2017; Wang et al., DCFNet, 2017).
"""
from __future__ import annotations

import numpy as np
import scipy.fft

from kernels.backend import array_module
from minideep import ops
from minideep.autograd import op
from minideep.mode import grad_enabled
from minideep.ops import irfft2, rfft2
from minideep.recompute import vjp_by_recomputing
from minideep.tensor import Tensor

AXES = (1, 2)       # of maps (N, H, W, C) and (N, H, W)


def filter_response(template, search, label, penalty, mask=None):
    """What a filter, fitted on each template, answers over its search map: (N, H, W).

    template, search (N, H, W, C): features, faded out by a window at the edges; label (N, H, W) or
    (H, W): what the filter should say on the template, its peak at [0, 0]; penalty (N,): λ, above 0
    in units of Σ|x|²; mask (N, H, W) or None: what of the filter is kept. Where the target in the
    search map is off by (i, j) cells, the answer peaks at [i, j], counted round the edges.

    All but the mask are differentiated, to any order. Raises ValueError for other shapes."""
    n, h, w, _ = template.shape
    good = (search.shape == template.shape and label.shape in ((h, w), (n, h, w))
            and penalty.shape == (n,) and (mask is None or mask.shape == (n, h, w)))
    if not good:
        shapes = [None if a is None else a.shape for a in (search, label, penalty, mask)]
        raise ValueError(f"a template of {template.shape} (N, H, W, C) wants search maps of the same "
                         "shape, labels (N, H, W) or (H, W), penalties (N,) and masks (N, H, W) or "
                         f"None; got {shapes}")
    mask = None if mask is None else array_module(template.data).asarray(mask)
    return _filter_response(template, search, label, penalty, mask=mask, kept={})


@op
def _filter_response(x, z, label, penalty, *, mask, kept):
    """r = F⁻¹ Σc Z_c·H_c, H_c the filter's transform, masked; kept: of use on the way back."""
    X, Z, Y = _forward(x), _forward(z), _forward(label.reshape(-1, *x.shape[1:3], 1))
    energy = (X.real ** 2 + X.imag ** 2).sum(-1, keepdims=True)         # (N, H, W/2+1, 1)
    D = energy + penalty[:, None, None, None]
    A = Y / D
    H = X.conj() * A                                                    # (N, H, W/2+1, C)
    if mask is not None:
        H = _forward(mask[..., None] * _back(H, x.shape))
    kept.update(X=X, Z=Z, A=A, D=D, H=H)
    return _back((Z * H).sum(-1), x.shape)


@_filter_response.joint_vjp
def _filter_response_vjp(g, y, x, z, label, penalty, mask, kept):
    """With G = F(g), P_c the transform of the gradient with respect to f_c, A = Y/D and
    q = Re(A·conj(Σc P_c·X_c) / D):

        ∂z_c = F⁻¹(G·conj(H_c))         P_c = F(m·F⁻¹(G·conj(Z_c))), without mask G·conj(Z_c)
        ∂x_c = F⁻¹(conj(P_c)·A - 2·q·X_c)
        ∂y   = F⁻¹(Σc P_c·X_c / D)      ∂λ = -(1/HW)·Σ q
    """
    if grad_enabled():
        return vjp_by_recomputing(lambda *a: _response_in_ops(*a, mask), (x, z, label, penalty),
                                  g)[0]
    X, Z, A, D, H = (kept[name] for name in "XZADH")
    G = _forward(g.data)[..., None]                                     # (N, H, W/2+1, 1)
    dz = _back(G * H.conj(), x.shape)
    P = G * Z.conj()
    if mask is not None:
        P = _forward(mask[..., None] * _back(P, x.shape))
    PX = (P * X).sum(-1, keepdims=True) / D
    q = (A * PX.conj()).real
    dx = _back(P.conj() * A - (2 * q) * X, x.shape)
    dlabel = _back(PX[..., 0], x.shape)                                 # (N, H, W)
    dlabel = dlabel if label.ndim == 3 else dlabel.sum(0)
    twice = array_module(q).full(q.shape[2], 2, q.dtype)    # how often the half plane stands for
    twice[0] = 1                                            # each of the whole plane's frequencies
    if x.shape[2] % 2 == 0:
        twice[-1] = 1
    dpenalty = -(q[..., 0] * twice).sum((1, 2)) / (x.shape[1] * x.shape[2])
    return [Tensor(a) for a in (dx, dz, dlabel, dpenalty)]


def _forward(x):
    # SciPy's transform takes many lines at once, three times as fast as NumPy's
    fft = scipy.fft if isinstance(x, np.ndarray) else array_module(x).fft
    return fft.rfft2(x, axes=AXES)


def _back(x, shape):
    fft = scipy.fft if isinstance(x, np.ndarray) else array_module(x).fft
    return fft.irfft2(x, s=shape[1:3], axes=AXES)


def _response_in_ops(x, z, y, penalty, mask):
    """The same, op by op: gives the second derivatives, and the tests hold the fused op to it."""
    n, h, w, _ = x.shape
    X, Z = rfft2(x, axes=AXES), rfft2(z, axes=AXES)
    Y = rfft2(y.reshape(-1, h, w, 1), axes=AXES)
    D = (ops.real(X) ** 2 + ops.imag(X) ** 2).sum(axis=-1, keepdims=True)
    H = ops.conj(X) * (Y / (D + penalty.reshape(n, 1, 1, 1)))
    if mask is not None:
        f = irfft2(H, shape=(h, w), axes=AXES)
        H = rfft2(f * Tensor(mask[..., None]), axes=AXES)
    return irfft2((Z * H).sum(axis=-1), shape=(h, w), axes=AXES)
