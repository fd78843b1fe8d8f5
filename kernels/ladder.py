"""One op, many ways to compute it: the ladder from the textbook formula to the fastest code.

    @ladder
    def scale(x, factor=2): ...             # the contract: checks, and returns the arguments
        return x, float(factor)             # in one normal form

    @rung(scale, device="cpu", why="the formula itself")
    def formula(x, factor): ...             # registered from the bottom rung upward

    @rung(scale, device="any", why="one vector operation, not a Python loop")
    def array(x, factor): ...

    @array.needs                            # True, or the reason why not
    def _(x, factor):
        return x.ndim == 1 or "one dimension only"

`scale(x)` normalises its arguments, then runs the highest rung that is eligible: it runs on the
device of the arrays and its `needs` says True (asked once for all arguments that look the same: see
`Rung.needs`). `explain` tells which rung that is and why not the
others; `use` and the environment variable MINIDEEP_KERNELS=op=rung,op=rung force one. The variable
is read at the first call of an op, and no more after that. A name that does not exist is an error:
of `use` at once, of the variable at every call of any op.
No rung moves an array from one device to another.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os

import numpy as np

from kernels.backend import common_device, is_array

ENVIRONMENT = "MINIDEEP_KERNELS"
REMEMBERED = 4096  # picks of an op

_PLAIN = {tuple, int, bool, type(None)}  # arguments that look like themselves

_ladders = {}
_forced = contextvars.ContextVar("kernels.use", default={})


class Rung:
    """One way to compute an op. Calling it runs it on normalised arguments, without any check."""

    def __init__(self, op, function, device, why):
        self.op = op
        self.name = function.__name__
        self.device = device
        self.why = why
        self.function = function
        self.condition = None
        functools.update_wrapper(self, function)

    def __call__(self, *args):
        return self.function(*args)

    def needs(self, condition):
        """Decorator: `condition(*args)` returns True, or the reason why this rung cannot run.

        It may ask for an array's type, shape, dtype and flags, for whole numbers, and for what is
        None, not for what else is in them: its answer is remembered (see Ladder.pick).
        """
        self.condition = condition
        self.op.picked.clear()
        return condition

    def refusal(self, device, args):
        """None if the rung can run `args` on `device`, or the reason why not."""
        if self.device != "any" and self.device != device:
            return f"runs on {self.device}, the arrays are on {device}"
        if self.condition is None:
            return None
        answer = self.condition(*args)
        return None if answer is True else str(answer)

    def __repr__(self):
        return f"<rung {self.name} ({self.device}): {self.why}>"


class Ladder:
    """An op: its contract and its rungs, the formula first."""

    def __init__(self, contract):
        self.name = contract.__name__
        self.contract = contract
        self.rungs = {}
        self.picked = {}  # what the arguments look like -> the rung that runs them
        functools.update_wrapper(self, contract)

    def __call__(self, *args, **kwargs):
        args = self.contract(*args, **kwargs)
        return self.pick(args).function(*args)

    def pick(self, args):
        """The rung that will run the normalised arguments `args`."""
        forced = choice(self.name) if environment() or _forced.get() else None
        if forced is None:
            looks = tuple([arg if type(arg) in _PLAIN else _look(arg) for arg in args])
            found = self.picked.get(looks)
            if found is not None and self.rungs.get(found.name) is found:
                return found
        device = common_device([a for a in args if is_array(a)])
        if forced is not None:
            reason = self.rungs[forced].refusal(device, args)
            if reason is None:
                return self.rungs[forced]
            raise ValueError(self._impossible(forced, reason, device, args))
        for rung in reversed(self.rungs.values()):
            if rung.refusal(device, args) is None:
                if len(self.picked) >= REMEMBERED:
                    self.picked.clear()
                self.picked[looks] = rung
                return rung
        raise ValueError(self._impossible(None, None, device, args))

    def _impossible(self, forced, reason, device, args):
        refusals = {rung.name: rung.refusal(device, args) for rung in self.rungs.values()}
        eligible = [name for name, refusal in refusals.items() if refusal is None]
        if forced is not None:
            return (
                f"{self.name}: rung {forced!r} was asked for but cannot run here: {reason}; "
                f"eligible here: {', '.join(eligible) or 'none'}"
            )
        reasons = "; ".join(f"{name}: {refusal}" for name, refusal in refusals.items())
        return f"{self.name}: no rung can run these arguments ({reasons})"

    def __repr__(self):
        return f"<ladder {self.name}: {' < '.join(self.rungs)}>"


def _look(arg):
    """All of an argument that `needs` may ask for. Equal for two arguments: the same answer."""
    if isinstance(arg, np.ndarray):
        return type(arg), arg.shape, arg.dtype, arg.flags.num
    if is_array(arg):
        return type(arg), arg.shape, arg.dtype, arg.flags.c_contiguous, arg.flags.f_contiguous
    return float if isinstance(arg, (float, np.floating)) else arg


def ladder(contract):
    """Decorator: make an op of a function that checks its arguments and returns them normalised."""
    _ladders[contract.__name__] = Ladder(contract)
    return _ladders[contract.__name__]


def rung(op, *, device, why):
    """Decorator: add the next rung, faster than those before, to the ladder `op`.

    device: "cpu", "cuda", or "any" for code that runs on every array module.
    why: in one sentence, why it is faster than the rung before.
    """
    if device not in ("any", "cpu", "cuda"):
        raise ValueError(f"device must be 'any', 'cpu' or 'cuda', got {device!r}")

    def add(function):
        op.rungs[function.__name__] = Rung(op, function, device, why)
        op.picked.clear()
        return op.rungs[function.__name__]

    return add


def ladders():
    """All ops: a dictionary from name to Ladder, in the order of their declaration."""
    return dict(_ladders)


def use(**choices):
    """Force rungs: `with use(conv2d="im2col"): ...`, or as a decorator.

    Holds for the current thread (or task) only; an inner `use` adds to and overrides an outer one,
    and both override MINIDEEP_KERNELS. Raises ValueError for an unknown op or rung; a call that
    the forced rung cannot run raises ValueError and names those that can.
    """
    _check(choices, "use()")
    return _using(choices)


@contextlib.contextmanager
def _using(choices):
    token = _forced.set({**_forced.get(), **choices})
    try:
        yield
    finally:
        _forced.reset(token)


def choice(op):
    """The rung forced for `op`, or None."""
    general = environment()  # always asked: a mistake in it is told by every op
    return _forced.get().get(op, general.get(op))


@functools.lru_cache(maxsize=1)  # it is read once: this is asked at every call of every op
def environment():
    """{op: rung} of MINIDEEP_KERNELS. ValueError for names that do not exist."""
    setting = os.environ.get(ENVIRONMENT, "")
    choices = {}
    for item in filter(None, (part.strip() for part in setting.split(","))):
        op, equals, name = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"{ENVIRONMENT}={setting!r}: {item!r} is not of the form op=rung")
        choices[op] = name
    _check(choices, ENVIRONMENT)
    return choices


def _check(choices, where):
    for op, name in choices.items():
        if op not in _ladders:
            raise ValueError(f"{where}: unknown op {op!r}; the ops are {', '.join(_ladders)}")
        if name not in _ladders[op].rungs:
            rungs = ", ".join(_ladders[op].rungs)
            raise ValueError(f"{where}: {op} has no rung {name!r}; its rungs are {rungs}")


class Explanation:
    """Which rung runs a call (`chosen`), and why each other does not (`refused`: name -> reason).

    `chosen` is None where no rung can run the call, or the forced one cannot.
    """

    def __init__(self, op, args):
        device = common_device([a for a in args if is_array(a)])
        forced = choice(op.name)
        self.op = op
        self.device = device
        self.chosen = None
        self.refused = {}
        for name, candidate in reversed(op.rungs.items()):
            reason = candidate.refusal(device, args)
            if reason is None and forced not in (None, name):
                reason = f"{forced} is forced"
            if reason is None and self.chosen is not None:
                reason = "lower on the ladder"
            if reason is None:
                self.chosen = name
            else:
                self.refused[name] = reason

    def __str__(self):
        lines = [f"{self.op.name} on {self.device}:"]
        width = max(map(len, self.op.rungs), default=0)
        for name in reversed(self.op.rungs):
            if name == self.chosen:
                lines.append(f"  > {name:<{width}}  {self.op.rungs[name].why}")
            else:
                lines.append(f"    {name:<{width}}  not used: {self.refused[name]}")
        return "\n".join(lines)

    __repr__ = __str__


def explain(op, *args, **kwargs):
    """Tell which rung `op` (a name or a ladder) would run for these arguments, and why.

    Prints as a small table; has `.chosen` and `.refused`. Nothing is computed.
    """
    if isinstance(op, str):
        if op not in _ladders:
            raise ValueError(f"unknown op {op!r}; the ops are {', '.join(_ladders)}")
        op = _ladders[op]
    return Explanation(op, op.contract(*args, **kwargs))
