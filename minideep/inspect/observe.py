"""Looking on while a program runs: every op, every vjp, every layer.

The engine has no hooks for this and pays nothing for it: while somebody looks, `Op.__call__`,
`Op.pull`, `Layer.__call__` and the making of a node are replaced by ones that note it or tell the
observers of this thread what happened, and put back afterwards.
"""

import contextlib
import threading
import time
import weakref

from kernels import backend
from minideep.autograd import Node, Op, _bare
from minideep.checks import user_line
from minideep.layers.base import Layer
from minideep.mode import mode
from minideep.tensor import Tensor

_observers = []
_inside = threading.local()  # .layers: the layers whose call() we are in, outermost first
_originals = {}
_lock = threading.Lock()


class OpCall:
    """An op that ran. inputs, out: tensors (inputs as they were given). path: the names of the
    layers that it is in, outermost first; layer: the same in one text. line: file:line of the
    user's program. within: the node whose vjp it was a part of, None on the way forward and where a
    checkpoint computes again; that is `again`. start, seconds: of time.perf_counter()."""

    def __init__(self, op, inputs, attrs, out, start, seconds):
        self.op, self.inputs, self.attrs, self.out = op, inputs, attrs, out
        self.start, self.seconds = start, seconds
        self.path, self.line, self.within = tuple(_layers()), user_line(), mode.pulled
        self.layer, self.again = "/".join(self.path), self.within is None and bool(_pulls())


class Pull:
    """A vjp that ran: of `node`, given the gradient `g` of its output; `pairs` as Op.pull's. inside:
    the part of its seconds that belongs to others, a checkpoint's to what it computes again."""

    def __init__(self, node, g, pairs, start, seconds, inside):
        self.node, self.g, self.pairs = node, g, pairs
        self.start, self.seconds, self.inside = start, seconds, inside


_notes = weakref.WeakKeyDictionary()  # node -> (path, line), of the nodes made under observation


def path_and_line(node):
    """Where the node was made: the names of the layers, outermost first, and file:line; (), None
    if nobody looked on."""
    return _notes.get(node, ((), node.where))


def note(node):
    """(layer, line) where the node was made, layer "model/dense"; ("", None) if nobody looked on."""
    path, line = path_and_line(node)
    return "/".join(path), line


def display_name(op):
    return op.name.lstrip("_")


@contextlib.contextmanager
def observe(observer):
    """Tell `observer` what runs inside: it has any of op_called(OpCall), pulled(Pull) and
    layer_called(layer, name, x, y). Of this thread only; may be nested."""
    observer.thread = threading.get_ident()
    with _lock:
        if not _observers:
            _install()
        _observers.append(observer)
    try:
        yield observer
    finally:
        with _lock:
            _observers.remove(observer)
            if not _observers:
                _uninstall()


@contextlib.contextmanager
def unobserved():
    """What an observer itself computes is not observed."""
    before, _inside.quiet = getattr(_inside, "quiet", False), True
    try:
        yield
    finally:
        _inside.quiet = before


def _install():
    _originals.update(call=Op.__call__, pull=Op.pull, layer=Layer.__call__, node=Node.__init__)
    Op.__call__, Op.pull, Layer.__call__, Node.__init__ = _op_call, _op_pull, _layer_call, _node_init
    for cls in _subclasses(Op):
        if "pull" in vars(cls):  # a checkpoint's
            _originals[cls] = cls.pull
            cls.pull = _pull_like(cls.pull)


def _uninstall():
    Op.__call__, Op.pull, Layer.__call__, Node.__init__ = (
        _originals.pop(k) for k in ("call", "pull", "layer", "node"))
    for cls in list(_originals):
        cls.pull = _originals.pop(cls)


def _subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _layers():
    if not hasattr(_inside, "layers"):
        _inside.layers = []
    return _inside.layers


def _pulls():
    """The seconds that others took inside each vjp that runs now: a checkpoint's runs others."""
    if not hasattr(_inside, "pulls"):
        _inside.pulls = []
    return _inside.pulls


def _tell(what, *args):
    for observer in list(_observers):
        if observer.thread == threading.get_ident():
            tell = getattr(observer, what, None)
            if tell is not None:
                tell(*args)


def _quiet():
    return getattr(_inside, "quiet", False)


def _clock(array=None):
    if array is not None and backend.device_of(array) == "cuda":  # kernels run on after the call
        backend.array_module(array).cuda.get_current_stream().synchronize()
    return time.perf_counter()


def _op_call(self, *inputs, **attrs):
    if _quiet():
        return _originals["call"](self, *inputs, **attrs)
    start = _clock()
    out = _originals["call"](self, *inputs, **attrs)
    seconds = _clock(out.data) - start
    call = OpCall(self, inputs, attrs, out, start, seconds)
    _tell("op_called", call)
    if call.again:
        _pulls()[-1] += _clock() - start  # what the observers took too
    return out


def _node_init(self, op, inputs, attrs, y):
    _originals["node"](self, op, inputs, attrs, y)
    if not _quiet():
        _notes[self] = tuple(_layers()), user_line()


def _pull_like(original):
    def pull(self, node, g):
        if _quiet():
            return original(self, node, g)
        if type(g) is not Tensor:  # on tensors, so that what the vjp does can be seen
            return [(edge, _bare(gx)) for edge, gx in pull(self, node, Tensor(g))]
        pulls, layers = _pulls(), _layers()
        pulls.append(0.0)
        _inside.layers = list(path_and_line(node)[0])  # of what a checkpoint computes again
        start = _clock(g.data)
        try:
            pairs = original(self, node, g)
        finally:
            seconds, inside, _inside.layers = _clock(g.data) - start, pulls.pop(), layers
        _tell("pulled", Pull(node, g, pairs, start, seconds, inside))
        if pulls:
            pulls[-1] += _clock() - start
        return pairs
    return pull


def _op_pull(self, node, g):
    return _pull_like(_originals["pull"])(self, node, g)


def _layer_call(self, x, *args, **kwargs):
    layers = _layers()
    layers.append(self.name)
    try:
        y = _originals["layer"](self, x, *args, **kwargs)
        if not _quiet():
            _tell("layer_called", self, "/".join(layers), x, y)
        return y
    finally:
        layers.pop()
