"""The same sums by PyTorch: op -> function(*args) that returns {layout: what to time}.

PyTorch keeps images as NCHW, or in the same memory order as ours ("channels_last"); both are
timed. Ops without an entry have no counterpart there that computes just this.
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
def _(torch, name, g, winners, x_shape, size, stride, padding):
    x = torch.randn(x_shape, device=g.device)  # which pixel wins a window does not matter to the time

    def run(g, x):
        x = x.requires_grad_()
        y = torch.nn.functional.max_pool2d(x, size, stride)
        return lambda: torch.autograd.grad(y, x, g, retain_graph=True)

    return {layout: run(*pair) for layout, pair in images(torch, g, x).items()}


@peer("softmax", "log_softmax")
def _(torch, name, x):
    return lambda: getattr(torch, name)(x, -1)


@peer("softmax_crossentropy")
def _(torch, name, logits, labels):
    return lambda: torch.nn.functional.cross_entropy(logits, labels, reduction="none")


@peer("sigmoid_crossentropy")
def _(torch, name, logits, targets):
    return lambda: torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )


@peer("crop")
def _(torch, name, x, boxes, size):
    ys, xs = torch.meshgrid(*[torch.linspace(-0.4, 0.4, n) for n in size], indexing="ij")
    grid = torch.stack([xs, ys], -1)[None].to(x)  # as many samples, in the middle of the image
    return {
        layout: lambda x=x: torch.nn.functional.grid_sample(x, grid, align_corners=False)
        for layout, (x,) in images(torch, x).items()
    }


@peer("adam")
def _(torch, name, w, g, m, v, rate, *betas):
    def run(fused):
        parameter = torch.nn.Parameter(w.clone())
        parameter.grad = g.clone()
        optimizer = torch.optim.Adam([parameter], fused=fused)
        return optimizer.step

    return {"torch default": run(None), "torch fused": run(True)}


@peer("normalize")
def _(torch, name, x, moments, gamma, beta, epsilon):
    n, pixels, channels = x.shape
    if pixels == 1:
        return lambda: torch.nn.functional.layer_norm(x, (channels,), gamma, beta, epsilon)
    rest = *moments.reshape(2, channels), gamma, beta, False, 0, epsilon
    return {
        layout: lambda x=x: torch.nn.functional.batch_norm(x, *rest)
        for layout, (x,) in images(torch, x[:, None]).items()
    }


def set_up(threads, tf32=None):
    """Set PyTorch's number of threads; on a GPU, whether it may round to TensorFloat-32."""
    if torch_here():
        import torch

        torch.set_num_threads(threads)
        if tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
