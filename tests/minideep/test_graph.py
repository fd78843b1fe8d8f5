"""The graph as a data structure: its size, its life, and what passes through it."""

import copy
import gc
import inspect
import pickle
import subprocess
import sys
import tracemalloc
import weakref

import hypothesis.stateful as stateful
import numpy as np
import pytest
from hypothesis import settings, strategies as st

import minideep
from minideep import ops
from minideep.autograd import Node, Op, op
from minideep.checks import fingerprint


def leaf(*values):
    return minideep.tensor(np.array(values, "float64"), requires_grad=True)


# -------------------------------------------------------------------------------------------- size

def test_a_graph_100_000_deep():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.sum().backward()
    assert x.grad.item() == 1.0
    y = x
    for _ in range(100_000):
        y = y * 1.0
    del y  # without a way back: it must die without recursion too


def test_a_graph_20_000_wide():
    x = leaf(1.0, 2.0)
    parts = [x * float(i) for i in range(20_000)]
    ops.concatenate(parts).sum().backward()
    assert x.grad.numpy().tolist() == [sum(range(20_000))] * 2


def test_a_sum_of_20_000_terms():
    x, y = leaf(1.0), 0.0
    for _ in range(20_000):
        y = y + x * 1.0
    y.sum().backward()
    assert x.grad.item() == 20_000


def test_two_to_the_60_paths(monkeypatch):
    calls = []
    pull = minideep.autograd.Op.pull
    monkeypatch.setattr(minideep.autograd.Op, "pull",
                        lambda self, *args: calls.append(self.name) or pull(self, *args))
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y
    y.sum().backward()
    assert x.grad.item() == 2.0 ** 60
    assert len(calls) == 61


# -------------------------------------------------------------------------------------------- life

def step(w, x, create_graph=False):
    loss = (ops.tanh(x @ w).reshape(-1)[2:] ** 2).sum()
    if create_graph:
        loss = (minideep.grad(loss, w, create_graph=True) ** 2).sum()
    loss.backward()
    w.grad = None


@pytest.mark.parametrize("create_graph, steps", [(False, 1000), (True, 200)])
def test_nothing_waits_for_the_garbage_collector(create_graph, steps):
    w, x = minideep.tensor(np.ones((8, 8)), requires_grad=True), minideep.tensor(np.ones((4, 8)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(4 * steps if create_graph else steps):  # Python's own free lists fill up
            step(w, x, create_graph)
        tracemalloc.start()
        step(w, x, create_graph)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(steps):
            step(w, x, create_graph)
        after = tracemalloc.get_traced_memory()[0]
        cycles = gc.collect()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert cycles == 0
    assert after - before < 250 * steps  # one 8x8 array a step would be over 600
    alive = [o.op.name for o in gc.get_objects() if type(o) is Node]
    assert "tanh" not in alive


def test_a_graph_dies_with_its_last_tensor():
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = ops.exp(x)
        z = y.sum()
        node, tensor = weakref.ref(y.node), weakref.ref(y)
        del y
        assert node() is not None and tensor() is None
        del z
        assert node() is None
    finally:
        gc.enable()


def test_backward_releases_what_was_saved_as_it_goes():
    x = leaf(1.0, 2.0)
    y = ops.exp(x) * 3.0
    middle = y.node.edges[0]
    y.sum().backward()
    assert middle.saved == {} and middle.edges is None


def test_backward_releases_what_max_pooling_kept():
    y = ops.max_pool2d(leaf(*range(16)).reshape(1, 4, 4, 1), 2)
    kept = weakref.ref(y.node.attrs["kept"]["winners"])
    y.sum().backward()
    gc.collect()
    assert kept() is None and y.node is not None


def test_a_second_way_back_through_a_freed_graph():
    x = leaf(3.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="freed.*retain_graph=True"):
        y.backward()


def test_a_graph_freed_in_part():
    x = leaf(3.0)
    shared = x * x
    a, double = shared.sum(), shared * 2.0
    double.retain_grad()
    b = double.sum()
    a.backward()
    with pytest.raises(RuntimeError, match="mul was freed"):
        b.backward()
    assert double.grad.item() == 1.0 and x.grad.item() == 6.0  # until there it went
    with pytest.raises(RuntimeError, match="sum was freed"):
        b.backward()


def test_an_input_that_its_op_sends_nothing_to_still_gets_what_others_send():
    x = leaf(1.0, 2.0)
    y = x * 2.0
    unused = minideep.checkpoint(lambda a, b: a * 3.0, x, y)
    (unused + y).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [5.0, 5.0])


def test_an_op_without_a_vjp_for_one_input(one_sided):
    x = leaf(1.0, 2.0)
    y = x * 2.0
    (one_sided(y, y) + y).sum().backward()  # y^2 as if its second factor were a constant, plus y
    np.testing.assert_array_equal(x.grad.numpy(), 2.0 * (y.numpy() + 1.0))


def test_retain_graph():
    x = leaf(3.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 12.0


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda y: pickle.loads(pickle.dumps(y))],
                         ids=["copy", "deepcopy", "pickle"])
def test_a_graph_and_its_copy_in_one_way_back(again):
    x = leaf(1.0, 2.0)
    y = x * 2.0
    twin = again(y)
    (y + twin).sum().backward()
    own = 4.0 if again is copy.copy else 2.0  # which has the same leaf
    np.testing.assert_array_equal(x.grad.numpy(), [own] * 2)


def test_a_graph_loaded_in_a_fresh_process(tmp_path):
    """There all that is made of it is younger, though few nodes were made."""
    x = leaf(1.0, 2.0)
    for _ in range(10):  # the last is late
        y = (x * 2.0)[[0, 1]]  # the list is saved; strings have other hashes there
    (tmp_path / "graph").write_bytes(pickle.dumps([x, y]))
    program = """if True:
        import minideep, pickle, sys
        x, y = pickle.load(open(sys.argv[1], "rb"))
        loss = ((y * 2.0) * (y * 3.0) * 1.0).sum() + y.sum()
        print([g.numpy().tolist() for g in minideep.grad(loss, [x, y])])"""  # 6 y^2 + y of y = 2 x
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "graph"], capture_output=True,
                          text=True)
    assert done.stdout.strip() == "[[50.0, 98.0], [25.0, 49.0]]", done.stderr


# ----------------------------------------------------------------------------- how ops are declared


@pytest.fixture
def one_sided(monkeypatch):
    """a * b, of which only a has a gradient."""
    monkeypatch.setattr(Op, "registry", dict(Op.registry))

    @op
    def one_sided(a, b, *, times=1.0):
        return a * b * times

    one_sided.vjp(a=lambda g, b, times: g * b * times)
    return one_sided


@pytest.mark.parametrize("args, kwargs, expected", [
    (("x", 5.0), {}, 5.0), (("x",), {"b": 5.0}, 5.0), ((), {"a": "x", "b": 5.0}, 5.0),
    (("x", 5.0, 2.0), {}, 10.0), (("x", 5.0), {"times": 2.0}, 10.0),
    (("x",), {"b": 5.0, "times": 2.0}, 10.0)])
def test_inputs_and_options_by_place_and_by_name(one_sided, args, kwargs, expected):
    x = leaf(1.0, 2.0)
    y = one_sided(*[x if a == "x" else a for a in args],
                  **{name: x if a == "x" else a for name, a in kwargs.items()})
    np.testing.assert_array_equal(y.numpy(), expected * x.numpy())
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [expected] * 2)


def test_a_call_that_does_not_fit_its_op(one_sided):
    x = leaf(1.0)
    for args, kwargs, problem in [
            ((), {}, "'a', 'b'. not given"), ((), {"b": 2.0}, "'a'. not given"),
            ((x,), {}, "'b'. not given"), ((x,), {"a": 2.0}, "'b'. not given"),
            ((x,), {"c": 2.0}, "'b'. not given"), ((x, 2.0), {"c": 2.0}, "'c'"),
            ((x, 2.0), {"a": 2.0}, "'a'"), ((x, 2.0, 3.0, 4.0), {}, "got 4"),
            ((x, 2.0, 3.0), {"times": 3.0}, "times once")]:
        with pytest.raises(TypeError, match=f"one_sided.*{problem}"):
            one_sided(*args, **kwargs)


@pytest.mark.parametrize("vjps", [{"c": lambda g: g}, {"b": None}, {"times": lambda g: g}])
def test_a_vjp_that_no_input_can_have(one_sided, vjps):
    with pytest.raises(TypeError, match=f"vjp of one_sided for '{[*vjps][0]}'.*inputs .'a', 'b'"):
        one_sided.vjp(**vjps)


@pytest.mark.parametrize("x", [2 - 1j, np.complex64(2 - 1j), np.complex128(2 - 1j)])
def test_the_conjugate_of_a_number_is_one_of_its_kind(x):
    assert ops.conj(x) == 2 + 1j and type(ops.conj(x)) is type(x)


@pytest.mark.parametrize("x", [True, 3, 1.5, np.float32(1.5), np.float64(1.5)])
def test_the_conjugate_of_what_is_real(x):
    assert ops.conj(x) is x


# ------------------------------------------------------------------------------ changed in place


@pytest.mark.parametrize("size", [1000, 40_000, 60_001])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
def test_a_fingerprint_knows_every_number_and_its_place(size, dtype):
    """Also above and below the size from which on it is sums instead of all bytes."""
    a = (100 * np.random.default_rng(0).standard_normal(size)).astype(dtype)
    told = fingerprint(a)
    assert fingerprint(a.copy()) == told
    changes = {"sign": -a, "order": a[::-1], "moved": np.roll(a, 1), "sorted": np.sort(a)}
    changes |= {name: a.copy() for name in ("least", "swapped", "nan", "behind", "last")}
    changes["least"][7] = a[7] + 1 if a.dtype.kind == "i" else np.nextafter(a[7], a.dtype.type(1e4))
    changes["swapped"][[3, size - 3]] = a[[size - 3, 3]]
    changes["behind"][size - 300] = a[size - 300] + 1  # behind the last whole line of sums
    changes["last"][size - 1] = a[size - 1] + 1
    changes["nan"][5] = 0 if a.dtype.kind == "i" else np.nan
    for name, changed in changes.items():
        assert fingerprint(changed) != told, name
        assert fingerprint(changed.copy()) == fingerprint(changed), name
    if a.dtype.kind == "f":  # what is not finite hides nothing
        for value in (np.nan, np.inf):
            a[9] = value
            swapped = a.copy()
            swapped[[3, size - 3]] = a[[size - 3, 3]]
            assert fingerprint(swapped) != fingerprint(a), value


@pytest.mark.parametrize("shape", [(4, 251), (8, 502), (100, 502), (32, 1004), (64, 64), (50, 251)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fingerprint_knows_changes_that_could_make_up_for_each_other(shape, dtype):
    """Its sums are of 251 times 8 bytes, modulo 2^64, of which a sign is the half."""
    a = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    told = fingerprint(a)
    two = a.copy()
    two[:2] *= -1
    for changed in (-a, two, a[::-1], a[:, ::-1], np.roll(a, 1, 0), np.roll(a, 1, 1), abs(a)):
        assert fingerprint(changed) != told


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("apart", [241, 251, 482, 502])
def test_a_fingerprint_knows_exchanged_rows(dtype, apart):
    """Of labels of which many rows are alike, so many rows apart as its tables are wide."""
    a = np.eye(10, dtype=dtype)[np.random.default_rng(0).integers(0, 10, 1000)]
    told = fingerprint(a)
    for i in range(0, 1000 - apart, 7):
        changed = a.copy()
        changed[[i, i + apart]] = a[[i + apart, i]]
        assert (fingerprint(changed) == told) == (a[i] == a[i + apart]).all(), i


def by_index(x):
    x.data[0] = 7.0


def by_addition(x):
    x.data += 1.0


def by_sign(x):
    x.data *= -1.0


def by_order(x):
    x.data[...] = x.data[::-1].copy()


def by_swap(x):
    x.data[[0, 1]] = x.data[[1, 0]]


def by_view(x):
    view = x.data[1:]
    view -= 2.0


def by_rebinding(x):
    x.data = x.data + 1.0


@pytest.mark.usefixtures("on_the_cpu")
def test_a_change_in_an_index_among_others():
    x, rows = leaf(1.0, 2.0, 3.0, 4.0).reshape(2, 2), np.array([0, 1])
    y = x[rows, 0]
    rows[0] = 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [4, 1000, 40_000, 40_001])
@pytest.mark.parametrize(
    "change", [by_index, by_addition, by_sign, by_order, by_swap, by_view, by_rebinding])
def test_a_changed_input_is_reported(change, size, dtype):
    x = minideep.tensor(np.linspace(1, 2, size, dtype=dtype), requires_grad=True)
    y = (x * x).sum()
    change(x)
    with pytest.raises(RuntimeError, match=r"mul saved .* changed in place"):
        y.backward()


@pytest.mark.usefixtures("on_the_cpu")
def test_a_changed_output_is_reported():
    x = leaf(1.0, 2.0)
    y = ops.exp(x)
    y.data[0] = 0.0
    with pytest.raises(RuntimeError, match="exp saved"):
        y.sum().backward()


@pytest.mark.usefixtures("on_the_cpu")
def test_what_hooks_and_retained_gradients_have_is_theirs():
    x, mine, kept = leaf(1.0, 2.0), minideep.tensor(np.ones(2)), []
    for hook in (lambda g: kept.append(g), lambda g: mine):
        for hooked in ("leaf", "node"):
            x.grad, y = None, x + 1.0
            (x if hooked == "leaf" else y).register_hook(hook)
            y.retain_grad()
            (y * y).sum().backward()
            for other in (y.grad, mine, *kept):
                assert not np.shares_memory(x.grad.data, other.data)
            x.hooks = None
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (a + b).sum().backward(create_graph=True)
    assert not np.shares_memory(a.grad.data, b.grad.data)
    v = leaf(3.0, 4.0) * 1.0                    # in place, in a graph of its own
    y = a + 0.0
    y.register_hook(_triple)
    a.grad = b.grad = None
    (y + b).backward(v, create_graph=True)
    assert (a.grad.numpy().tolist(), b.grad.numpy().tolist()) == ([9, 12], [3, 4])


def _triple(g):
    g.data *= 3


@pytest.mark.parametrize("where", ["node", "leaf"])
def test_a_hook_does_not_cut_the_graph(where):
    """The gradient that it sees is a leaf: the derivative is taken with respect to that."""
    x, v = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = x * x if where == "node" else x + 0.0
    (y if where == "node" else x).register_hook(lambda g: None)
    gx = minideep.grad(y, x, v, create_graph=True)
    gv = minideep.grad(gx, v, minideep.tensor(np.ones(2)))
    np.testing.assert_array_equal(gv.numpy(), [2, 4] if where == "node" else [1, 1])
    (x + 0.0).backward(v, create_graph=True)
    assert x.grad.requires_grad and x.grad.data is not v.data


@pytest.mark.usefixtures("on_the_cpu")
def test_a_leaf_gets_a_view_only_where_nobody_else_has_it():
    kept = []

    def gradient(function, seed=None):
        x = leaf(*range(6))
        y = function(x)
        y.backward(seed)
        return x.grad.data

    def hooked(x):
        y = ops.reshape(x, shape=(2, 3))
        y.register_hook(lambda g: kept.append(g.data))
        return (y * 3.0).sum()

    factor = minideep.tensor(np.arange(6.0).reshape(2, 3))
    alone = gradient(lambda x: (ops.reshape(x, shape=(2, 3)) * factor).sum())
    assert alone.base is not None and alone.base.size == 6      # it was not copied
    assert not np.shares_memory(gradient(hooked), kept[0])
    seed = minideep.tensor(np.ones((2, 3)))
    assert not np.shares_memory(gradient(lambda x: ops.reshape(x, shape=(2, 3)), seed), seed.data)
    assert gradient(lambda x: x.sum()).strides == (8,)          # not one number six times
    for shape, function in (((1, 3), lambda x: x.sum(axis=0)), ((1,), lambda x: x.sum()),
                            ((2, 1), lambda x: x.mean(axis=1)),
                            ((2, 3), lambda x: ops.pad(x.sum(axis=0), width=((0, 3),)))):
        x = minideep.tensor(np.ones(shape), requires_grad=True)
        function(x).sum().backward()
        before = x.grad.data.copy()
        x.grad.data *= 2                                        # each number once
        np.testing.assert_array_equal(x.grad.data, 2 * before)
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    for y in (ops.reshape(a, shape=(2, 1)) + ops.reshape(b, shape=(2, 1)), ops.concatenate([a, b])):
        a.grad = b.grad = None
        (y * y).sum().backward()
        assert not np.shares_memory(a.grad.data, b.grad.data)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_change_through_an_alias_is_reported():
    x = leaf(1.0, 2.0)
    half = x[:1]
    y = (x * x).sum()
    half.data[0] = 5.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


@pytest.mark.usefixtures("on_the_cpu")
def test_a_changed_index_is_reported():
    x, index = leaf(1.0, 2.0, 3.0), np.array([0, 1])
    y = x[index].sum()
    index[0] = 2
    with pytest.raises(RuntimeError, match="getitem saved"):
        y.backward()


def test_a_change_that_no_gradient_needs_is_allowed():
    x, other = leaf(1.0, 2.0), leaf(1.0, 1.0)
    y = (x + other).sum()
    x.data += 1.0      # a sum's gradient does not ask for its inputs
    y.backward()
    y = (other * 2.0 + (x * x)).sum()
    other.data += 1.0  # nor does a product with a number
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1 + 2 * 2, 1 + 2 * 3])


@pytest.mark.parametrize("shape", [(70_000,), (1_000_003,), (32, 32, 512)])
def test_the_sample_of_a_large_array_meets_every_250th_part(shape):
    a = np.ones(shape, np.float32)
    told, part = fingerprint(a), -(-a.size // 250)
    for start in np.random.default_rng(0).integers(0, a.size - part, 100):
        changed = a.copy()
        changed.reshape(-1)[start:start + part] = 0
        assert fingerprint(changed) != told, start


@pytest.mark.parametrize("shape", [(8, 56, 56, 32), (4, 64, 64, 24), (8, 28, 28, 128), (1, 50, 50, 70)])
def test_the_sample_meets_every_channel(shape):
    a = np.ones(shape, np.float32)
    told = fingerprint(a)
    for channel in range(shape[-1]):
        a[..., channel] = 2
        assert fingerprint(a) != told, channel
        a[..., channel] = 1


def test_the_sample_of_a_transposed_or_sliced_array_is_as_dense():
    a = np.ones((1000, 1000), np.float32)
    for view in (a.T, a[:, ::2], a[::2].T):
        told = fingerprint(view)
        for rows in range(0, view.shape[0] - 70, 70):
            view[rows:rows + 70] = 0
            assert fingerprint(view) != told
            view[rows:rows + 70] = 1
    images = np.ones((1, 224, 224, 3), np.float32).transpose(0, 3, 1, 2)
    for view in (images, images[..., ::-1], np.ones((1, 400_000), np.float32)[:, ::2]):
        told, part = fingerprint(view), -(-view.size // 250)
        for start in range(0, view.size - part, view.size // 100):
            at = np.unravel_index(np.arange(start, start + part), view.shape)
            view[at] = 0
            assert fingerprint(view) != told, (view.shape, start)
            view[at] = 1


@pytest.mark.usefixtures("on_the_cpu")
def test_large_arrays_are_sampled_and_checked_in_full_when_asked():
    x = minideep.tensor(np.ones(200_000), requires_grad=True)
    y = (x * x).sum()
    x.data += 1.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    with minideep.detect_anomaly():
        y = (x * x).sum()
        x.data[123_457] = 0.0
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()


# ------------------------------------------------------------------------------------------- hooks

def test_hooks_on_leaves_and_inside():
    x, seen = leaf(1.0, 2.0), []
    y = x * 3.0
    y.register_hook(lambda g: seen.append(("y", g.numpy().tolist())))
    x.register_hook(lambda g: seen.append(("x", g.numpy().tolist())))
    (y * y).sum().backward()
    assert seen == [("y", [6.0, 12.0]), ("x", [18.0, 36.0])]  # once each, with the whole gradient


def test_a_hook_changes_the_gradient_and_can_be_removed():
    x = leaf(1.0, 2.0)
    y = x * 3.0
    remove = y.register_hook(lambda g: g * 10.0)
    y.sum().backward(retain_graph=True)
    assert x.grad.numpy().tolist() == [30.0, 30.0]
    remove()
    remove()
    x.grad = None
    y.sum().backward()
    assert x.grad.numpy().tolist() == [3.0, 3.0]


def test_hooks_run_in_order():
    x = leaf(1.0)
    x.register_hook(lambda g: g + 1.0)
    x.register_hook(lambda g: g * 10.0)
    x.sum().backward()
    assert x.grad.item() == 20.0


@pytest.mark.parametrize("answer", [np.ones(2), 1.0, minideep.tensor([1.0, 2.0, 3.0])])
def test_a_hook_must_return_a_gradient(answer):
    x = leaf(1.0, 2.0)
    x.register_hook(lambda g: answer)
    with pytest.raises(TypeError, match="a hook returns None or a tensor"):
        x.sum().backward()


def test_a_tensor_without_gradient_takes_no_hook():
    with pytest.raises(RuntimeError, match="requires_grad"):
        minideep.tensor([1.0]).register_hook(print)


def test_retain_grad():
    x = leaf(1.0, 2.0)
    y = x * 3.0
    y.retain_grad()
    y.retain_grad()  # changes nothing
    (y * y).sum().backward()
    assert y.grad.numpy().tolist() == [6.0, 12.0]
    node = weakref.ref(y.node)
    gc.disable()
    del y
    assert node() is None  # the hook holds no cycle
    gc.enable()


def test_a_hook_on_a_leaf_that_a_checkpoint_captures_runs_once():
    w, seen = leaf(2.0), []
    w.register_hook(seen.append)
    y = minideep.checkpoint(lambda x: x * w, leaf(3.0)) + w
    y.sum().backward()
    assert [g.item() for g in seen] == [4.0]


# -------------------------------------------------------------- a naive engine as the oracle (random)

class Naive:
    """A value that knows its parents and local slopes; the gradient is summed over all paths."""

    def __init__(self, value, parents=()):
        self.value, self.parents = value, parents

    def slope(self, leaf):
        if self is leaf:
            return 1.0
        return sum(d * parent.slope(leaf) for parent, d in self.parents)


class RandomGraph(stateful.RuleBasedStateMachine):
    """Any sequence of ops, graphs grown after a way back, freed and retained, against `Naive`."""

    number = st.floats(-1.5, 1.5).map(lambda v: round(v, 3))

    def __init__(self):
        super().__init__()
        self.pairs, self.leaves = [], []

    @stateful.initialize(values=st.lists(number, min_size=1, max_size=3))
    def start(self, values):
        for value in values:
            self.add_leaf(value)

    @stateful.rule(value=number)
    def add_leaf(self, value):
        pair = leaf(value), Naive(value)
        self.leaves.append(pair)
        self.pairs.append(pair)

    def pick(self, data):
        return data.draw(st.sampled_from(range(max(0, len(self.pairs) - 4), len(self.pairs))))

    @stateful.rule(data=st.data(), name=st.sampled_from(["add", "sub", "mul", "maximum"]))
    def binary(self, data, name):
        (a, na), (b, nb) = self.pairs[self.pick(data)], self.pairs[self.pick(data)]
        tie = 0.5 if na.value == nb.value else None
        slopes = dict(add=(1, 1), sub=(1, -1), mul=(nb.value, na.value), maximum=(
            tie or float(na.value > nb.value), tie or float(nb.value > na.value)))[name]
        y = getattr(ops, name)(a, b)
        self.pairs.append((y, Naive(y.item(), [(na, slopes[0]), (nb, slopes[1])])))

    @stateful.rule(data=st.data(), name=st.sampled_from(["tanh", "sin", "neg"]))
    def unary(self, data, name):
        x, nx = self.pairs[self.pick(data)]
        y = getattr(ops, name)(x)
        slope = dict(tanh=1 - np.tanh(nx.value) ** 2, sin=np.cos(nx.value), neg=-1.0)[name]
        self.pairs.append((y, Naive(y.item(), [(nx, slope)])))

    @stateful.rule(data=st.data())
    def way_back(self, data):
        y, ny = self.pairs[self.pick(data)]
        y.backward(retain_graph=True)
        for x, nx in self.leaves:
            expected = ny.slope(nx)
            got = 0.0 if x.grad is None else x.grad.item()
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
            x.grad = None

    @stateful.rule(data=st.data())
    def grad_of_one_inside(self, data):
        (y, ny), (x, nx) = self.pairs[self.pick(data)], self.pairs[self.pick(data)]
        g = minideep.grad(y, x, retain_graph=True, allow_unused=True)
        np.testing.assert_allclose(0.0 if g is None else g.item(), ny.slope(nx), rtol=1e-9, atol=1e-9)


RandomGraph.TestCase.settings = settings(max_examples=20, stateful_step_count=20)
TestRandomGraph = RandomGraph.TestCase


def test_the_stack_stays_shallow():
    """The deep graph above would also pass with a raised recursion limit; here it is low."""
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = ops.sin(y)
    limit = sys.getrecursionlimit()
    depth = len(inspect.stack()) + 150
    sys.setrecursionlimit(depth)
    try:
        y.sum().backward()
    finally:
        sys.setrecursionlimit(limit)
    assert np.isfinite(x.grad.item())
