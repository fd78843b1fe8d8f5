"""The public API beside PyTorch: what `python -m kernels bench` times in its rows named "api".

    python -m minideep.benchmark '{"prefix": null, "threads": 1, "allocator": "default", ...}'

The cases are those of the targets: convolutions, pooling, recurrent layers, Adam, a training step of
the source text's CNN, the cost of a small op, the time of an import, the memory of a step. Prints a
JSON object a line, as `kernels.bench.child` does.
"""

import json
import os
import subprocess
import sys

import numpy as np

import minideep
from kernels import memory
from kernels.bench import cases, measure, peers
from minideep import layers, losses, models, ops, optimizers

# What must be reached, as a multiple of PyTorch's speed: (with its default allocator, with a tuned one).
MUST = {
    "A": {"forward": 1.8, "forward + backward": 2.0},
    "B": {"forward": 1.8, "forward + backward": 2.0},
    "C": {"forward": 1.0, "forward + weight gradient": 1.3},
    "D": {"forward": 1.8, "forward + backward": 2.0},
    "E": {"forward": 1.0, "forward + weight gradient": 1.3},
}


def main(task):
    def wanted(name):
        prefix = task["prefix"]
        return prefix in (None, "api") or name.startswith(prefix)

    peers.set_up(task["threads"])
    tables = {"conv2d": convolutions, "max_pool2d": pooling, "lstm": recurrent, "gru": recurrent,
              "rnn": recurrent, "adam": adam, "softmax": crossentropy, "normalize": normalization,
              "cnn": cnn, "eager": eager}
    for name, table in tables.items():
        if not wanted(name) or (name == "eager" and task["threads"] > 1):
            continue
        for case, contestants, must, work in table(name):
            found = measure.interleave(contestants, task["seconds"], task["threads"])
            show(op="api", case=case, must=must[task["allocator"] == "tuned"] if must else None,
                 times={k: measure.summary(d) for k, d in found.items()}, **work)
            del contestants
            memory.release()
    once = task["threads"] == 1 and task["allocator"] == "default"
    if once and wanted("import"):
        show(**import_time())
    if once and wanted("memory"):
        show(**peak_memory())


# ------------------------------------------------------------------------------------------ cases
# Each yields (label, {contestant: function}, (must, must against tuned PyTorch) or None, work): in
# work the "flops" of convolutions and matrix products, as the formulas have them, or where memory is
# what counts the "bytes" that must move at least; nothing where neither says much.

def convolutions(_):
    for label, (n, h, w, c, o, k, stride, padding) in cases.CONVOLUTIONS.items():
        x, kernel = _arrays((n, h, w, c), (k, k, c, o))
        x = minideep.tensor(x, requires_grad=label[0] not in cases.FIRST_LAYERS)
        kernel = minideep.tensor(kernel, requires_grad=True)
        g = np.ones(ops.conv2d(x, kernel, None, stride, padding).shape, np.float32)

        def forward(x=x, kernel=kernel, stride=stride, padding=padding):
            with minideep.no_grad():
                return ops.conv2d(x, kernel, None, stride, padding)

        def both(x=x, kernel=kernel, g=minideep.tensor(g), stride=stride, padding=padding):
            x.grad = kernel.grad = None
            ops.conv2d(x, kernel, None, stride, padding).backward(g)

        theirs = _torch_layouts(lambda torch, x, w, stride=stride, padding=padding: (
            torch.nn.functional.conv2d(x, w, None, stride, padding)), x, kernel, g=g)
        for what, must in MUST[label[0]].items():
            first = what == "forward"
            passes = {"forward": 1, "forward + weight gradient": 2, "forward + backward": 3}[what]
            yield (f"conv2d {label}, {what}",
                   {"api": forward if first else both, **{k: f[not first] for k, f in theirs.items()}},
                   (must, must), {"flops": passes * 2 * g.size * k * k * c})


def pooling(_):
    x, = _arrays((8, 222, 222, 32))
    x = minideep.tensor(x, requires_grad=True)
    g = np.ones((8, 111, 111, 32), np.float32)

    def forward():
        with minideep.no_grad():
            return ops.max_pool2d(x, 2)

    def both(g=minideep.tensor(g)):
        x.grad = None
        ops.max_pool2d(x, 2).backward(g)

    theirs = _torch_layouts(lambda torch, x: torch.nn.functional.max_pool2d(x, 2), x, g=g)
    for number, (what, ours) in enumerate({"forward": forward, "forward + backward": both}.items()):
        yield (f"max_pool2d 2x2, 8x222x222x32, {what}",
               {"api": ours, **{k: f[number] for k, f in theirs.items()}}, (2, 2),
               {"bytes": (1 + number) * (x.data.nbytes + g.nbytes)})


def recurrent(name):
    """Two layers of 128 units and a dense one on 32 sequences of 32 steps."""
    x, = _arrays((32, 32, 128))
    layer, blocks = {"lstm": (layers.LSTM, 4), "gru": (layers.GRU, 3), "rnn": (layers.SimpleRNN, 1)}[name]
    model = models.Sequential([layer(128, return_sequences=True), layer(128), layers.Dense(1)])
    model(x)

    def step():
        for p in model.parameters():
            p.grad = None
        model(x).sum().backward()

    contestants = {"api": step}
    if peers.torch_here():
        import torch

        theirs = getattr(torch.nn, name.upper())(128, 128, 2, batch_first=True)
        dense, batch = torch.nn.Linear(128, 1), torch.from_numpy(x)

        def torch_step():
            for p in (*theirs.parameters(), *dense.parameters()):
                p.grad = None
            dense(theirs(batch)[0][:, -1]).sum().backward()

        contestants["torch"] = torch_step
    must = {"lstm": (1.1, 1.1), "rnn": (1.5, 1.5)}.get(name)
    # of input and of state, in two layers; backward two each, but none for x and the first states
    products = 32 * (2 * 2 * 3 - 1) - 2
    flops = 2 * 32 * 128 * (products * blocks * 128 + 3)
    yield f"{name} T 32, N 32, 128 -> 128, two layers", contestants, must, {"flops": flops}


def adam(_, size=10**7):
    w, g = _arrays((size,), (size,))
    parameter = minideep.tensor(w, requires_grad=True)
    optimizer = optimizers.Adam()

    def step():
        optimizer.apply([g], [parameter])

    contestants = {"api": step}
    if peers.torch_here():
        import torch

        for kind, fused in (("torch default", None), ("torch fused", True)):
            theirs = torch.nn.Parameter(torch.from_numpy(w.copy()))
            theirs.grad = torch.from_numpy(g)
            contestants[kind] = torch.optim.Adam([theirs], fused=fused).step
    yield "Adam, 10 million parameters", contestants, (1, 1), {"bytes": 7 * w.nbytes}


def crossentropy(_):
    x, = _arrays((4096, 1000))
    labels = np.arange(4096) % 1000
    logits = minideep.tensor(x, requires_grad=True)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)

    def step():
        logits.grad = None
        loss(labels, logits).backward()

    contestants = {"api": step}
    if peers.torch_here():
        import torch

        theirs, numbers = torch.from_numpy(x).requires_grad_(), torch.from_numpy(labels)

        def torch_step():
            theirs.grad = None
            torch.nn.functional.cross_entropy(theirs, numbers).backward()

        contestants["torch"] = torch_step
    yield "softmax cross-entropy 4096x1000, forward + backward", contestants, None, {}


def normalization(_):
    x, = _arrays((8, 56, 56, 64))
    for name in ("BatchNormalization", "LayerNormalization"):
        tensor = minideep.tensor(x, requires_grad=True)
        model = models.Sequential([getattr(layers, name)()])
        model(tensor)

        def step(tensor=tensor, model=model):
            tensor.grad = None
            model(tensor, training=True).sum().backward()

        contestants = {"api": step}
        if peers.torch_here():
            import torch

            batch, theirs = torch.from_numpy(x), torch.nn.LayerNorm(64)
            if name == "BatchNormalization":
                batch, theirs = batch.permute(0, 3, 1, 2), torch.nn.BatchNorm2d(64)
            batch = batch.detach().requires_grad_()

            def torch_step(batch=batch, theirs=theirs):
                batch.grad = None
                theirs(batch).sum().backward()

            contestants["torch"] = torch_step
        yield f"{name} 8x56x56x64, forward + backward", contestants, None, {}


def source_cnn():
    """The source text's network for 224 x 224 RGB images, compiled as it says."""
    model = models.Sequential([
        layers.Conv2D(32, (3, 3), activation="relu", input_shape=(224, 224, 3)),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2)),
        layers.Conv2D(128, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2)),
        layers.Flatten(), layers.Dense(1024, activation="relu"), layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def torch_cnn(channels_last):
    """The same network and step by PyTorch, with its fused Adam: a function of (x, y)."""
    import torch
    from torch import nn

    parts = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        parts += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(128 * 26 * 26, 1024), nn.ReLU(),
                          nn.Linear(1024, 1), nn.Sigmoid())
    kind = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=kind)
    optimizer, loss = torch.optim.Adam(model.parameters(), fused=True), nn.BCELoss()

    def step(x, y):
        x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=kind)
        optimizer.zero_grad()
        loss(model(x), torch.from_numpy(y)).backward()
        optimizer.step()

    return step


def cnn(_, batches=(8, 32)):
    for n in batches:
        x, = _arrays((n, 224, 224, 3))
        y = (np.arange(n) % 2).astype(np.float32)[:, None]
        fitted, by_hand = source_cnn(), source_cnn()
        loss, optimizer = losses.BinaryCrossentropy(), optimizers.Adam()

        def step():
            loss(y, by_hand(x, training=True)).backward()
            optimizer.step(by_hand.parameters())

        contestants = {"api train_on_batch": lambda: fitted.train_on_batch(x, y), "api by hand": step}
        if peers.torch_here():
            contestants["torch NCHW"] = lambda f=torch_cnn(False): f(x, y)
            contestants["torch channels_last"] = lambda f=torch_cnn(True): f(x, y)
        # of the first layer only the weights' gradient
        passes = {(222, 3, 32): 2, (109, 32, 64): 3, (52, 64, 128): 3}
        flops = sum(passes[size] * 2 * size[0]**2 * 9 * size[1] * size[2] for size in passes)
        flops = n * (flops + 3 * 2 * (128 * 26 * 26 + 1) * 1024)
        yield f"CNN training step, batch {n}", contestants, (3, 2), {"flops": flops}


def eager(_, length=100):
    """A chain of small ops and back: what an op costs besides its arithmetic."""
    x, = _arrays((4, 4))
    ours = minideep.tensor(x * 0.1, requires_grad=True)

    def chain(x):
        y = x
        for _ in range(length // 4):
            y = ((y @ x).tanh() + x) * x
        y.sum().backward()
        x.grad = None

    contestants = {"api": lambda: chain(ours)}
    if peers.torch_here():
        import torch

        theirs = (torch.from_numpy(x) * 0.1).requires_grad_()
        contestants["torch"] = lambda: chain(theirs)
    yield f"{length} small ops, forward + backward", contestants, (1, 1), {}


def _arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def _torch_layouts(function, x, *weights, g):
    """{layout: (forward, forward and backward)} of function(torch, x, *kernels)."""
    if not peers.torch_here():
        return {}
    import torch

    found, as_torch = {}, lambda t: torch.from_numpy(t.data.copy())
    for layout, (image, gradient) in peers.images(torch, as_torch(x), torch.from_numpy(g)).items():
        tensors = [image, *[peers.kernel(as_torch(w), image) for w in weights]]
        wanted = [t.requires_grad_() for t, ours in zip(tensors, (x, *weights)) if ours.requires_grad]

        def forward(tensors=tensors):
            with torch.no_grad():
                return function(torch, *tensors)

        def both(tensors=tensors, wanted=wanted, gradient=gradient):
            for t in wanted:
                t.grad = None
            function(torch, *tensors).backward(gradient)

        found[layout] = forward, both
    return found


# ------------------------------------------------------------------------- import time and memory

def _child(program):
    """What a new process prints. It may keep bytecode, as installed programs do."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return json.loads(subprocess.run([sys.executable, "-c", program], check=True, text=True,
                                     env=environment, stdout=subprocess.PIPE).stdout)


def import_time(runs=5):
    """Milliseconds that `import minideep` takes after `import numpy`, the median of new processes."""
    program = ("import json, time; import numpy; t = time.perf_counter(); import minideep; "
               "print(json.dumps(time.perf_counter() - t))")
    times = measure.summary([_child(program) for _ in range(runs)])
    return {"op": "api", "case": "import minideep after numpy, ms", "must": 150,
            "value": times["milliseconds"], "times": {"api": times}}


def peak_memory(batch=32):
    """Peak resident memory of two training steps of the CNN over that before, in processes of their
    own; as a share of PyTorch's."""
    program = """
import json
import numpy as np
from kernels.bench.measure import peak_memory as peak
from minideep import benchmark
x = np.zeros(({n}, 224, 224, 3), np.float32)
y = np.zeros(({n}, 1), np.float32)
step = {make}
before = peak()
step(x, y), step(x, y)
print(json.dumps((peak() - before) / 1e6))
"""
    makes = {"api": "benchmark.source_cnn().train_on_batch"}
    if peers.torch_here():
        makes |= {"torch NCHW": "benchmark.torch_cnn(False)",
                  "torch channels_last": "benchmark.torch_cnn(True)"}
    found = {name: _child(program.format(n=batch, make=make)) for name, make in makes.items()}
    return {"op": "api", "case": f"CNN training step, batch {batch}: peak memory, MB", "must": 1,
            "megabytes": found}


def show(**answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
