"""What ran, how long it took, what it keeps: trace, profile, memory."""

import contextlib
import json
import math
import os
import weakref

from kernels import backend
from minideep.autograd import Node
from minideep.inspect.observe import display_name, note, observe, path_and_line
from minideep.tensor import Tensor

__all__ = ["Profile", "memory", "profile", "trace"]


@contextlib.contextmanager
def trace():
    """Note for every op that runs inside which layer and which source line it came from: `steps`,
    `graph` and `memory` then tell it."""
    with observe(_Nobody()):
        yield


class _Nobody:
    """Observes without asking for anything: the notes are taken all the same."""


# ------------------------------------------------------------------------------------------ memory


class Memory:
    """What a graph keeps for its way back. rows: dictionaries with op, layer, line, what, shape,
    dtype, bytes, kind ("saved" for backward or "leaf"); an array that several keep counts once, for
    the first. saved, leaves, total: bytes."""

    def __init__(self, rows):
        self.rows = rows
        self.saved = sum(row["bytes"] for row in rows if row["kind"] == "saved")
        self.leaves = sum(row["bytes"] for row in rows if row["kind"] == "leaf")
        self.total = self.saved + self.leaves

    def __str__(self):
        rows = sorted(self.rows, key=lambda row: -row["bytes"])
        cells = [[size(row["bytes"]), row["op"], row["what"], f"{row['dtype']}{row['shape']}",
                  row["layer"], short(row["line"])] for row in rows]
        head = ["bytes", "op", "keeps", "array", "layer", "line"]
        return table(head, cells) + (f"\n{size(self.saved)} saved for backward, {size(self.leaves)} "
                                     "in leaves")

    __repr__ = __str__


def memory(*tensors):
    """Who holds what behind these tensors: a `Memory`, printed as a table, the largest first.

    The same buffer under two names, or as a view, is counted once.
    """
    rows, seen = [], set()

    def add(array, kind, op, what, layer, line):
        base = owner(array)
        if id(base) not in seen:
            seen.add(id(base))
            rows.append({"op": op, "layer": layer, "line": line, "what": what, "kind": kind,
                         "shape": tuple(array.shape), "dtype": str(array.dtype),
                         "bytes": int(base.nbytes)})

    found = list(nodes_behind(check_tensors(tensors)))
    for leaf in found:
        if isinstance(leaf, Tensor):
            add(leaf.data, "leaf", "leaf", "data", "", None)
            if leaf.grad is not None:
                add(leaf.grad.data, "leaf", "leaf", "grad", "", None)
    for node in found:
        if type(node) is Node:
            for what, array in arrays_of(node):
                add(array, "saved", display_name(node.op), what, *note(node))
    return Memory(rows)


def arrays_of(node):
    """(name, array) of what a node keeps: what it saved, and arrays among its options."""
    def within(name, value):
        if isinstance(value, Tensor):
            yield name, value.data
        elif backend.is_array(value):
            yield name, value
        elif isinstance(value, dict):
            for key, v in value.items():
                yield from within(key, v)
        elif isinstance(value, (list, tuple)):
            for v in value:
                yield from within(name, v)

    for name, value in (*node.saved.items(), *node.attrs.items()):
        yield from within(name, value)


def owner(array):
    """The array whose buffer a view looks into."""
    while type(getattr(array, "base", None)) is type(array):  # not what `kernels.memory` lends it
        array = array.base
    return array


def check_tensors(tensors):
    for t in tensors:
        if not isinstance(t, Tensor):
            raise TypeError(f"give tensors one by one, f(y, z); got a {type(t).__name__}")
        if t.node is not None and t.node.edges is None:
            raise RuntimeError("this graph was freed by an earlier backward(); look at it before, or "
                               "give that pass retain_graph=True")
    return tensors


def nodes_behind(tensors):
    """The nodes and leaves behind the tensors, each once, from the outputs backwards."""
    seen, stack = set(), [t.node or t for t in reversed(tensors)]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if type(node) is Node:
            stack.extend(edge for edge in reversed(node.edges or ()) if edge is not None)


# ----------------------------------------------------------------------------------------- profile


class Profile:
    """Time, arithmetic and traffic of the ops that ran. events: a dictionary for each, with op,
    layer, path (the layers' names), line, phase ("forward", "backward", or "recompute" for what a
    checkpoint computes again on the way back), start and end, seconds, flops (a multiply-add counted
    as two), bytes (inputs read and output written once, a lower bound of the true traffic).

    All sums are of disjoint parts: the seconds of a checkpoint are its own, without those of the ops
    that run again inside, which have events of their own."""

    def __init__(self):
        self.events, self._pulled, self._forward = [], {}, weakref.WeakKeyDictionary()

    def op_called(self, call):
        if call.within is not None:  # part of a vjp, which is timed as a whole
            count = self._pulled.setdefault(id(call.within), [0, 0])
            count[0] += flops(call)
            count[1] += traffic(call)
            return
        if call.out.node is not None:
            self._forward[call.out.node] = flops(call)
        self._add(call.op, call.path, call.line, "recompute" if call.again else "forward", call.start,
                  call.seconds, call.seconds, flops(call), traffic(call))

    def pulled(self, pull):
        counted = self._pulled.pop(id(pull.node), None)
        if counted is None and pull.inside:  # all that it did was told
            counted = 0, 0
        if counted is None:  # its vjp is one fused kernel: as many products again for each input
            counted = 2 * self._forward.get(pull.node, 0), 0
        self._add(pull.node.op, *path_and_line(pull.node), "backward", pull.start, pull.seconds,
                  pull.seconds - pull.inside, *counted)

    def _add(self, op, path, line, phase, start, whole, seconds, flops, bytes):
        self.events.append({"op": display_name(op), "layer": "/".join(path), "path": path,
                            "line": line, "phase": phase, "start": start, "end": start + whole,
                            "seconds": seconds, "flops": flops, "bytes": bytes})

    def by(self, key="op"):
        """Sums by "op", "layer" or "line": a list of dictionaries, the slowest first."""
        if key not in ("op", "layer", "line"):
            raise ValueError(f"a profile is summed by 'op', 'layer' or 'line', not {key!r}")
        groups = {}
        for event in self.events:
            row = groups.setdefault((event[key], event["phase"]), {
                key: event[key], "phase": event["phase"], "calls": 0, "seconds": 0.0, "flops": 0,
                "bytes": 0})
            row["calls"] += 1
            for what in ("seconds", "flops", "bytes"):
                row[what] += event[what]
        for row in groups.values():
            row["flops_per_second"] = row["flops"] / max(row["seconds"], 1e-12)
            row["bytes_per_second"] = row["bytes"] / max(row["seconds"], 1e-12)
        return sorted(groups.values(), key=lambda row: -row["seconds"])

    @property
    def seconds(self):
        """In ops, all phases together."""
        return sum(event["seconds"] for event in self.events)

    def table(self, key="op"):
        cells = [[row[key] or "-", row["phase"], row["calls"], f"{1e3 * row['seconds']:.3f}",
                  f"{100 * row['seconds'] / max(self.seconds, 1e-12):.0f} %",
                  f"{row['flops_per_second'] / 1e9:.2f}", f"{row['bytes_per_second'] / 1e9:.2f}"]
                 for row in self.by(key)]
        return table([key, "phase", "calls", "ms", "share", "GFLOP/s", "GB/s"], cells)

    __str__ = __repr__ = table

    def chrome_trace(self, path):
        """Write the events to a JSON file that chrome://tracing and ui.perfetto.dev open."""
        first = min((event["start"] for event in self.events), default=0.0)
        events = [{"name": event["op"], "cat": event["phase"], "ph": "X", "pid": os.getpid(),
                   "tid": event["phase"], "ts": 1e6 * (event["start"] - first),
                   "dur": 1e6 * (event["end"] - event["start"]),
                   "args": {what: event[what] for what in ("layer", "line", "flops", "bytes")}}
                  for event in self.events]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)


@contextlib.contextmanager
def profile():
    """Time the ops that run inside, forward and backward, by op, layer and source line.

        with inspect.profile() as p:
            model(x).sum().backward()
        print(p.table("layer"))
        p.chrome_trace("trace.json")

    Looking costs some microseconds an op; on a GPU each op is waited for. Ops inside a vjp count as
    part of it, but for those that a checkpoint computes again: their phase is "recompute".
    """
    with observe(Profile()) as result:
        yield result


def flops(call):
    """Operations of one op, multiply-adds counted as two; one for each number of the largest array
    where no product is summed (a Fourier transform too: its logarithm is left out)."""
    arrays = [x.data if isinstance(x, Tensor) else x for x in call.inputs]
    shapes = [x.shape for x in arrays if backend.is_array(x)]
    out, name = call.out.shape, display_name(call.op)
    if name in ("matmul", "affine"):
        return 2 * math.prod(out) * shapes[0][-1]
    if name == "einsum":
        return _einsum_flops(arrays, call.attrs, shapes)
    if name.startswith("conv2d"):
        one = shapes[0] if name.endswith("_grad") else out  # (N, OH, OW, O)
        taps = call.attrs["w_shape"] if "w_shape" in call.attrs else shapes[1]
        return 2 * math.prod(one) * math.prod(taps[:3])
    if name in ("rnn", "gru", "lstm"):
        n, steps, width = shapes[0]
        units = {"rnn": 1, "gru": 3, "lstm": 4}[name]
        return 2 * n * steps * width * (width // units)
    return max(map(math.prod, [out, *shapes]))


def _einsum_flops(arrays, attrs, shapes):
    subscripts = attrs["subscripts"]
    if len(arrays) == 1:  # no product: a sum or another order
        return math.prod(shapes[0])
    if "." in subscripts:
        return 2 * max(map(math.prod, shapes))
    sizes = {letter: n for letters, shape in zip(subscripts.split("->")[0].split(","), shapes)
             for letter, n in zip(letters, shape)}
    return 2 * math.prod(sizes.values())


def traffic(call):
    arrays = [x.data if isinstance(x, Tensor) else x for x in (*call.inputs, call.out)]
    return sum(int(a.nbytes) for a in arrays if backend.is_array(a))


# ----------------------------------------------------------------------------------------- in words


def size(bytes):
    for unit in ("B", "KiB", "MiB"):
        if bytes < 1024:
            return f"{bytes:.4g} {unit}"
        bytes /= 1024
    return f"{bytes:.4g} GiB"


def short(line):
    """model.py:12 of /somewhere/model.py:12."""
    return os.path.basename(line) if line else "-"


def table(head, rows):
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = [head, ["-" * w for w in widths], *rows]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)
