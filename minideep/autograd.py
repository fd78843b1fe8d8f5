"""Reverse-mode automatic differentiation: ops, the graph they leave behind, and the way back.

An op is declared once, forward on arrays and one vector-Jacobian product (vjp) per input:

    @op
    def mul(a, b):
        return a * b

    mul.vjp(a=lambda g, b: g * conj(b), b=lambda g, a: g * conj(a))

A vjp asks for what it needs by name: `g` (gradient of the output), `y` (the output), any input,
`<input>_shape`, or any keyword of the op. Only what is asked for is kept for the way back, and only
for inputs that need a gradient. Vjps are written in operators and ops, which take arrays as well as
tensors: the way back runs on bare arrays, unless it is recorded itself (`create_graph=True`); then
the same vjps get tensors, and what they do can be differentiated again, to any order.

Calling an op on tensors leaves a `Node`: the op, edges to where its inputs came from, what was
saved. References point backwards only, so a graph dies with its last tensor. `backward` runs the
youngest node first, each once, with no recursion: what used a node's output is younger than it, so
its gradient is whole when its turn comes. (In b = a + a; c = b * b the order makes it right: b needs
both contributions before it passes anything on.)
"""

import inspect
import itertools
import math
from heapq import heappop, heappush
from typing import NamedTuple

from numpy import asarray, generic, ndarray

from kernels import backend
from minideep.checks import check_finite, fingerprint, seed_gradient, user_line
from minideep.mode import mode, set_mode

__all__ = ["Node", "Op", "grad", "op", "run_backward"]


class Vjp(NamedTuple):
    """What one input of an op needs on the way back."""

    function: callable
    names: tuple     # what the function asks for
    takes_all: bool  # ... and all keywords besides (**)
    keeps: list      # what of it must be saved: (name, place among the inputs or None for the output)


class Op:
    """One differentiable function: arrays in, one array out, and its vjps. Made by `@op`."""

    registry = {}  # name -> Op, for the tests and the inspector

    def __init__(self, forward, elementwise=False):
        self.forward, self.name, self.__doc__ = forward, forward.__name__, forward.__doc__
        self.__module__ = forward.__module__
        self.elementwise = elementwise  # broadcasts its inputs; gradients are summed back
        parameters = list(inspect.signature(forward).parameters.values())
        self.inputs = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        self.variadic = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), None)
        self.most = math.inf if self.variadic else len(self.inputs)
        keywords = [p for p in parameters if p.kind == p.KEYWORD_ONLY]
        self.keywords = [p.name for p in keywords]
        self.defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        self._joint = None
        self.vjp()
        Op.registry[self.name] = self

    def __reduce__(self):
        return self.name  # copied and pickled as functions are: by reference

    def vjp(self, **functions):
        """Declare the vjp of each differentiable input. A variadic op gives one, which may also
        ask for `i`, the number of the input."""
        names = [self.variadic] if self.variadic else self.inputs
        for name, function in functions.items():
            if name not in names or not callable(function):
                raise TypeError(f"the vjp of {self.name} for {name!r} is {function!r}; expected a "
                                f"function, for one of the inputs {names}")
        # All inputs of a variadic op are kept as one tuple.
        places = {name: slice(None) if self.variadic else i for i, name in enumerate(names)}
        places["y"] = None
        vjps = []
        for function in map(functions.get, names):
            wanted, takes_all = _asks_for(function) if function is not None else ((), False)
            keeps = [(name, place) for name, place in places.items()
                     if name in wanted or self._joint is not None]  # a joint vjp gets everything
            vjps.append(Vjp(function, wanted, takes_all, keeps))
        # Shapes are gathered on the way back only where some vjp asks for them.
        self.asks_for_shapes = any(name.endswith("_shape") for vjp in vjps for name in vjp.names)
        self.vjps = itertools.repeat(vjps[0]) if self.variadic else vjps  # one for each input

    def joint_vjp(self, function):
        """Declare one vjp for all inputs: function(g, y, *inputs, **keywords) -> a gradient each.
        It gets tensors, whether the way back is recorded or not."""
        self._joint = function
        self.vjp()
        return function

    def __call__(self, *inputs, **attrs):
        if len(inputs) != self.most:
            inputs = self._bind(inputs, attrs)
        if self.defaults:
            attrs = {**self.defaults, **attrs}
        arrays = [x.data for x in inputs if type(x) is Tensor]  # all of them, most of the time
        if len(arrays) < len(inputs):
            if not arrays and mode.pulled is not None and not mode.grad:  # in a vjp, on arrays
                y = self.forward(*inputs, **attrs)
                single = type(y) is ndarray and y.dtype.char == "f"
                return y if single else keep_single_precision(y, inputs)
            inputs = tuple([x if type(x) is Tensor or x is None else as_operand(x) for x in inputs])
            arrays = [x.data if type(x) is Tensor else x for x in inputs]
        try:
            y = self.forward(*arrays, **attrs)
        except TypeError:
            backend.array_module(*filter(backend.is_array, arrays))  # on two devices? it says so
            raise
        if (type(y) is not ndarray or y.dtype.char != "f") and "dtype" not in attrs:
            y = keep_single_precision(y, arrays)
        if mode.anomaly and mode.pulled is None:
            check_finite(y, f"the output of {self.name}", user_line(), zip(self.inputs, arrays))
        if mode.grad:
            for x in inputs:
                if type(x) is Tensor and x.requires_grad:
                    return Tensor(y, True, Node(self, inputs, attrs, y))
        return Tensor(y)

    def _bind(self, inputs, attrs):
        """The inputs, some of which were given by name; options that were given by position are put
        into `attrs`."""
        if self.variadic:
            return inputs
        if len(inputs) > self.most + len(self.keywords):
            raise TypeError(f"{self.name} takes {self.inputs + self.keywords}; got {len(inputs)}")
        for name, value in zip(self.keywords, inputs[self.most:]):
            if name in attrs:
                raise TypeError(f"{self.name} takes {name} once; it was given by position and by name")
            attrs[name] = value
        rest = self.inputs[len(inputs):]
        missing = [name for name in rest if name not in attrs]
        if missing:
            raise TypeError(f"{self.name} takes {self.inputs + self.keywords}; {missing} not given")
        return (*inputs[:self.most], *[attrs.pop(name) for name in rest])

    def pull(self, node, g):
        """[(edge, gradient)] for the inputs of `node` that need one, given the gradient of its output:
        arrays for an array, tensors for a tensor, None where a vjp gives none."""
        bare = type(g) is not Tensor
        if bare and isinstance(g, generic):  # of arrays without axes NumPy's operators make numbers
            g = asarray(g)
        values = node.values(bare and not self._joint)
        if self._joint:
            gradients = self._joint(Tensor(g) if bare else g, values["y"],
                                    *[values[n] for n in self.inputs], **node.attrs)
        values["g"], pairs = g, []
        for i, (edge, like, vjp) in enumerate(zip(node.edges, node.likes, self.vjps)):
            if edge is None:
                continue
            if self._joint:
                gx = gradients[i]
            else:
                function, names, takes_all, _ = vjp
                if self.variadic:
                    values["i"] = i
                asked = map(values.__getitem__, names)
                gx = (None if function is None else function(*asked) if not takes_all else
                      function(**{**node.attrs, **dict(zip(names, asked))}))
            if gx is not None:
                if (type(gx) is Tensor) is bare:
                    gx = gx.data if bare else _plain(gx)
                shape, dtype = like
                if gx.shape != shape or gx.dtype != dtype:
                    gx = fit(gx, like, self, i)
            pairs.append((edge, gx))
        return pairs


def op(forward=None, *, elementwise=False):
    """Decorator: make an op of a function on arrays. Inputs are positional and have no defaults,
    options are keyword-only."""
    return Op(forward, elementwise) if forward else lambda f: Op(f, elementwise)


class Node:
    """One application of an op: where its inputs came from and what its vjps need."""

    # edges: for each input that needs a gradient the node that made it, or the leaf itself; else None.
    # likes: the (shape, dtype) of each input, which its gradient is to have. saved: {name: value}, what
    # the vjps need. prints: [(array, its fingerprint)] of what must not change until the way back.
    # turn: falls from node to node, so that the youngest comes first.
    __slots__ = "op attrs edges likes saved prints hooks where turn __weakref__".split()

    def __init__(self, op, inputs, attrs, y):
        self.op, self.attrs, self.hooks, self.turn = op, attrs, None, next(_turns)
        self.where = None if not mode.anomaly else mode.pulled.where if mode.pulled else user_line()
        self.edges, self.likes, self.saved = edges, likes, saved = [], [], {}
        self.prints = []
        for x, vjp in zip(inputs, op.vjps):
            if type(x) is not Tensor:
                edges.append(None)
                likes.append(_NUMBER)
                continue
            likes.append((x.data.shape, x.data.dtype))
            if not x.requires_grad:
                edges.append(None)
                continue
            edges.append(x.node or x)
            for name, place in vjp.keeps:
                if name not in saved:  # y, the array: a tensor would point back at this node
                    saved[name] = y if place is None else inputs[place]
                    self.guard(saved[name])
        for value in attrs.values():  # an index may be an array
            self.guard(value)

    def __setstate__(self, state):
        for name, value in state[1].items():
            setattr(self, name, value)
        self.turn = next(_turns)  # of this process; what a node was made of is rebuilt before it

    def guard(self, x):
        """Refuse to go back if `x`, an array, a tensor or a tuple of them, has changed by then."""
        if type(x) is tuple:
            for part in x:
                self.guard(part)
            return
        array = x.data if type(x) is Tensor else x
        if type(array) in (ndarray, list):  # not on a GPU: it would stop the queue
            self.prints.append((x, fingerprint(array, self.where is not None)))

    def values(self, bare=False):
        """What the vjps may ask for, tensors or bare arrays; refuses a graph that is gone, and arrays
        that were changed since they were saved."""
        if self.edges is None:
            raise RuntimeError(
                f"the graph behind {self.op.name} was freed by an earlier backward pass; give that pass "
                "retain_graph=True to go back through it again (or, if a checkpoint captured its "
                "result, give it to the checkpoint as an input)")
        for x, before in self.prints:
            array = x.data if type(x) is Tensor else x
            if fingerprint(array, self.where is not None) != before:
                raise RuntimeError(
                    f"an array that {self.op.name} saved for its gradient was changed in place "
                    f"(shape {getattr(array, 'shape', '-')}): its gradient would be silently wrong. "
                    "Write x = x + 1 instead of x.data += 1, or change the data after backward()")
        values = dict(self.attrs)
        for name, x in self.saved.items():
            values[name] = x if not bare else x.data if type(x) is Tensor else _bare(x)
        if not bare and "y" in self.saved:
            values["y"] = Tensor(values["y"], requires_grad=True, node=self)
        if self.op.asks_for_shapes:
            shapes = [shape for shape, _ in self.likes]
            if self.op.variadic:
                values[self.op.variadic + "_shape"] = shapes
            else:
                values.update((name + "_shape", shape) for name, shape in zip(self.op.inputs, shapes))
        return values


_NUMBER = (), None  # its shape, and no dtype: it takes that of the arrays beside it
_turns = itertools.count(0, -1)


def _asks_for(function):
    kinds = {p.name: p.kind for p in inspect.signature(function).parameters.values()}
    names = tuple(name for name, kind in kinds.items() if kind != inspect.Parameter.VAR_KEYWORD)
    return names, len(names) < len(kinds)


def _edge(x):
    return x if x.node is None else x.node


def _bare(x):
    return x.data if type(x) is Tensor else tuple(map(_bare, x)) if type(x) is tuple else x


# ------------------------------------------------------------------------------------ the way back


def run_backward(roots, create_graph=False, retain_graph=False, watch=(), stop=False):
    """Push gradients from `roots`, a list of (tensor, gradient), to the leaves.

    Returns {edge: gradient} of the leaves and of the edges in `watch`; with stop=True nothing goes
    past a watched edge. An edge is a leaf tensor, or the node that made a tensor.

    The youngest node first, PyTorch's order too, costs no count of who used what. It may hold more
    gradients at once: of 60 branches all built before they are multiplied, 60.

    Raises RuntimeError where a part of the graph was freed or a saved array has changed. What was
    walked until then stays walked: its hooks were called, its nodes are freed; leaves got nothing.
    """
    watch = set(watch)
    gradients, waiting, found = {}, [], {}  # waiting: a heap of nodes, the youngest on top
    keep, anomaly = retain_graph or create_graph, mode.anomaly

    with set_mode(grad=create_graph, pulled=None):
        pairs = [(_edge(tensor), g if create_graph else g.data) for tensor, g in roots]
        while True:
            collect(pairs, gradients, waiting)
            if not waiting:
                break
            node = heappop(waiting)[1]
            g = gradients.pop(node)
            if node.hooks:
                mode.pulled = None
                g = _call_hooks(node, _as_tensor(g))
                g = g if create_graph else g.data
            if watch and node in watch:
                found[node] = _as_tensor(g)
                if stop:
                    pairs = ()
                    continue
            mode.pulled = node
            pairs = node.op.pull(node, g)
            if anomaly:
                for _, gx in pairs:
                    check_finite(_bare(gx), f"the gradient through {node.op.name}", node.where)
            if not keep:
                node.edges, node.saved, node.prints, node.attrs = None, {}, [], {}
        mode.pulled = None
        for leaf, g in gradients.items():
            g = _as_tensor(g)
            found[leaf] = g if stop else _call_hooks(leaf, g)  # a checkpoint's: later, on the whole
    return found


def collect(pairs, gradients, waiting):
    """Add [(edge, gradient)] to the gradients; with its first one a node joins the heap."""
    for edge, g in pairs:
        if g is None:
            continue
        if edge in gradients:
            g = gradients[edge] + g
        elif type(edge) is Node:
            heappush(waiting, (edge.turn, edge))
        gradients[edge] = g


def _as_tensor(g):
    return g if type(g) is Tensor else _plain(g)


def grad(outputs, inputs, grad_outputs=None, create_graph=False, retain_graph=None,
         allow_unused=False):
    """Gradients of `outputs` (a tensor or a list) with respect to `inputs`, without touching .grad.

    grad_outputs: a tensor (a list of them for a list); ones where the output is a scalar.
    create_graph=True records the way back, so that the result can be differentiated again. Returns
    a tensor where `inputs` is one, else a list. An input that the outputs do not depend on is an
    error, or None with allow_unused=True. Gradients may share their numbers with each other.
    """
    if isinstance(outputs, Tensor):
        outputs, grad_outputs = [outputs], None if grad_outputs is None else [grad_outputs]
    single, outputs = isinstance(inputs, Tensor), list(outputs)
    inputs = [inputs] if single else list(inputs)
    for i, x in enumerate(inputs):
        if not x.requires_grad:
            raise ValueError(f"input {i} of grad() does not require a gradient; make it with "
                             "requires_grad=True")
    seeds = [None] * len(outputs) if grad_outputs is None else list(grad_outputs)
    if len(seeds) != len(outputs):
        raise ValueError(f"{len(seeds)} grad_outputs were given for {len(outputs)} outputs")
    roots = [(y, seed_gradient(y, seed)) for y, seed in zip(outputs, seeds)]
    retain_graph = create_graph if retain_graph is None else retain_graph
    found = run_backward(roots, create_graph, retain_graph, watch=map(_edge, inputs))
    wanted = [found.get(_edge(x)) for x in inputs]
    for i, g in enumerate(wanted):
        if g is None and not allow_unused:
            raise ValueError(f"the outputs do not depend on input {i} of grad(); "
                             "allow_unused=True gives None for it")
    return wanted[0] if single else wanted


def _call_hooks(edge, g):
    if not edge.hooks:
        return g
    g = _own(g)  # what a hook sees it may keep or change
    for hook in list(edge.hooks.values()):
        changed = hook(g)
        if changed is not None and (type(changed) is not Tensor or changed.shape != g.shape):
            raise TypeError("a hook returns None or a tensor of the gradient's shape, "
                            f"{g.shape}; got {changed!r}")
        g = g if changed is None else changed
    return _own(g)


def _own(g):
    """The gradient with numbers that nothing else has; what is differentiable stays so."""
    return g + 0 if g.requires_grad else Tensor(g.data.copy())


from minideep.tensor import Tensor, _plain  # noqa: E402  (tensors and ops are made of each other)
from minideep.promotion import as_operand, fit, keep_single_precision  # noqa: E402
