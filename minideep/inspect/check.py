"""Are the gradients of a program right, op by op, as it runs?"""

import contextlib

import numpy as np

from kernels import backend
from minideep.autograd import Op
from minideep.device import device
from minideep.gradcheck import CannotCheck, GradientError, gradcheck
from minideep.inspect.observe import display_name, observe, unobserved
from minideep.mode import enable_grad
from minideep.tensor import Tensor, tensor

__all__ = ["check_gradients"]


@contextlib.contextmanager
def check_gradients(rtol=1e-5, rtol32=2e-3):
    """Compare the gradient of every op that runs inside with finite differences.

        with inspect.check_gradients() as checked:
            loss = model(x).sum()
        print(checked)

    Each op with an input that needs a gradient is checked at the very numbers that it met: in
    float64, along random directions (relative tolerance `rtol`); and its float32 gradient, which
    other kernels may compute, must be the float64 one to `rtol32` of the largest number in it. The
    first that is wrong raises GradientError with op, layer, input, numbers and the source line.
    Complex inputs move in both of their parts. Passed over, and counted in `skipped`: numbers at a
    kink (a ReLU at 0), or not finite. Slow: for small batches.
    """
    checker = _Checker(rtol, rtol32)
    with observe(checker):
        yield checker


class _Checker:
    """ops, skipped: {name: how many calls were checked, and how many could not be}."""

    def __init__(self, rtol, rtol32):
        self.rtol, self.rtol32, self.ops, self.skipped = rtol, rtol32, {}, {}

    def op_called(self, call):
        moving = [i for i, x in enumerate(call.inputs) if isinstance(x, Tensor) and x.requires_grad]
        if call.within is None and moving and call.out.requires_grad:
            with unobserved(), enable_grad(), device(call.inputs[moving[0]].device):
                self._check(call, moving)

    def _check(self, call, moving):
        name = display_name(call.op)
        fixed = [x.data if isinstance(x, Tensor) else x for x in call.inputs]

        def function(*tensors):
            inputs, parts = [_like(x, tensors[0]) for x in fixed], iter(tensors)
            for i in moving:
                inputs[i] = next(parts)
                if fixed[i].dtype.kind == "c":  # its two real parts are what moves
                    inputs[i] = inputs[i] + next(parts) * tensor(np.asarray(1j))
            return _call(call, inputs)

        values = []
        for i in moving:
            x = backend.to_numpy(fixed[i])
            values += [x.real, x.imag] if x.dtype.kind == "c" else [x]
        largest = max([np.abs(v).max(initial=0) for v in values if v.dtype.kind == "f"], default=0)
        scale = min(1.0, float(largest)) or 1.0 if np.isfinite(largest) else 1.0
        names = [part for i in moving for part in (
            [f"real({self._argument(call.op, i)})", f"imag({self._argument(call.op, i)})"]
            if fixed[i].dtype.kind == "c" else [self._argument(call.op, i)])]
        where = (f"{name}{' in ' + call.layer if call.layer else ''}, at "
                 f"{call.line}; differentiated inputs: "
                 + ", ".join(f"{i} = {part}" for i, part in enumerate(names)))
        for eps in (1e-5, 1e-7):  # a smaller step, nearer to fewer kinks
            try:
                gradcheck(function, *values, order=1, eps=eps * scale, rtol=self.rtol * 1e-5 / eps,
                          atol=1e-7 * 1e-5 / eps, directions=1)
                break
            except CannotCheck:
                continue
            except GradientError as error:
                raise GradientError(f"{where}: {error}") from None
        else:
            self.skipped[name] = self.skipped.get(name, 0) + 1
            return
        self._check_single(call, moving, where)
        self.ops[name] = self.ops.get(name, 0) + 1

    def _check_single(self, call, moving, where):
        """The gradient as the program gets it (float32, fast kernels) against float64's."""
        if call.out.dtype != np.float32 or any(call.inputs[i].dtype.kind == "c" for i in moving):
            return
        found = []
        g = np.random.default_rng(0).standard_normal(call.out.shape)
        for dtype in ("float32", "float64"):
            device = call.out.device
            inputs = [_cast(x.data if isinstance(x, Tensor) else x, dtype) for x in call.inputs]
            for i in moving:
                inputs[i] = Tensor(inputs[i], requires_grad=True)
            y = _call(call, inputs)
            y.backward(Tensor(backend.to_device(g.astype(y.dtype), device)))
            found.append([inputs[i].grad for i in moving])
        for at, single, double in zip(moving, *found):
            if single is None or double is None or not double.size:
                continue
            want, got = double.numpy(), single.numpy()
            if not np.isfinite(want).all():
                continue
            error = np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)
            if not error <= self.rtol32:
                worst = np.unravel_index(np.abs(got - want).argmax(), want.shape)
                raise GradientError(
                    f"{where}: the float32 gradient of {self._argument(call.op, at)} at "
                    f"{tuple(map(int, worst))} is {got[worst]:.9g}, in float64 it is "
                    f"{want[worst]:.9g}")

    @staticmethod
    def _argument(op, i):
        return f"{op.variadic}[{i}]" if op.variadic else op.inputs[i]

    def __str__(self):
        total = sum(self.ops.values())
        names, skipped = (", ".join(f"{name} {count}" for name, count in sorted(found.items()))
                          for found in (self.ops, self.skipped))
        return f"{total} calls checked ({names}); not checked: {skipped or 'none'}"


def _call(call, inputs):
    attrs = dict(call.attrs)
    if isinstance(attrs.get("kept"), dict):  # what a fused op notes for its way back
        attrs["kept"] = {}
    if "dtype" in attrs and attrs["dtype"] in ("float32", np.float32):
        attrs = {**attrs, "dtype": "float64" if _double(inputs) else "float32"}
    return Op.__call__(call.op, *inputs, **attrs)


def _double(inputs):
    return any(getattr(x, "dtype", None) == np.float64 for x in inputs)


def _like(x, tensor):
    """The fixed input x in float64, where it is floating, beside the float64 `tensor`."""
    return _cast(x, "float64") if backend.is_array(x) else x


def _cast(x, dtype):
    kind = x.dtype.kind if backend.is_array(x) else ""
    if kind == "c" and dtype == "float64":
        return x.astype("complex128")
    return x.astype(dtype) if kind == "f" else x
