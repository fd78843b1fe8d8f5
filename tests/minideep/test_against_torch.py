"""300 random configurations against PyTorch: values and gradients, to 1e-9 in float64 and 1e-4 of
the largest number in float32."""

import numpy as np
import pytest

import minideep
from minideep import losses, ops, optimizers

torch = pytest.importorskip("torch")
F = torch.nn.functional
torch.set_num_threads(1)


def to_torch(a):
    return torch.tensor(np.ascontiguousarray(a), requires_grad=a.dtype.kind == "f")


def compare(ours, theirs, arrays, dtype, seed):
    """ours(*tensors) and theirs(*torch tensors), in one layout, and their gradients."""
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
    xs = [minideep.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    ts = [to_torch(a) for a in arrays]
    y, t = ours(*xs), theirs(*ts)
    assert y.shape == tuple(t.shape) and y.dtype == dtype
    g = np.random.default_rng(seed).standard_normal(y.shape).astype(dtype)
    y.backward(g)
    t.backward(torch.tensor(g))
    pairs = [(y.numpy(), t.detach().numpy())]
    pairs += [(x.grad.numpy(), b.grad.numpy()) for x, b in zip(xs, ts) if x.requires_grad]
    for a, b in pairs:
        tolerance = (1e-9 if dtype == "float64" else 1e-4) * max(1.0, np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["where", "clip", "maximum", "minimum"])
def test_an_infinite_gradient_into_a_branch_not_taken(name):
    """Zero, not 0 * inf = NaN."""
    ours = {"where": lambda x: ops.where(x > 0, x, 0.0), "clip": lambda x: ops.clip(x, low=0.0),
            "maximum": lambda x: ops.maximum(x, 0.0), "minimum": lambda x: -ops.minimum(-x, 0.0)}
    theirs = {"where": lambda x: torch.where(x > 0, x, 0.0), "clip": lambda x: x.clamp(min=0.0),
              "maximum": lambda x: torch.maximum(x, torch.zeros(2)),
              "minimum": lambda x: -torch.minimum(-x, torch.zeros(2))}
    x = minideep.tensor([-1.0, 4.0], requires_grad=True)
    t = torch.tensor([-1.0, 4.0], requires_grad=True)
    with np.errstate(divide="ignore"):
        ops.sqrt(ours[name](x)).sum().backward()
    torch.sqrt(theirs[name](t)).sum().backward()
    assert x.grad.numpy().tolist() == t.grad.tolist() == [0.0, 0.25]


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def oihw(w):
    return w.permute(3, 2, 0, 1)


def drawn(seed):
    rng = np.random.default_rng(seed)
    return rng, ("float32" if seed % 4 == 3 else "float64"), lambda *s: rng.standard_normal(s)


@pytest.mark.parametrize("seed", range(60))
def test_conv2d(seed):
    rng, dtype, normal = drawn(seed)
    groups, (kh, kw) = int(rng.choice([1, 1, 2, 4])), rng.integers(1, 4, 2)
    stride, dilation = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(2))
    padding = tuple(map(int, rng.integers(0, 3, 2)))
    h, w = (kh - 1) * dilation[0] + rng.integers(1, 6), (kw - 1) * dilation[1] + rng.integers(1, 6)
    c, o = int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    compare(lambda x, k, b: ops.conv2d(x, k, b, **options),
            lambda x, k, b: nhwc(F.conv2d(nchw(x), oihw(k), b, **options)),
            [normal(rng.integers(1, 4), h, w, c * groups), normal(kh, kw, c, o), normal(o)],
            dtype, seed)


@pytest.mark.parametrize("seed", range(40))
def test_conv2d_transpose(seed):
    rng, dtype, normal = drawn(seed)
    groups, (kh, kw) = int(rng.choice([1, 2])), rng.integers(2, 4, 2)
    stride, dilation = (tuple(map(int, rng.integers(1, 3, 2))) for _ in range(2))
    padding, extra = int(rng.integers(0, 2)), [int(rng.integers(0, s)) for s in stride]
    c, o, (h, w) = int(rng.integers(1, 3)), groups * int(rng.integers(1, 3)), rng.integers(2, 5, 2)
    size = [int((n - 1) * s - 2 * padding + d * (k - 1) + 1 + e) for n, s, d, k, e in
            zip((h, w), stride, dilation, (kh, kw), extra)]
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    compare(lambda z, k, b: ops.conv2d_transpose(z, k, b, output_size=size, **options),
            lambda z, k, b: nhwc(F.conv_transpose2d(
                nchw(z), oihw(k).contiguous(), b, output_padding=extra, **options)),
            [normal(2, h, w, o), normal(kh, kw, c, o), normal(c * groups)], dtype, seed)


@pytest.mark.parametrize("seed", range(40))
def test_pooling(seed):
    rng, dtype, normal = drawn(seed)
    size, stride = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(2))
    padding = tuple(int(rng.integers(0, s // 2 + 1)) for s in size)
    x = [normal(2, size[0] + rng.integers(0, 5), size[1] + rng.integers(0, 5), 3)]
    if seed % 2:
        compare(lambda x: ops.max_pool2d(x, size, stride, padding),
                lambda x: nhwc(F.max_pool2d(nchw(x), size, stride, padding)), x, dtype, seed)
    else:
        compare(lambda x: ops.avg_pool2d(x, size, stride, padding),
                lambda x: nhwc(F.avg_pool2d(nchw(x), size, stride, padding,
                                            count_include_pad=False)), x, dtype, seed)


def turned(a, order, units):
    """The gates along the last axis of a torch tensor, in PyTorch's order."""
    return torch.cat([a[..., i * units:(i + 1) * units] for i in order], -1)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("seed", range(20))
def test_recurrent(kind, seed):
    rng, dtype, normal = drawn(seed)
    n, t, d, u = (int(v) for v in rng.integers(1, 6, 4))
    gates, order = dict(rnn=(1, [0]), lstm=(4, [0, 1, 2, 3]), gru=(3, [1, 0, 2]))[kind]
    states = [normal(n, u) for _ in range(2 if kind == "lstm" else 1)]
    arrays = [normal(n, t, d), normal(d, gates * u), normal(gates * u), normal(u, gates * u),
              normal(gates * u), *states]

    def ours(x, w, b, r, rb, h, c=None):
        xw = x @ w + b
        if kind == "gru":
            return ops.gru(xw, h, r, rb)
        if kind == "rnn":
            return ops.rnn(xw + rb, h, r)
        return ops.concatenate(ops.lstm(xw + rb, h, c, r)[:1])

    def theirs(x, w, b, r, rb, h, c=None):
        cell = getattr(torch.nn, kind.upper())(d, u, batch_first=True, dtype=x.dtype)
        names = ["weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0"]
        weights = dict(zip(names, [turned(v, order, u).T if v.ndim > 1 else turned(v, order, u)
                                   for v in (w, b, r, rb)]))
        state = h[None] if c is None else (h[None], c[None])
        return torch.func.functional_call(cell, weights, (x, state))[0]

    compare(ours, theirs, arrays, dtype, seed)


def one_hot(rng, n, k):
    return np.eye(k)[rng.integers(0, k, n)]


LOSSES = {
    "mse": (lambda y, p: losses.mean_squared_error(y, p),
            lambda y, p: F.mse_loss(p, y, reduction="none").mean(-1)),
    "mae": (lambda y, p: losses.mean_absolute_error(y, p),
            lambda y, p: F.l1_loss(p, y, reduction="none").mean(-1)),
    "huber": (lambda y, p: losses.huber(y, p, delta=0.7),
              lambda y, p: F.huber_loss(p, y, reduction="none", delta=0.7).mean(-1)),
    "smooth_l1": (lambda y, p: losses.smooth_l1(y, p, beta=0.7),
                  lambda y, p: F.smooth_l1_loss(p, y, reduction="none", beta=0.7).mean(-1)),
    "binary": (lambda y, p: losses.binary_crossentropy(y, p, from_logits=True),
               lambda y, p: F.binary_cross_entropy_with_logits(p, y, reduction="none").mean(-1)),
    "categorical": (lambda y, p: losses.categorical_crossentropy(y, p, from_logits=True),
                    lambda y, p: F.cross_entropy(p, y, reduction="none")),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(8))
def test_losses(name, seed):
    rng, dtype, normal = drawn(seed)
    ours, theirs = LOSSES[name]
    y = one_hot(rng, 5, 4) if name in ("binary", "categorical") else normal(5, 4)
    y = y.astype(dtype)
    compare(lambda p: ours(minideep.tensor(y), p), lambda p: theirs(torch.tensor(y), p),
            [3 * normal(5, 4)], dtype, seed)


OPTIMIZERS = {
    "sgd": (lambda r: optimizers.SGD(r), lambda p, r: torch.optim.SGD(p, r)),
    "momentum": (lambda r: optimizers.SGD(r, momentum=0.9),
                 lambda p, r: torch.optim.SGD(p, r, momentum=0.9)),
    "nesterov": (lambda r: optimizers.SGD(r, momentum=0.8, nesterov=True),
                 lambda p, r: torch.optim.SGD(p, r, momentum=0.8, nesterov=True)),
    "adam": (lambda r: optimizers.Adam(r, epsilon=1e-12),
             lambda p, r: torch.optim.Adam(p, r, eps=1e-12)),
    "adamw": (lambda r: optimizers.AdamW(r, weight_decay=0.1, epsilon=1e-12),
              lambda p, r: torch.optim.AdamW(p, r, weight_decay=0.1, eps=1e-12)),
    "rmsprop": (lambda r: optimizers.RMSprop(r, rho=0.9, epsilon=1e-14),
                lambda p, r: torch.optim.RMSprop(p, r, alpha=0.9, eps=1e-12)),
    "clipped": (lambda r: optimizers.SGD(r, global_clipnorm=0.5), "clip"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("seed", range(8))
def test_optimizers(name, seed):
    rng, _, normal = drawn(seed)
    ours, theirs = OPTIMIZERS[name]
    start, target, rate = [normal(3, 2), normal(2)], normal(2), float(rng.uniform(0.001, 0.1))
    ws = [minideep.tensor(a, requires_grad=True) for a in start]
    ts = [to_torch(a) for a in start]
    one = ours(rate)
    other = torch.optim.SGD(ts, rate) if theirs == "clip" else theirs(ts, rate)
    x = normal(4, 3)
    for _ in range(10):
        (((minideep.tensor(x) @ ws[0] + ws[1]) - minideep.tensor(target)) ** 2).sum().backward()
        one.step(ws)
        other.zero_grad()
        (((torch.tensor(x) @ ts[0] + ts[1]) - torch.tensor(target)) ** 2).sum().backward()
        if theirs == "clip":
            torch.nn.utils.clip_grad_norm_(ts, 0.5)
        other.step()
    for w, t in zip(ws, ts):
        np.testing.assert_allclose(w.numpy(), t.detach().numpy(), rtol=1e-5, atol=1e-5)
