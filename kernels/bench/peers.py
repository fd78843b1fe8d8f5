"""The same sums by PyTorch: op -> function(*args) that returns {layout: what to time}.

PyTorch keeps images as NCHW, or in the same memory order as ours ("channels_last"); both are
timed. Gradients are its own functions for them (torch.ops.aten), or torch.autograd.grad in a graph
that is kept: what the way forward has saved is there already. Ops without an entry (hog, lab) have
no counterpart. What computes more, or in another way, than our op says so in its name: a layer of
PyTorch's normalises by moments that it finds itself, and its recurrent layers project their input,
so that here the steps are one by one (the rows named "api" have whole layers).
"""

import importlib.util

PEERS = {}


def torch_here():
    """Whether PyTorch is installed; it is imported only where it is timed."""
    return importlib.util.find_spec("torch") is not None


def contestants(name, args):
    """{"torch ...": function} for the arguments of op `name`, NumPy arrays or CuPy's; none where this
    PyTorch cannot compute with them."""
    if name not in PEERS or not torch_here():
        return {}
    import torch

    if any(hasattr(a, "__cuda_array_interface__") for a in args) and not torch.cuda.is_available():
        return {}  # a wheel for the CPU
    tensors = [torch.as_tensor(a) if hasattr(a, "dtype") else a for a in args]
    functions = PEERS[name](torch, *tensors)
    if callable(functions):
        functions = {"torch": functions}
    return functions


def peer(*names):
    def add(function):
        for name in names:
            PEERS[name] = lambda torch, *args, n=name: function(torch, n, *args)
        return function

    return add


def images(torch, *tensors):
    """{layout: the tensors} from tensors (N, H, W, C)."""
    formats = {"torch NCHW": torch.contiguous_format, "torch channels_last": torch.channels_last}
    return {
        name: [t.permute(0, 3, 1, 2).contiguous(memory_format=kind) for t in tensors]
        for name, kind in formats.items()
    }


def kernel(w, like):
    """A kernel (KH, KW, C, O) as (O, C, KH, KW), in the memory order of `like`."""
    import torch

    last = not like.is_contiguous() and like.shape[1] > 1
    kind = torch.channels_last if last else torch.contiguous_format
    return w.permute(3, 2, 0, 1).contiguous(memory_format=kind)


@peer("conv2d")
def _(torch, name, x, w, stride, padding, dilation, groups):
    def run(x, w):
        return lambda: torch.nn.functional.conv2d(
            x, w, None, stride, [p for p, _ in padding], dilation, groups
        )

    return {layout: run(x, kernel(w, x)) for layout, (x,) in images(torch, x).items()}


@peer("conv2d_input_grad")
def _(torch, name, g, w, x_shape, *rest):
    return _conv2d_backward(torch, g, g.new_zeros(x_shape), w, [True, False, False], *rest)


@peer("conv2d_weight_grad")
def _(torch, name, g, x, w_shape, *rest):
    return _conv2d_backward(torch, g, x, x.new_zeros(w_shape), [False, True, False], *rest)


def _conv2d_backward(torch, g, x, w, mask, stride, padding, dilation, groups):
    def run(g, x, w):
        pad = [p for p, _ in padding]
        return lambda: torch.ops.aten.convolution_backward(
            g, x, w, None, stride, pad, dilation, False, [0, 0], groups, mask
        )

    return {layout: run(g, x, kernel(w, x)) for layout, (g, x) in images(torch, g, x).items()}


@peer("max_pool2d", "avg_pool2d")
def _(torch, name, x, size, stride, padding, keep=False):
    function = getattr(torch.nn.functional, name)
    return {k: lambda x=x: function(x, size, stride) for k, (x,) in images(torch, x).items()}


@peer("max_pool2d_grad")
def _(torch, name, g, winners, x_shape, *geometry):
    def run(g, x, places):
        size, stride, padding = geometry
        return lambda: torch.ops.aten.max_pool2d_with_indices_backward(
            g, x, size, stride, [p for p, _ in padding], [1, 1], False, places)

    tensors = g, g.new_zeros(x_shape), _places(torch, winners, x_shape[2], *geometry)
    return {layout: run(*three) for layout, three in images(torch, *tensors).items()}


@peer("max_pool2d_pick")
def _(torch, name, u, winners, *geometry):
    places = _places(torch, winners, u.shape[2], *geometry)
    return {layout: lambda u=u, at=at: u.flatten(2).gather(2, at.flatten(2)).view(at.shape)
            for layout, (u, at) in images(torch, u, places).items()}


def _places(torch, winners, width, size, stride, padding):
    """The numbers, row by row, of the pixels that `winners` (N, OH, OW, C) tell within their windows."""
    rows, columns = (torch.arange(n, device=winners.device) * s - p
                     for n, s, (p, _) in zip(winners.shape[1:3], stride, padding))
    rows = rows[:, None, None] + winners.long() // size[1]
    return rows * width + columns[:, None] + winners.long() % size[1]


@peer("avg_pool2d_grad")
def _(torch, name, g, x_shape, size, stride, padding):
    def run(g, x):
        return lambda: torch.ops.aten.avg_pool2d_backward(
            g, x, size, stride, [p for p, _ in padding], False, False, None)

    return {layout: run(*pair) for layout, pair in images(torch, g, g.new_zeros(x_shape)).items()}


@peer("softmax", "log_softmax")
def _(torch, name, x):
    return lambda: getattr(torch, name)(x, -1)


@peer("softmax_grad", "log_softmax_grad")
def _(torch, name, g, y):
    backward = getattr(torch.ops.aten, f"_{name.removesuffix('_grad')}_backward_data")
    return lambda: backward(g, y, -1, y.dtype)


@peer("softmax_crossentropy")
def _(torch, name, logits, labels):
    return lambda: torch.nn.functional.cross_entropy(logits, labels, reduction="none")


@peer("sigmoid_crossentropy")
def _(torch, name, logits, targets):
    return lambda: torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )


@peer("softmax_crossentropy_grad", "sigmoid_crossentropy_grad")
def _(torch, name, g, logits, target):
    logits.requires_grad_()
    loss = PEERS[name.removesuffix("_grad")](torch, logits, target)()
    return lambda: torch.autograd.grad(loss, logits, g, retain_graph=True)


@peer("rectify_grad")
def _(torch, name, g, y):
    def run():
        dz = torch.ops.aten.threshold_backward(g, y, 0)
        return dz, dz.sum(tuple(range(dz.ndim - 1)))

    return run


@peer("matmul")
def _(torch, name, a, b):
    return lambda: torch.mm(a, b)


@peer("gram")
def _(torch, name, x, a, f):
    x, f = torch.view_as_complex(x), torch.view_as_complex(f)

    def run():
        responses = a[:, None] * torch.einsum("kqc,qc->kq", x.conj(), f)
        return torch.view_as_real(torch.einsum("kqc,kq->qc", x, responses))

    return run


# ----------------------------------------------------------------------- boxes of images

def _grid(torch, boxes, size, samples, height, width):
    """Where `samples` = (rows, columns) for each pixel of `size` lie, as grid_sample wants it."""
    def along(axis, length):
        n = size[axis] * samples[axis]
        steps = (torch.arange(n, device=boxes.device) + 0.5) / n
        x, w = boxes[:, 1 - axis, None], boxes[:, 3 - axis, None]
        return 2 * (x + steps * w) / length - 1  # of pixel centres: 2·(u + 1/2)/length - 1

    ys, xs = along(0, height), along(1, width)
    both = xs[:, None, :].expand(-1, ys.shape[1], -1), ys[:, :, None].expand(-1, -1, xs.shape[1])
    return torch.stack(both, -1)


@peer("crop")
def _(torch, name, x, boxes, size):
    grid = _grid(torch, boxes, size, (1, 1), *x.shape[1:3]).to(x)
    return {
        layout: lambda x=x: torch.nn.functional.grid_sample(x, grid, align_corners=False)
        for layout, (x,) in images(torch, x).items()
    }


@peer("crop_image_grad")
def _(torch, name, g, boxes, x_shape):
    grid = _grid(torch, boxes, g.shape[1:3], (1, 1), *x_shape[1:3]).to(g)

    def run(g, x):
        backward = torch.ops.aten.grid_sampler_2d_backward
        return lambda: backward(g, x, grid, 0, 0, False, [True, False])[0]

    return {layout: run(*pair) for layout, pair in images(torch, g, g.new_zeros(x_shape)).items()}


@peer("crop_box_grad")
def _(torch, name, g, x, boxes):
    boxes.requires_grad_()

    def run(g, x):
        grid = _grid(torch, boxes, g.shape[2:], (1, 1), *x.shape[2:]).to(x)
        y = torch.nn.functional.grid_sample(x, grid, align_corners=False)
        return lambda: torch.autograd.grad(y, boxes, g, retain_graph=True)

    return {layout: run(*pair) for layout, pair in images(torch, g, x).items()}


@peer("patch")
def _(torch, name, x, boxes, size):
    samples = [max(1, int(boxes[0, 3 - axis] / size[axis])) for axis in (0, 1)]
    grid = _grid(torch, boxes, size, samples, *x.shape[:2]).to(x)

    def run(x):
        return lambda: torch.nn.functional.avg_pool2d(torch.nn.functional.grid_sample(
            x, grid, padding_mode="border", align_corners=False), samples)

    return {layout: run(x) for layout, (x,) in images(torch, x[None]).items()}


# ---------------------------------------------------------------------------------------- training

@peer("adam")
def _(torch, name, w, g, m, v, rate, beta_1, beta_2, epsilon):
    def run(fused):
        parameter = torch.nn.Parameter(w.clone())
        parameter.grad = g.clone()
        optimizer = torch.optim.Adam([parameter], rate, (beta_1, beta_2), epsilon, fused=fused)
        late = torch.tensor(1e6, device=w.device if fused else "cpu")  # `rate` is corrected already
        optimizer.state[parameter] = {"step": late, "exp_avg": m.clone(), "exp_avg_sq": v.clone()}

        def step():
            optimizer.step()
            return parameter.data, *list(optimizer.state[parameter].values())[1:3]

        return step

    return {"torch default": run(None), "torch fused": run(True)}


@peer("moments")
def _(torch, name, x, groups):
    n, pixels, channels = x.shape
    parts = x.view(n, pixels, groups, channels // groups)
    return lambda: torch.var_mean(parts, (1, 3), correction=0)


@peer("normalize")
def _(torch, name, x, moments, gamma, beta, epsilon):
    n, pixels, channels = x.shape
    functional, kind = torch.nn.functional, _kind(x, moments)
    if kind == "layer":
        return {"torch, finds moments": lambda: (
            functional.layer_norm(x, (channels,), gamma, beta, epsilon))}
    if kind == "batch":
        rest = *moments.reshape(2, channels), gamma, beta, False, 0, epsilon
        return {layout: lambda x=x: functional.batch_norm(x, *rest)
                for layout, (x,) in images(torch, x[:, None]).items()}
    groups = moments.shape[2]
    return {f"{layout}, finds moments": lambda x=x: functional.group_norm(x, groups, gamma, beta, epsilon)
            for layout, (x,) in images(torch, x[:, None]).items()}


@peer("normalize_grad")
def _(torch, name, g, x, moments, gamma, epsilon):
    n, pixels, channels = x.shape
    mean, inverse, wanted = moments[0], (moments[1] + epsilon).rsqrt(), [True] * 3
    aten, kind = torch.ops.aten, _kind(x, moments)
    if kind == "layer":
        rest = (channels,), mean[:, None], inverse[:, None], gamma, gamma, wanted
        return lambda: aten.native_layer_norm_backward(g, x, *rest)

    def run(g, x):
        if kind == "batch":
            return lambda: aten.native_batch_norm_backward(
                g, x, gamma, None, None, mean[0], inverse[0], True, epsilon, wanted)
        return lambda: aten.native_group_norm_backward(
            g, x, mean, inverse, gamma, n, channels, pixels, moments.shape[2], wanted)

    return {layout: run(*pair) for layout, pair in images(torch, g[:, None], x[:, None]).items()}


def _kind(x, moments):
    n, pixels, channels = x.shape
    groups = moments.shape[2]
    if (pixels, groups) == (1, 1):
        return "layer"
    return "batch" if (n, groups) == (1, channels) else "group"


# ------------------------------------------------------------------------------------- recurrence

@peer("rnn", "gru", "lstm")
def _(torch, name, xw, *rest):
    return {"torch step by step": lambda: _unrolled(torch, name, xw, *rest)}


@peer("rnn_grad", "gru_grad", "lstm_grad")
def _(torch, name, g, states, *rest):
    arrays = [t.requires_grad_() for t in rest if isinstance(t, torch.Tensor)]
    y = _unrolled(torch, name.removesuffix("_grad"), *rest)
    return {"torch step by step": lambda: torch.autograd.grad(y, arrays, g, retain_graph=True)}


def _unrolled(torch, name, xw, h, *rest):
    """All states of the cell, as ours; without mask and gate."""
    steps, units, states = xw.unbind(1), h.shape[1], []
    if name == "lstm":
        c, R, memories = *rest[:2], []
        for x in steps:
            z = torch.addmm(x, h, R)
            i, f = z[:, :2 * units].sigmoid().chunk(2, 1)
            c = f * c + i * z[:, 2 * units:3 * units].tanh()
            h = z[:, 3 * units:].sigmoid() * c.tanh()
            states.append(h)
            memories.append(c)
        return torch.stack([torch.stack(states, 1), torch.stack(memories, 1)])
    for x in steps:
        if name == "rnn":
            h = torch.addmm(x, h, rest[0]).tanh()
        else:
            R, rb = rest[:2]
            y = torch.addmm(rb, h, R)
            z, r = (x[:, :2 * units] + y[:, :2 * units]).sigmoid().chunk(2, 1)
            candidate = (x[:, 2 * units:] + r * y[:, 2 * units:]).tanh()
            h = candidate + z * (h - candidate)
        states.append(h)
    return torch.stack(states, 1)


def set_up(threads, tf32=None):
    """Set PyTorch's number of threads; on a GPU, whether it may round to TensorFloat-32."""
    if torch_here():
        import torch

        torch.set_num_threads(threads)
        if tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
