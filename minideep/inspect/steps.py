"""The way back, one op at a time."""

import math
from heapq import heappop

from minideep.autograd import _bare, _call_hooks, collect, seed_gradient
from minideep.checks import check_finite
from minideep.inspect.observe import display_name, note
from minideep.mode import mode, set_mode
from minideep.tensor import Tensor

__all__ = ["Step", "steps"]


class Step:
    """One op on the way back.

    op: its name. shapes: {input: shape}. incoming: the gradient of its output, a tensor.
    outgoing: {input: gradient} of the inputs that need one. layer, line: where the user's program
    made the node ("" and None unless it ran inside `inspect.trace()`). node: the graph's own.
    """

    def __init__(self, node, incoming, pairs):
        self.node, self.op, self.incoming = node, display_name(node.op), incoming
        self.layer, self.line = note(node)
        names = input_names(node)
        self.shapes = {name: shape for name, (shape, _) in zip(names, node.likes)}
        needing = [name for name, edge in zip(names, node.edges) if edge is not None]
        self.outgoing = {name: g for name, (_, g) in zip(needing, pairs) if g is not None}

    @property
    def norms(self):
        """L2 norms: {"incoming": ..., input: ...}."""
        gradients = {"incoming": self.incoming, **self.outgoing}
        return {name: norm(g) for name, g in gradients.items()}

    def __str__(self):
        incoming = f"gradient {self.incoming.shape}, norm {norm(self.incoming):.4g}"
        lines = [f"{self.op}{f' in {self.layer}' if self.layer else ''} <- {incoming}"]
        for name, g in self.outgoing.items():
            lines.append(f"    {name} {g.shape}: norm {norm(g):.4g}")
        lines.append(f"    made at {self.line or 'a line not noted: run it inside inspect.trace()'}")
        return "\n".join(lines)

    __repr__ = __str__


def norm(g):
    """The L2 norm of a tensor, as a float."""
    x = g.numpy().ravel()
    return math.sqrt(float((abs(x.astype("complex128" if x.dtype.kind == "c" else "float64")) ** 2)
                           .sum()))


def input_names(node):
    """A name for each input of the node: those of the op, numbered where it takes any number."""
    if node.op.variadic:
        return [f"{node.op.variadic}[{i}]" for i in range(len(node.likes))]
    return node.op.inputs


def steps(y, gradient=None):
    """Go back from the tensor y one op at a time: a generator of `Step`.

        for step in inspect.steps(loss):
            print(step)

    In the order of backward(): each op once, when all that used its output have passed their
    gradients on. When the generator is exhausted the leaves have their `.grad`, as after
    y.backward(); stopped before, they have none. The graph is kept, so it can be walked again.
    gradient: what to start from, 1 for a scalar.
    """
    start = seed_gradient(y, gradient)
    return _steps(y, start)


def _steps(y, start):
    gradients, waiting, pairs = {}, [], [(y.node or y, start)]
    while True:  # the walk of run_backward, with a stop after each op
        with set_mode(grad=False):
            collect(pairs, gradients, waiting)
        if not waiting:
            break
        node = heappop(waiting)[1]
        g = _call_hooks(node, gradients.pop(node))
        with set_mode(grad=False, pulled=node):
            pairs = node.op.pull(node, g)
        if mode.anomaly:
            for _, gx in pairs:
                check_finite(_bare(gx), f"the gradient through {node.op.name}", node.where)
        yield Step(node, g, pairs)
    for leaf, g in gradients.items():
        if isinstance(leaf, Tensor):
            g = _call_hooks(leaf, g)
            leaf.grad = Tensor(g.data.copy()) if leaf.grad is None else Tensor(leaf.grad.data + g.data)
