"""The inspector tells the truth about what the engine did, and leaves no trace of itself."""

import contextlib
import json
import time
import xml.etree.ElementTree as xml

import numpy as np
import pytest

import minideep
from minideep import inspect, layers, models, ops
from minideep.autograd import Node, Op, op
from minideep.gradcheck import GradientError
from minideep.layers.base import Layer

RNG = np.random.default_rng(0)
HERE = "test_inspect.py:"


def cnn():
    minideep.seed(0)
    return models.Sequential([
        layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 3)), layers.MaxPooling2D(2),
        layers.Flatten(), layers.Dense(5)])


def images(n=2):
    return RNG.standard_normal((n, 8, 8, 3)).astype("float32")


def leaf(*shape):
    return minideep.tensor(RNG.standard_normal(shape), requires_grad=True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = Op.__call__, Op.pull, Layer.__call__, Node.__init__
    yield
    assert (Op.__call__, Op.pull, Layer.__call__, Node.__init__) == before


# ---------------------------------------------------------------------------------------- stepping


def test_steps_tell_op_shapes_gradients_layer_and_line():
    model, x = cnn(), images()
    with inspect.trace():
        loss = (model(x) ** 2).sum()
    steps = list(inspect.steps(loss))
    ops_seen = [step.op for step in steps]
    assert ops_seen[:2] == ["sum", "power"] and "affine" in ops_seen
    affine = steps[ops_seen.index("affine")]
    assert affine.layer == "/".join([model.name, model.layers[-1].name])
    assert HERE in affine.line
    g, w = affine.incoming.numpy(), model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(affine.outgoing["x"].numpy(), g @ w.T, rtol=1e-5)
    assert affine.shapes["x"] == (2, 36)
    assert affine.norms["x"] == pytest.approx(np.linalg.norm(g @ w.T), rel=1e-5)
    assert "affine" in str(affine) and "norm" in str(affine)


def test_after_the_last_step_the_leaves_have_what_backward_gives():
    a, b = leaf(3, 4), leaf(4, 3)
    y = ((a @ b + a @ b) * (a * a).sum()).sum()  # uses a four times, one product twice
    for step in inspect.steps(y):
        pass
    stepped = a.grad.numpy(), b.grad.numpy()
    a.grad = b.grad = None
    y.backward()
    np.testing.assert_allclose(stepped[0], a.grad.numpy())
    np.testing.assert_allclose(stepped[1], b.grad.numpy())


def test_each_op_is_one_step_however_many_used_its_output():
    y = leaf(3) * 2.0
    steps = list(inspect.steps((ops.tanh(y) + y).sum()))
    assert [step.op for step in steps] == ["sum", "add", "tanh", "mul"]


@pytest.mark.parametrize("function", [
    ops.softmax, ops.log_softmax, lambda x: ops.softmax_crossentropy(x, minideep.tensor([1, 0, 2]).data),
    lambda x: ops.sigmoid_crossentropy(x, minideep.tensor(np.ones((3, 4))))])
def test_steps_through_ops_whose_gradient_is_a_kernel(function):
    a = leaf(3, 4)
    list(inspect.steps((function(a * 2.0) ** 2).sum()))
    stepped, a.grad = a.grad.numpy(), None
    (function(a * 2.0) ** 2).sum().backward()
    np.testing.assert_array_equal(stepped, a.grad.numpy())


def test_an_input_that_stands_twice_has_both_gradients():
    a = leaf(3)
    total, product = inspect.steps((a * a).sum())
    assert (total.op, product.op) == ("sum", "mul")
    np.testing.assert_array_equal(product.outgoing["a"].numpy(), a.numpy())
    np.testing.assert_array_equal(product.outgoing["b"].numpy(), a.numpy())
    np.testing.assert_array_equal(a.grad.numpy(), 2 * a.numpy())


def test_of_an_input_that_stands_twice_the_one_with_the_gradient_is_named(monkeypatch):
    monkeypatch.setattr(Op, "registry", dict(Op.registry))

    @op
    def second(a, b):
        return a * b

    second.vjp(b=lambda g, a: g * a)
    y = minideep.tensor([1.0, 2.0], requires_grad=True) * 2.0
    for z, name in (second(y, y), "b"), (minideep.checkpoint(lambda a, b: b * 3.0, y, y), "inputs[1]"):
        for observed in contextlib.nullcontext(), inspect.trace(), minideep.detect_anomaly():
            with observed:
                _, step, _ = inspect.steps(z.sum())
                assert list(step.outgoing) == [name]
                z.sum().backward(retain_graph=True)  # on arrays


def test_steps_name_the_op_whose_gradient_is_not_finite():
    with minideep.detect_anomaly(), np.errstate(divide="ignore"):
        walk = inspect.steps(ops.sqrt(minideep.tensor([0.0], requires_grad=True)).sum())
        assert next(walk).op == "sum"
        with pytest.raises(FloatingPointError, match=f"infinity in the gradient through sqrt.*{HERE}"):
            next(walk)


def test_steps_through_a_freed_graph_say_so():
    a = leaf(3)
    y = (a * a).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        list(inspect.steps(y))


def test_hooks_act_and_a_checkpoint_is_stepped_through():
    a = leaf(3)
    a.register_hook(lambda g: g * 2)
    y = minideep.checkpoint(lambda x: ops.tanh(x) * 3.0, a).sum()
    assert "checkpoint" in [step.op for step in inspect.steps(y)]
    np.testing.assert_allclose(a.grad.numpy(), 6 * (1 - np.tanh(a.numpy()) ** 2))


# ------------------------------------------------------------------------------------------- graph


def test_the_picture_is_well_formed_and_has_every_op():
    model, x = cnn(), images()
    with inspect.trace():
        loss = (model(x) ** 2).sum()
    picture = inspect.graph(loss, names=model)
    texts = {t.text for t in xml.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"affine", "max_pool2d", "power", "layers.3.kernel"} <= texts
    assert picture.dot.startswith("digraph {") and picture.dot.count("->") >= 7
    for box in picture.boxes:
        for source in box.sources:
            assert picture.boxes.index(source) < picture.boxes.index(box)


def test_layers_collapse():
    model, x = cnn(), images()
    with inspect.profile() as profile:
        loss = model(x).sum()
        inner = inspect.graph(loss, depth=1, names=model, profile=profile)
        outer = inspect.graph(loss, depth=0)
    titles = [box.title for box in inner.boxes if box.kind == "layer"]
    assert titles == [layer.name for layer in model.layers]
    assert [b.title for b in outer.boxes if b.kind == "layer"] == [model.name]
    dense = next(box for box in inner.boxes if box.title == model.layers[-1].name)
    spent = sum(e["seconds"] for e in profile.events if e["layer"].endswith(dense.title))
    assert dense.seconds == pytest.approx(spent)


def test_boxes_do_not_overlap_and_a_layer_may_be_called_twice(tmp_path):
    dense = layers.Dense(4)
    x = leaf(2, 4)
    with inspect.trace():
        y = dense(ops.tanh(dense(x))).sum()
    from minideep.inspect.graph import layout
    for depth in (None, 0):
        picture = inspect.graph(y, depth=depth)
        places = list(layout(picture.boxes)[0].values())
        for i, (x0, y0, w0, h0) in enumerate(places):
            for x1, y1, w1, h1 in places[:i]:
                assert x0 >= x1 + w1 or x1 >= x0 + w0 or y0 >= y1 + h1 or y1 >= y0 + h0
        picture.save(tmp_path / "graph.svg")
        xml.parse(tmp_path / "graph.svg")
    with pytest.raises(ValueError, match=".svg or .dot"):
        picture.save(tmp_path / "graph.png")


def test_a_deep_graph_needs_no_recursion():
    x = leaf(2)
    y = x
    for _ in range(5000):
        y = y * 1.0
    assert len(inspect.graph(y).boxes) == 5001
    assert sum(1 for _ in inspect.steps(y.sum())) == 5001


# ------------------------------------------------------------------------------- memory and profile


def test_memory_counts_each_buffer_once():
    x = leaf(10, 10)
    x = minideep.tensor(x.numpy(), dtype="float64", requires_grad=True)
    a = ops.exp(x)          # keeps its output: 800 bytes
    y = (a * a).sum()       # keeps a: the same buffer
    kept = inspect.memory(y)
    assert kept.saved == 800 and kept.leaves == 800 and kept.total == 1600
    assert "exp" in str(kept) or "mul" in str(kept)


def test_memory_names_the_line():
    x = leaf(3)
    with inspect.trace():
        y = ops.tanh(x)
    (row,) = [row for row in inspect.memory(y).rows if row["kind"] == "saved"]
    assert row["op"] == "tanh" and HERE in row["line"]


def test_profile_counts_operations_and_writes_a_chrome_trace(tmp_path):
    a, b = leaf(5, 7), leaf(7, 3)
    with inspect.profile() as profile:
        (a @ b).sum().backward()
    forward = {row["op"]: row for row in profile.by("op") if row["phase"] == "forward"}
    backward = {row["op"]: row for row in profile.by("op") if row["phase"] == "backward"}
    assert forward["matmul"]["flops"] == 2 * 5 * 7 * 3
    assert backward["matmul"]["flops"] >= 2 * forward["matmul"]["flops"]
    assert forward["matmul"]["bytes"] == a.data.nbytes + b.data.nbytes + 5 * 3 * a.data.itemsize
    assert all(row["seconds"] > 0 for row in profile.by("line"))
    assert "GFLOP/s" in profile.table("layer")
    profile.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["cat"] for e in events} == {"forward", "backward"}
    assert all(e["ph"] == "X" and e["dur"] > 0 and e["ts"] >= 0 for e in events)
    with pytest.raises(ValueError, match="'op', 'layer' or 'line'"):
        profile.by("colour")


def test_profile_knows_the_layers_and_the_operations_of_a_convolution():
    model, x = cnn(), images(3)
    with inspect.profile() as profile:
        model(x).sum().backward()
    rows = {(row["layer"], row["phase"]): row for row in profile.by("layer")}
    conv = rows[f"{model.name}/{model.layers[0].name}", "forward"]
    assert conv["flops"] >= 2 * 3 * 6 * 6 * 4 * 27
    assert (f"{model.name}/{model.layers[0].name}", "backward") in rows


def test_a_checkpoint_is_counted_once(tmp_path):
    """What it computes again has a phase of its own; its own time is without that; and its node has
    the layer and the line of the user's program."""
    class Slow(layers.Dense):
        def call(self, x):
            time.sleep(0.02)
            return ops.tanh(x @ self.kernel)

    class Saving(Layer):
        def __init__(self):
            super().__init__(name="saving")
            self.inner = Slow(7, name="inner")

        def call(self, x):
            return minideep.checkpoint(self.inner, x)

    model, x = Saving(), leaf(5, 7)
    model(x)
    start = time.perf_counter()
    with inspect.profile() as profile:
        y = model(x)
        y.sum().backward()
    elapsed = time.perf_counter() - start
    calls = {(e["op"], e["phase"]): e for e in profile.events}
    assert len(calls) == len(profile.events)
    forward, again = calls["matmul", "forward"], calls["matmul", "recompute"]
    assert forward["flops"] == again["flops"] == 2 * 5 * 7 * 7
    assert forward["layer"] == again["layer"] == "saving/inner" and HERE in again["line"]
    assert ("tanh", "recompute") in calls and ("tanh", "backward") in calls
    own = calls["checkpoint", "backward"]
    assert own["layer"] == "saving" and HERE in own["line"] and own["flops"] == 0
    assert own["seconds"] > 0.02                        # it slept in there, in no op
    assert profile.seconds <= elapsed
    inside = [e for e in profile.events if e["phase"] != "forward" and e is not own
              and own["start"] <= e["start"] and e["end"] <= own["end"]]
    assert {e["op"] for e in inside} >= {"matmul", "tanh"}
    assert own["seconds"] + sum(e["seconds"] for e in inside) <= own["end"] - own["start"]
    profile.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["tid"] for e in events} == {"forward", "recompute", "backward"}
    with inspect.trace():
        y = model(x)
    steps = {step.op: step for step in inspect.steps(y.sum())}
    assert steps["checkpoint"].layer == "saving" and HERE in steps["checkpoint"].line


def test_ops_under_second_derivatives_are_counted_once():
    """A fused op's vjp under create_graph runs its composite form: ops of their own."""
    layer = layers.LSTM(4)
    x = minideep.tensor(np.ones((2, 5, 3), "float32"), requires_grad=True)
    layer(x)
    start = time.perf_counter()
    with inspect.profile() as profile:
        (g,) = minideep.grad([layer(x).sum()], [x], create_graph=True)
        g.sum().backward()
    assert profile.seconds <= time.perf_counter() - start


# --------------------------------------------------------------------------------- check_gradients


def test_check_gradients_passes_a_right_model_and_says_what_it_checked():
    model, x = cnn(), images(1)
    recurrent = layers.LSTM(3)
    with inspect.check_gradients() as checked:
        model(x).sum()
        recurrent(RNG.standard_normal((2, 4, 3)).astype("float32")).sum()
    assert {"affine", "lstm"} <= set(checked.ops)  # the ties of ReLU zeros are kinks of the pool
    assert "calls checked" in str(checked)


def test_check_gradients_names_op_input_numbers_and_line():
    def wrong(x, w):
        return x * w
    broken = Op(wrong)
    broken.vjp(x=lambda g, w: g * w, w=lambda g, x: 1.01 * g * x)
    try:
        a, b = leaf(3), leaf(3)
        with pytest.raises(GradientError) as caught:
            with inspect.check_gradients():
                broken(a, b).sum()
        text = str(caught.value)
        assert "wrong" in text and "w" in text and HERE in text and "finite differences" in text
    finally:
        del Op.registry["wrong"]


def test_check_gradients_holds_the_float32_kernel_to_float64():
    def halved(x):
        return x * np.asarray(2, x.dtype)
    broken = Op(halved)
    broken.vjp(x=lambda g: g * (2.0 if g.dtype == "float64" else 1.9))
    try:
        x = minideep.tensor(np.ones(3, "float32"), requires_grad=True)
        with pytest.raises(GradientError, match="float32 gradient of x"):
            with inspect.check_gradients():
                broken(x)
    finally:
        del Op.registry["halved"]


def test_a_kink_is_counted_and_not_an_error():
    x = minideep.tensor(np.zeros(4), requires_grad=True)
    with inspect.check_gradients() as checked:
        ops.relu(x)
    assert checked.skipped == {"relu": 1} and "not checked: relu 1" in str(checked)


# ----------------------------------------------------------------------------------------- records


def test_record_keeps_what_the_layers_gave():
    model, x = cnn(), images()
    with inspect.record(model) as outputs:
        y = model(x)
        layers.Dense(2)(np.ones((1, 3), "float32"))  # not of the model
    assert len(outputs) == len(model.layers) + 1
    np.testing.assert_array_equal(outputs[model.name][0].numpy(), y.numpy())


@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.GRU, layers.LSTM])
def test_gradient_flow_is_the_gradient_at_each_state(kind):
    """Of the last step it is that of the sum, √U; and a gate of scale 1/2 halves what crosses it."""
    layer = kind(4, dtype="float64")
    x = RNG.standard_normal((3, 6, 2))
    norms = inspect.gradient_flow(layer, x)
    assert norms.shape == (6,) and norms[-1] == pytest.approx(2.0)
    layer.gradient_gate = (0.5, None)
    gated = inspect.gradient_flow(layer, x)
    assert gated[-2] == pytest.approx(norms[-2] / 2) or kind is layers.LSTM
    assert gated[0] < norms[0]
    assert layer.cell.kernel.grad is None


def test_gradient_flow_agrees_with_finite_differences():
    layer = layers.SimpleRNN(3, dtype="float64")
    x = RNG.standard_normal((1, 4, 2))
    norms = inspect.gradient_flow(layer, x)
    W, R, b = (w.numpy() for w in layer.weights)

    def rest(h, t):
        for s in range(t + 1, 4):
            h = np.tanh(x[:, s] @ W + h @ R + b)
        return h.sum()

    h = np.zeros((1, 3))
    for t in range(4):
        h = np.tanh(x[:, t] @ W + h @ R + b)
        numeric = [(rest(h + e, t) - rest(h - e, t)) / 2e-6 for e in 1e-6 * np.eye(3)]
        assert norms[t] == pytest.approx(np.linalg.norm(numeric), rel=1e-6)


def test_gates_are_those_that_make_the_states():
    x = RNG.standard_normal((2, 5, 3))
    layer = layers.LSTM(4, return_sequences=True, dtype="float64")
    v = inspect.gates(layer, x)
    c = np.zeros((2, 4))
    for t, h in enumerate(np.moveaxis(layer(x).numpy(), 1, 0)):
        c = v["forget"][:, t] * c + v["input"][:, t] * v["candidate"][:, t]
        np.testing.assert_allclose(v["output"][:, t] * np.tanh(c), h, atol=1e-12)
        np.testing.assert_allclose(v["cell"][:, t], c, atol=1e-12)
    for reset_after in (True, False):
        layer = layers.GRU(4, return_sequences=True, reset_after=reset_after, dtype="float64")
        layer.build(x.shape)
        layer.cell.bias.data = minideep.tensor(RNG.standard_normal(layer.cell.bias.shape)).data
        v = inspect.gates(layer, x)
        before = np.zeros((2, 4))
        for t, h in enumerate(np.moveaxis(layer(x).numpy(), 1, 0)):
            z = v["update"][:, t]
            np.testing.assert_allclose(z * before + (1 - z) * v["candidate"][:, t], h, atol=1e-12)
            before = h
    with pytest.raises(TypeError, match="no gates"):
        inspect.gates(layers.SimpleRNN(4), x)
    with pytest.raises(ValueError, match="N, T, I"):
        inspect.gradient_flow(layer, x[0])


def test_the_landscape_of_a_bowl_and_weights_put_back():
    dense = layers.Dense(3, use_bias=False)
    dense.build((None, 2))
    before = dense.kernel.numpy().copy()
    at, losses = inspect.loss_landscape(lambda: ops.square(dense.kernel).sum(), dense, steps=5)
    np.testing.assert_array_equal(dense.kernel.numpy(), before)
    assert losses[2, 2] == pytest.approx((before**2).sum(), rel=1e-5)
    norm = (before**2).sum()
    # Along a direction d as long as w, filter by filter: |w + a d|² = |w|² (1 + a²) + 2a<w, d>.
    np.testing.assert_allclose(losses[4, 2] + losses[0, 2], 2 * norm * (1 + at[4] ** 2), rtol=1e-4)


def test_the_figures_are_made(tmp_path):
    import matplotlib
    matplotlib.use("Agg")
    model, x = cnn(), images()
    with inspect.record(model) as outputs:
        model(x).sum().backward()
    lstm = layers.LSTM(4)
    sequences = RNG.standard_normal((2, 5, 3)).astype("float32")
    at, losses = inspect.loss_landscape(lambda: ops.square(model(x)).sum(), model, steps=3)
    figures = [inspect.plot_activations(outputs), inspect.plot_filters(model.layers[0]),
               inspect.plot_gradient_flow({"LSTM": inspect.gradient_flow(lstm, sequences)}),
               inspect.plot_gates(inspect.gates(lstm, sequences)), inspect.plot_histograms(model),
               inspect.plot_loss_landscape(at, losses)]
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 2000
    for figure in figures[2:]:
        assert any(ax.get_xlabel() for ax in figure.axes)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        inspect.plot_filters(model.layers[-1])
    matplotlib.pyplot.close("all")


def test_check_gradients_of_a_model_with_normalisation():
    model = models.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(),
                               layers.Flatten(), layers.Dense(6), layers.LayerNormalization()])
    with inspect.check_gradients() as checked:
        model(images(3), training=True).sum()
    assert checked.ops["normalize"] == 2


def test_operations_of_recurrent_layers_and_of_each_node():
    small, large = layers.LSTM(4), layers.LSTM(32)
    x = np.ones((2, 5, 3), "float32")
    with inspect.profile() as profile:
        for layer in (small, large):
            layer(x).sum().backward()
    forward, backward = ([e["flops"] for e in profile.events if e["op"] == "lstm"
                          and e["phase"] == phase] for phase in ("forward", "backward"))
    assert forward == [2 * 2 * 5 * 16 * 4, 2 * 2 * 5 * 128 * 32]
    assert backward == [2 * n for n in forward]
    affine = [e["flops"] for e in profile.events if e["op"] == "affine" and e["phase"] == "forward"]
    assert affine in ([], [2 * 10 * 16 * 3, 2 * 10 * 128 * 3])


@pytest.mark.usefixtures("on_the_cpu")
def test_memory_sees_what_options_hold():
    x = leaf(50)
    index = np.arange(40)
    y = x[index]
    assert inspect.memory(y).saved == index.nbytes
    with pytest.raises(TypeError, match="one by one"):
        inspect.memory([y])
    y.sum().backward()
    assert "freed" in str(pytest.raises(RuntimeError, inspect.graph, y).value)


def test_names_that_xml_cannot_have():
    layer = layers.Dense(2, name="a\x01\n<b>")
    with inspect.trace():
        y = layer(np.ones((1, 3), "float32"))
    picture = inspect.graph(y, depth=0, names={layer.kernel: 5})
    xml.fromstring(picture.svg)
    assert "\x01" not in picture.dot


def test_a_layer_name_with_a_slash_is_one_name():
    inner = layers.Dense(4, name="block/dense")
    model = models.Sequential([inner, layers.Dense(2, name="block")], name="a/b")
    with inspect.profile() as profile:
        y = model(np.ones((1, 3), "float32")).sum()
        titles = [[b.title for b in inspect.graph(y, depth=depth, profile=profile).boxes
                   if b.kind == "layer"] for depth in (0, 1)]
    assert titles == [["a/b"], ["block/dense", "block"]]
    box = next(b for b in inspect.graph(y, depth=1, profile=profile).boxes if b.title == inner.name)
    spent = sum(e["seconds"] for e in profile.events if e["path"][1:] == (inner.name,))
    assert box.seconds == pytest.approx(spent) and spent > 0


def test_gates_of_a_layer_that_reads_backwards():
    layer = layers.LSTM(4, go_backwards=True, dtype="float64")
    x = RNG.standard_normal((2, 5, 3))
    v = inspect.gates(layer, x)
    np.testing.assert_allclose(v["output"][:, -1] * np.tanh(v["cell"][:, -1]), layer(x).numpy(),
                               atol=1e-12)


def test_the_landscape_leaves_moving_statistics():
    model = models.Sequential([layers.Dense(3), layers.BatchNormalization()])
    x = RNG.standard_normal((8, 2)).astype("float32")
    model(x)
    before = model.get_weights()
    inspect.loss_landscape(lambda: ops.square(model(x, training=True)).sum(), model, steps=2)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_check_gradients_of_complex_ops(monkeypatch):
    x = leaf(4, 6)
    with inspect.check_gradients() as checked:
        f = ops.rfft2(x, axes=(0, 1))
        ops.real(f * ops.conj(f)).sum()
        ops.irfft2(f * 2.0, shape=(4, 6), axes=(0, 1))
    assert {"rfft2", "conj", "mul", "real", "irfft2"} <= set(checked.ops) and not checked.skipped
    conj = next(Op.registry[name] for name in ("conj", "_conj") if name in Op.registry)
    monkeypatch.setattr(conj, "vjps", ())  # and back
    conj.vjp(x=lambda g: 7.0 * g)
    with pytest.raises(GradientError, match="conj"), inspect.check_gradients():
        ops.real(f * ops.conj(f))
