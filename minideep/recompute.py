"""Computing a second time instead of remembering: checkpoints, and second derivatives of fused ops."""

import itertools

from minideep import ops, random
from minideep.autograd import Node, Op, Vjp, _bare, run_backward
from minideep.mode import grad_enabled, no_grad, set_mode
from minideep.tensor import Tensor

__all__ = ["checkpoint", "vjp_by_recomputing"]


def checkpoint(function, *inputs):
    """function(*inputs), which keeps nothing of its inside: backward computes it a second time.

    Memory for time (Chen et al. 2016, arXiv:1604.06174). Tensors that the function captures get
    their gradients too if they are leaves; others must be given as inputs. Random numbers of
    minideep (dropout) are the same both times.
    """
    state = random.get_state()
    with no_grad():
        y = function(*inputs)
    if not isinstance(y, Tensor):
        raise TypeError(f"a checkpoint's function must return one tensor, not {type(y).__name__}")
    out = Tensor(y.data)
    if grad_enabled():  # whether the function captures parameters shows only when it runs again
        out.requires_grad = True
        out.node = Node(_Recompute(function, state), inputs, {}, y.data)
        out.node.saved["inputs"] = inputs  # also where none of them needs a gradient
        out.node.guard(inputs)
    return out


class _Recompute(Op):
    def __init__(self, function, random_state):
        self.function, self.random_state, self.name = function, random_state, "checkpoint"
        self.inputs, self.variadic, self.defaults, self.elementwise = [], "inputs", {}, False
        self.vjps, self.asks_for_shapes = itertools.repeat(Vjp(None, (), False, [])), False

    def pull(self, node, g):
        if not isinstance(g, Tensor):
            return [(edge, _bare(gx)) for edge, gx in self.pull(node, Tensor(g))]
        before = random.get_state()
        random.set_state(self.random_state)
        try:
            with set_mode(again=True):
                gradients, captured = vjp_by_recomputing(self.function, node.values()["inputs"], g)
        finally:
            random.set_state(before)
        pairs = [(edge, gx) for edge, gx in zip(node.edges, gradients) if edge is not None]
        return pairs + list(captured.items())


def vjp_by_recomputing(function, inputs, g):
    """Gradients of function(*inputs), run again op by op: one for each input (None where it needs
    none), and {leaf: gradient} for leaves that the function captures.

    For checkpoints, and for fused ops, whose composite form gives them their second derivatives.
    """
    create_graph = grad_enabled()
    with set_mode(grad=True, pulled=None):
        inner = [ops.identity(x) if type(x) is Tensor and x.requires_grad else x for x in inputs]
        y = function(*inner)
    nodes = [x.node if type(x) is Tensor else None for x in inner]
    if not y.requires_grad:
        return [None] * len(inner), {}
    watch = [node for node in nodes if node is not None]
    found = run_backward([(y, g)], create_graph, watch=watch, stop=True)
    return [found.pop(node, None) for node in nodes], found
