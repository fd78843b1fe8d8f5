"""`python -m kernels bench` on tiny shapes: what it measures, prints, writes and draws."""

import functools
import json
import sys
import types

import numpy as np
import pytest
from check_rungs import peak_of

import kernels
from kernels import bench
from kernels.bench import cases, child, measure, peers, report

TINY = {"adam": (100,), "max_pool2d": (1, 8, 8, 4), "conv2d": (1, 8, 8, 4, 4, 3, 1, 1)}


@pytest.fixture
def tiny(monkeypatch):
    """Tiny everyday cases, measured here and not in child processes."""
    for name, size in TINY.items():
        make, small, _ = cases.EXAMPLES[name]
        monkeypatch.setitem(cases.EXAMPLES, name, (make, small, {"tiny": size}))
    monkeypatch.setattr(measure, "ceilings", lambda count: {"sgemm": 50.0, "flops": 60.0, "stream": 9.0})

    def here(module, task):
        answers = []
        if module == "kernels.bench.child":
            monkeypatch.setattr(child, "show", lambda answer: answers.append(answer))
            child.main(task)
        return json.loads(json.dumps(answers))

    monkeypatch.setattr(bench, "answers_of", here)


def test_json_and_plot(tiny, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "a.json", tmp_path / "a.png"
    assert bench.bench("adam", file, picture, threads=[1], seconds=0.001) == 0
    results = json.loads(file.read_text())
    assert {check["verdict"] for check in results["checks"]} <= {"ok", "cannot run here"}
    names = {row["name"] for row in results["rows"] if row["allocator"] == "default"}
    eligible = {name for name, rung in kernels.ladders()["adam"].rungs.items()
                if rung.device != "cuda" and (name != "compiled" or kernels.jit.usable() is True)}
    assert names - {"torch default", "torch fused"} == eligible - {"formula"}
    for row in results["rows"]:
        assert row["bytes"] == 28 * 100  # w, g, m, v are read, w, m, v are written
        seconds = row["milliseconds"] / 1e3
        assert row["gbytes_per_second"] == pytest.approx(2800 / seconds / 1e9)
        assert row["percent_of_ceiling"] == pytest.approx(100 * row["gbytes_per_second"] / 9)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.parametrize("speeds", [(26, 40), (1.5, 30), (.02, 900)])
def test_what_is_written_on_the_plot_can_be_read(speeds, tmp_path, monkeypatch):
    """Of a single op: the labels of the lower axis lie apart, the ceiling's lies outside the frame."""
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plt, "close", lambda figure: None)
    rows = [{"op": "adam", "name": str(i), "bytes": 1, "threads": 1, "allocator": "default",
             "milliseconds": 1., "gbytes_per_second": speed} for i, speed in enumerate(speeds)]
    report.plot({"ceilings": {"1": {"flops": 268., "stream": 55.}}, "rows": rows}, tmp_path / "a.png")
    above, below = plt.gcf().axes
    low, high = below.get_xlim()
    boxes = [label.get_window_extent() for label in below.get_xticklabels(which="both")
             if label.get_text() and low <= label.get_position()[0] <= high]
    boxes = sorted((box.x0, box.x1) for box in boxes)
    assert len(boxes) > 1 and all(a[1] < b[0] for a, b in zip(boxes, boxes[1:]))
    assert below.texts[0].get_text() == "55 GB/s"
    assert below.texts[0].get_window_extent().y0 > below.bbox.y1
    assert above.get_legend() is None and below.get_legend() is not None
    monkeypatch.undo()
    plt.close("all")


def test_every_rung_is_on_the_plot_but_no_row_of_the_api(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plt, "close", lambda figure: None)
    speeds = {"im2col": .02, "direct": 200., "winograd": 600.}
    rows = [{"op": op, "name": name, "bytes": 1e6, "flops": 1e8, "threads": 1, "allocator": "default",
             "milliseconds": 100 / speed, "gflops_per_second": speed}
            for op in ("conv2d", "api") for name, speed in speeds.items()]
    report.plot({"ceilings": {"1": {"flops": 268., "stream": 55.}}, "rows": rows}, tmp_path / "a.png")
    above, _ = plt.gcf().axes
    points = np.concatenate([points.get_offsets() for points in above.collections])
    np.testing.assert_allclose(sorted(points[:, 1]), sorted(speeds.values()))
    for interval, values in ((above.get_xlim(), points[:, 0]), (above.get_ylim(), points[:, 1])):
        assert (interval[0] < values).all() and (values < interval[1]).all()
    monkeypatch.undo()
    plt.close("all")


def test_files_are_checked_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.cases, "check", lambda *_: pytest.fail("it began"))
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    for wrong in (tmp_path / "nowhere" / "a.json", tmp_path / "file" / "a.json", tmp_path):
        for argument in ("json_file", "plot_file"):
            with pytest.raises(SystemExit) as stopped:
                bench.bench("adam", **{argument: str(wrong)})
            assert str(stopped.value).startswith(f"{wrong} cannot be written: ")
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit, match=r"a\.txt: matplotlib writes files named .*\*\.png"):
        bench.bench("adam", plot_file=str(tmp_path / "a.txt"))
    with pytest.raises(SystemExit, match="api has none: leave --plot out, or name an op"):
        bench.bench("api", plot_file=str(tmp_path / "a.png"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_rung_is_reported(tiny, capsys, monkeypatch):
    rung = kernels.ladders()["adam"].rungs["array"]

    def wrong(*args, f=rung.function):
        w, m, v = f(*args)
        w *= 1.01
        return w, m, v

    monkeypatch.setattr(rung, "function", wrong)
    assert bench.bench("adam", threads=[1], seconds=0.001) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "WRONG" in line)
    assert line.split()[:2] == ["adam", "array"]


ARRAYS = {name: next(rung for rung in op.rungs.values() if rung.device == "any")
          for name, op in kernels.ladders().items()}


@functools.cache
def right(name):
    """What the small cases are, and their results."""
    formula = kernels.ladders()[name].rungs["formula"]
    return list(cases.small(name)), [formula(*cases.on_device(a, "cpu")) for a in cases.small(name)]


def verdict(name, wrong):
    """What the check says of the op's lowest vector rung when `wrong(function, *args)` stands for it."""
    op, rung, (given, results) = kernels.ladders()[name], ARRAYS[name], right(name)
    known = iter(results)
    formula = type("Known", (), {"__call__": lambda *_: next(known), "name": "formula", "device": "cpu",
                                 "why": "", "refusal": lambda *_: "known"})()
    with pytest.MonkeyPatch.context() as planted, np.errstate(all="ignore"):
        planted.setattr(op, "rungs", {"formula": formula, rung.name: rung})
        planted.setattr(cases, "small", lambda name: given)
        planted.setattr(rung, "function", lambda *args, f=rung.function: wrong(f, *args))
        answer, _ = cases.check([name])
    return answer["verdict"]


def alike(args):
    """Pairs of arguments that could be taken for one another."""
    arrays = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    return {(i, j) for i in arrays for j in arrays if i < j and args[i].shape == args[j].shape}


@pytest.mark.parametrize("name", cases.EXAMPLES)
def test_arguments_in_the_wrong_order_are_found(name):
    assert verdict(name, lambda f, *args: f(*args)) == "ok"
    for pair in set().union(*map(alike, right(name)[0])):
        def swapped(f, *args, pair=pair):
            order = list(range(len(args)))
            if pair in alike(args):
                order[pair[0]], order[pair[1]] = pair[1], pair[0]
            return f(*(args[i] for i in order))

        assert verdict(name, swapped) == "WRONG", pair


def test_wrong_numbers_of_adam_are_found():
    names = "rate", "beta_1", "beta_2"
    for i, name in enumerate(names):
        def changed(f, *args, i=i):
            return f(*args[:4 + i], args[4 + i] * .95, *args[5 + i:])

        assert verdict("adam", changed) == "WRONG", name


@pytest.mark.parametrize("name", cases.EXAMPLES)
def test_an_error_in_any_small_case_is_found(name):
    for number in range(len(right(name)[0])):
        calls = []

        def wrong(f, *args, number=number, calls=calls):
            calls.append(None)
            result = f(*args)
            if len(calls) - 1 != number:
                return result
            return tuple(r + 1 for r in result) if isinstance(result, tuple) else result + 1

        assert verdict(name, wrong) == "WRONG", number
        assert len(calls) == len(right(name)[0])


@pytest.mark.parametrize("name", cases.EXAMPLES)
def test_cases_are_made_of_different_numbers_and_the_same_in_every_run(name):
    for args, again in zip(cases.small(name), cases.small(name)):
        arrays = [a for a in args if isinstance(a, np.ndarray)]
        for a, b in zip(arrays, (a for a in again if isinstance(a, np.ndarray))):
            np.testing.assert_array_equal(a, b)
        for i, j in alike(args):
            for power in (1, 2):
                assert np.isclose(args[i]**power, args[j]).mean() < 0.1, (i, j)


def test_a_result_that_is_not_a_number_is_wrong():
    assert cases.largest_error(np.array([1.0, np.nan], np.float32), np.ones(2)) == np.inf
    assert cases.largest_error(np.array([1.0, 3.0], np.float32), np.array([1.0, 2.0])) == 0.5


def test_a_result_of_another_shape_or_dtype_is_wrong():
    """Also where NumPy would broadcast it, or compare it all the same."""
    want = np.ones((2, 3))
    single, whole = want.astype(np.float32), want.astype(np.int32)
    assert cases.largest_error(single, want) == cases.largest_error(whole, whole) == 0
    for got in (single[0], single[:1], single[None], want, want.astype(np.float16), whole):
        assert cases.largest_error(got, want) == np.inf, (got.shape, got.dtype)
    assert cases.largest_error(single, whole) == np.inf
    assert cases.largest_error((single, single[0]), (want, want)) == np.inf
    assert verdict("conv2d", lambda f, *args: f(*args).astype(np.float64)) == "WRONG"
    assert verdict("lab", lambda f, *args: f(*args)[0]) == "WRONG"  # the one image of a batch


def test_every_ladder_has_an_example():
    assert set(kernels.ladders()) <= set(cases.EXAMPLES), "see kernels/bench/cases.py"


def test_a_ladder_without_an_example_is_told_of(monkeypatch):
    monkeypatch.delitem(cases.EXAMPLES, "adam")
    assert all("add it to EXAMPLES" in check["reason"] for check in cases.check(["adam"]))
    assert list(cases.everyday("adam")) == []


def test_operations_are_counted_as_the_formula_does_them(tiny):
    case = next(cases.everyday("conv2d"))
    assert case.flops == 2 * 8 * 8 * 4 * 9 * 4
    x, w = case.args[:2]
    assert cases.bytes_of(case.args, x) == 2 * x.nbytes + w.nbytes


def as_ours(name, tensors, expected):
    """What a peer returns, in the order and the layout of our results."""
    if name == "moments":
        return [np.stack([tensors[1], tensors[0]])]
    arrays = [t.detach().numpy() for t in tensors if t is not None]
    if name == "conv2d_weight_grad":
        return [arrays[0].transpose(2, 3, 1, 0)]
    if name in ("normalize", "normalize_grad"):  # (N, C, 1, P); of layers (N, 1, C)
        arrays = [a.transpose(0, 2, 3, 1)[:, 0] if a.ndim == 4 else a for a in arrays]
    elif expected[0].ndim == 4 and name not in ("lstm", "lstm_grad"):
        arrays = [a.transpose(0, 2, 3, 1) for a in arrays]
    return arrays


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_peers_compute_the_same(name):
    torch = pytest.importorskip("torch")
    for args, expected in zip(*right(name)):
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = peers.contestants(name, cases.on_device(args, "cpu", True))
        assert found and all(peer.startswith("torch") for peer in found)
        if name.startswith(("conv2d", "max_pool2d", "avg_pool2d", "crop", "patch")):
            assert set(found) == {"torch NCHW", "torch channels_last"}
        for peer, function in found.items():
            tensors = function()
            tensors = (tensors,) if isinstance(tensors, torch.Tensor) else tensors
            for got, want in zip(as_ours(name, tensors, expected), expected, strict=True):
                assert got.shape == want.shape, peer
                tolerance = 1e-5 * np.abs(want).max()
                np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=peer)


def test_every_op_that_pytorch_has_too_has_a_peer():
    assert set(kernels.ladders()) - set(peers.PEERS) == {"hog", "lab"}


@pytest.mark.parametrize("name", kernels.ladders())
def test_every_rung_is_timed_in_some_case(name):
    """But the formula. `kernels.use`: some run only if asked for."""
    op, timed = kernels.ladders()[name], {"formula"}
    for case in cases.everyday(name):
        for rung in op.rungs.values():
            with kernels.use(**{name: rung.name}):
                if rung.device == "cuda" or rung.refusal("cpu", case.args) is None:
                    timed.add(rung.name)
    if kernels.jit.problem() is None:
        assert timed == set(op.rungs)


def test_contestants_take_turns_in_changing_order(monkeypatch):
    order, now = [], iter(range(1000))
    monkeypatch.setattr(measure.time, "process_time", lambda: next(now))
    found = measure.interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")},
                               seconds=0, turns=20)
    assert found == {"a": [1] * 20, "b": [1] * 20}
    pairs = ["".join(order[i:i + 2]) for i in range(0, 42, 2)]  # the first is warming up
    assert set(pairs) == {"ab", "ba"}
    assert measure.summary([3.0, 1.0, 2.0])["milliseconds"] == 2000


def test_several_threads_are_timed_by_the_clock_when_only_theirs_are_awake(monkeypatch):
    done, now = [], iter(range(1000))
    monkeypatch.setattr(measure, "WAKE", 1.5)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: done.append("clock") or next(now))
    monkeypatch.setattr(measure.time, "sleep", done.append)
    found = measure.interleave({"a": lambda: done.append("a")}, seconds=0, threads=2)
    assert found == {"a": [1] * 3}
    waking = ["clock", "clock", "a", "clock"]           # a call, after which its time is over
    assert done == ["a"] + [measure.PAUSE, *waking, "clock", "a", "clock"] * 3


def test_scaling_prints_time_for_a_pixel(capsys):
    rows = list(child.scaling(0.0, factors=(1, 2)))
    assert [row["case"] for row in rows] == ["batch", "area"]
    printed = [report.rate(row, {}) for row in rows]
    assert all(row["nanoseconds_per_pixel"] > 0 for rows in printed for row in rows)
    assert "forward + backward 2x" in capsys.readouterr().out


@pytest.mark.parametrize("rung", ["im2col", "direct", "winograd"])
@pytest.mark.parametrize("name", ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"])
@pytest.mark.parametrize("what", ["batch", "area"])
def test_memory_grows_no_faster_than_the_image(name, rung, what):
    """Operations are those of the shape; what a rung holds besides its result is bounded."""
    op = kernels.ladders()[name]

    def arguments(n, side):
        args = cases.make(name, n, side, side, 16, 16, 3, 1, 1)
        return cases.on_device(op.contract(*args), "cpu", True)

    def extra(n, side):
        result, peak = peak_of(op.rungs[rung], *arguments(n, side))
        return peak - result.nbytes

    if op.rungs[rung].refusal("cpu", arguments(1, 32)) is not None:
        pytest.skip(f"{rung} cannot run here")
    small = extra(1, 32)
    large = extra(16, 32) if what == "batch" else extra(1, 128)
    assert large <= 16 * small + 2**20 and large <= 64 * 2**20


def test_without_cuda_it_says_what_is_missing(capsys):
    if kernels.backend.cuda_is_available():
        pytest.skip("there is a GPU")
    assert bench.bench("adam", device="cuda") == 1
    assert "CUDA cannot be used here" in capsys.readouterr().out


@pytest.mark.parametrize("name", cases.EXAMPLES)
def test_operations_are_counted_for_every_op(name):
    for args in cases.small(name):
        flops = cases._flops(name, args)
        assert flops is None or flops > 0


# ------------------------------------------------------------------------- timing without a GPU


class Gpu:
    """What `measure` asks of CuPy, on a device whose clock goes on by what is launched: a launch
    returns at once, and an event notes the device's clock, which is known once it was waited for."""

    float32 = np.float32

    def __init__(self):
        self.clock, self.waited_for, self.launched = 0.0, -1.0, []
        self.cuda = types.SimpleNamespace(
            Event=self.event, Device=lambda: types.SimpleNamespace(synchronize=self.wait),
            get_elapsed_time=self.elapsed)

    def launch(self, name, milliseconds):
        self.launched.append(name)
        self.clock += milliseconds

    def wait(self):
        self.waited_for = self.clock

    def event(self):
        event = types.SimpleNamespace(at=None)
        event.record = lambda: setattr(event, "at", self.clock)
        event.synchronize = self.wait
        return event

    def elapsed(self, start, end):
        assert end.at <= self.waited_for, "the device is not ready"  # an error of CUDA as well
        return end.at - start.at

    # arrays, of which only the size is known
    def ones(self, shape, dtype):
        return Array(self, shape)

    empty_like = staticmethod(lambda array: array)

    def copyto(self, to, source):
        self.launch("copy", 2.0)


class Array:
    def __init__(self, gpu, shape):
        self.gpu, self.shape, self.nbytes = gpu, shape, 4 * int(np.prod(shape))

    def __matmul__(self, other):
        assert self.shape == other.shape == (4096, 4096)
        self.gpu.launch("product", 5.0)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in := Gpu())
    return stand_in


def test_a_gpu_is_timed_by_its_own_clock(gpu):
    """In seconds, each call by itself, after calls that compile; the contestants take turns."""
    first = {"slow": 900.0, "fast": 400.0}  # milliseconds of a first call, which compiles

    def contestant(name, milliseconds):
        return lambda: gpu.launch(name, first.pop(name, milliseconds))

    found = measure.interleave_cuda(
        {"slow": contestant("slow", 8.0), "fast": contestant("fast", 0.5)}, 0.005)
    assert set(found) == {"slow", "fast"} and not first
    np.testing.assert_allclose(found["slow"], 0.008)
    np.testing.assert_allclose(found["fast"], 0.0005)
    assert len(found["slow"]) == len(found["fast"]) > 1
    timed = gpu.launched[6:]  # three calls of each are not timed
    assert sorted(gpu.launched[:6]) == ["fast"] * 3 + ["slow"] * 3
    assert timed == ["slow", "fast"] * (len(timed) // 2)


def test_the_ceilings_of_a_gpu(gpu):
    """A copy of 1 GiB in 2 ms is read and written; a product is 2 n^3 operations in 5 ms."""
    found = measure.cuda_ceilings()
    assert found["stream"] == pytest.approx(2 * 2**30 / 1e9 / 2e-3)
    assert found["sgemm"] == found["flops"] == pytest.approx(2 * 4096**3 / 1e9 / 5e-3)


def test_a_pytorch_without_cuda_is_no_peer_on_a_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "as_tensor", lambda a: pytest.fail("it cannot take that"))
    there = types.SimpleNamespace(__cuda_array_interface__={}, dtype=np.float32)
    assert peers.contestants("softmax", (there,)) == {}
