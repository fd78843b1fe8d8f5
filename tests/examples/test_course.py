"""The lessons run, and what their captions and texts claim is so."""

import re
import runpy
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from typer.testing import CliRunner

matplotlib.use("Agg")
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import course  # noqa: E402

LIMIT = 120  # seconds of CPU time that a lesson may take: the machine may be busy


def lesson(number):
    """(namespace, figures) of a lesson's run."""
    start = time.process_time()
    namespace, cells = course.run(course.scripts()[number])
    assert time.process_time() - start < LIMIT
    figures = [figure for cell in cells for figure in cell.figures]
    for picture, caption in figures:
        assert len(course.encoded(picture)[1]) > 1000 and caption
    return namespace, figures


def solutions(number):
    return runpy.run_path(str(EXAMPLES / "solutions" / f"{number}.py"))


@pytest.mark.parametrize("number", course.scripts())
def test_a_lesson_has_a_title_text_and_two_exercises_with_solutions(number):
    path = course.scripts()[number]
    found = course.cells(path)
    assert found[0].kind == "text" and found[0].source.startswith("# ")
    assert len(course.summary(path)) > 40
    exercises = found[-1].source
    assert "## Exercises" in exercises and "\n1. " in exercises and "\n2. " in exercises
    assert f"examples/solutions/{number}.py" in exercises
    assert len([v for k, v in solutions(number).items() if callable(v) and k[0] != "_"]) >= 2


def test_a_page_shows_text_code_output_and_figures(tmp_path, monkeypatch):
    index = course.build(tmp_path, only=["01"])
    page = (tmp_path / "01_a_gradient_by_hand.html").read_text(encoding="utf-8")
    assert "<h1>A gradient by hand" in page and "class=printed" in page
    assert "<svg" in page and "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    listed = index.read_text(encoding="utf-8")
    assert all(course.title(path).split("'")[0] in listed for path in course.scripts().values())


@pytest.mark.parametrize("arguments, says", [
    (["build", "--only", "01,99"], "there is no lesson '99'; there are 01"),
    (["run", "99"], "there is no lesson '99'; there are 01"),
    (["build", "--folder", "{file}"], "it is a file, and a folder is wanted"),
    (["build", "--folder", "{file}/a"], "file: Not a directory"),
    (["build", "--folder", "/proc/course"], "/proc/course cannot be written: /proc:")])
def test_what_cannot_be_built_is_one_error(arguments, says, tmp_path, monkeypatch):
    from examples.__main__ import app
    monkeypatch.setattr(course, "run", lambda *_: pytest.fail("it began"))
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [word.format(file=tmp_path / "file") for word in arguments])
    said = re.sub(r"[│╭╰─\s]", "", result.output)       # lines are broken anywhere
    assert result.exit_code == 2 and re.sub(r"\s", "", says) in said
    assert not (tmp_path / "index.html").exists()


def test_the_scripts_open_as_notebooks():
    jupytext = pytest.importorskip("jupytext")
    for path in course.scripts().values():
        notebook = jupytext.read(path)
        kinds = {"text": "markdown", "code": "code"}
        assert [cell.cell_type for cell in notebook.cells] == [
            kinds[cell.kind] for cell in course.cells(path)]


def test_01():
    names, figures = lesson("01")
    assert names["thirty_lines"] == names["by_hand"] == names["autograd"]
    assert names["right"] == 6 * 3**5 + 2 * 3 != names["wrong"]
    assert 1e-6 <= names["best"] <= 1e-4
    s = next(b for b in names["graph"].boxes if b.title == "add")
    first = next(b for b in names["graph"].boxes if s in b.sources)
    assert len(figures) == 2 and len(first.sources[s]) == 2
    Value, answers = names["Value"], solutions("01")
    x = Value(1.0)
    y = answers["divide"](x, x + Value(1.0))
    names["backward"](y, names["in_topological_order"](y))
    assert x.grad == 0.25
    assert answers["count_ways"](10) == 1024


def test_02():
    names, figures = lesson("02")
    assert names["mirrored"] and names["unfolded"] and len(figures) == 2
    assert names["times"]["formula"] > 100 * names["times"]["im2col"]
    assert names["fastest"] in figures[1][1]
    assert max(names["errors"].values()) < 1e-5
    answers, rng = solutions("02"), np.random.default_rng(0)
    for n, k, stride, padding, dilation in ((7, 3, 1, 0, 1), (8, 3, 2, 1, 1), (9, 3, 2, 0, 3)):
        fits = sum(1 for start in range(-padding, n + padding, stride)
                   if start + dilation * (k - 1) < n + padding)
        assert answers["output_size"](n, k, stride, padding, dilation) == fits
    x, w = rng.standard_normal((6, 7, 3)), rng.standard_normal((2, 3, 3, 4))
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 3), (0, 1))
    expected = np.einsum("ijckl,klco->ijo", windows, w)
    np.testing.assert_allclose(answers["shift_and_add"](x, w), expected, atol=1e-12)


def test_03():
    names, figures = lesson("03")
    assert names["gradients"]["max"].tolist() == [
        [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert (names["gradients"]["average"] == 0.25).all()
    assert names["changes"]["none"] == 2 and names["changes"]["max 4"] == 0.5
    assert names["brighter"] and names["shares"] == {"max": 1 / 16, "average": 1.0}
    assert len(figures) == 2
    answers = solutions("03")
    x = np.random.default_rng(0).standard_normal((6, 9))
    for i in range(2):
        for j in range(3):
            window = x[3 * i:3 * i + 3, 3 * j:3 * j + 3]
            assert answers["max_pool_by_reshape"](x, 3)[i, j] == window.max()
            assert answers["soft_pool"](x, 3, 0)[i, j] == pytest.approx(window.mean())
            assert answers["soft_pool"](x, 3, 1e3)[i, j] == pytest.approx(window.max())


def test_04():
    names, figures = lesson("04")
    assert names["steepest"]["sigmoid"] == pytest.approx(0.25)
    assert names["steepest"]["tanh"] == pytest.approx(1) and names["steepest"]["relu"] == 1
    kept = names["kept"]
    assert kept["sigmoid, variance 1/n"] < 1e-9 and 0.1 < kept["relu, variance 2/n"] < 10
    assert kept["relu, variance 1/n"] < 1e-2
    assert names["accuracy"]["relu"] > 0.9 > names["majority"] + 0.05
    assert names["moved"]["relu"] > 2 * names["moved"]["sigmoid"]
    assert names["accuracy"]["sigmoid"] < names["majority"] + 0.05
    assert len(figures) == 2
    import minideep
    answers = solutions("04")
    minideep.gradcheck(answers["softsign"], np.array([-2.0, -0.3, 0.4, 3.0]))
    assert answers["gain_for"](lambda z: np.maximum(z, 0)) == pytest.approx(2, rel=0.02)
    assert answers["gain_for"](np.tanh) == pytest.approx(2.54, rel=0.02)  # 1/0.3943


def test_05():
    names, figures = lesson("05")
    assert names["accuracy"] > 0.93 and len(figures) == 4
    sides = [shape[1] for shape in names["shapes"].values() if len(shape) == 4]
    assert sides == [30, 15, 13, 6, 4, 2]
    assert names["share"] > 0.3
    answers = solutions("05")
    assert answers["parameters"](32) == names["model"].count_params()
    assert round(answers["parameters"](224) / 1e6) == 89
    assert answers["receptive_field"]([(3, 1), (2, 2)] * 3) == 22


def test_06():
    names, figures = lesson("06")
    left, exploding, final = names["left"], names["exploding"], names["final"]
    assert left["SimpleRNN"] < 1e-3 and left["LSTM"] < 1e-3
    assert left["LSTM, gates open"] > 1e4 * left["LSTM"]
    assert left["SimpleRNN, gate (1.15, 5)"] > 1e4 * left["SimpleRNN"]
    assert exploding["no gate"].max() > 1e10 and exploding["gate (1, 10)"].max() < 40
    assert final["LSTM, gates open"] < 0.05
    assert all(loss > 0.25 for name, loss in final.items() if name != "LSTM, gates open")
    assert names["at_mark"] > names["elsewhere"]
    assert names["values"]["forget"].mean() > 0.7
    assert len(figures) == 4
    from minideep import ops, tensor
    answers = solutions("06")
    assert (1 / (1 + np.exp(-answers["forget_bias"](50)))) ** 50 == pytest.approx(np.exp(-1))
    g = np.random.default_rng(0).standard_normal((5, 3))
    x = tensor(np.zeros((5, 3)), requires_grad=True)
    ops.gradient_gate(x, 2.0, 1.5).backward(g)
    np.testing.assert_allclose(answers["gate"](g, 2.0, 1.5), x.grad.numpy())


def test_07():
    names, figures = lesson("07")
    errors = names["errors"]
    networks = errors["one LSTM layer"], errors["two LSTM layers"]
    assert max(networks) < errors["linear regression"]
    assert errors["linear regression"] < min(errors["the mean"], errors["the row before"])
    assert names["influence"].argmax() == 6 and len(figures) == 2
    from minideep import layers
    layer, answers = layers.LSTM(5, dtype="float64", return_sequences=True), solutions("07")
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    outputs = layer(x).numpy()
    h = c = np.zeros((2, 5))
    for t in range(4):
        h, c = answers["lstm_step"](x[:, t], h, c, *layer.get_weights())
        np.testing.assert_allclose(outputs[:, t], h, atol=1e-12)
    assert answers["parameters"](3, 5) == layer.count_params()


@pytest.mark.usefixtures("on_the_cpu")  # it says itself what it does on a GPU
def test_08():
    names, figures = lesson("08")
    assert names["has_gpu"] or "CUDA cannot be used here" in names["message"]
    assert "rung 'winograd' was asked for but cannot run here" in names["refusal"]
    assert "im2col" in names["curves"] and names["spread"] < 1e-3 and len(figures) == 1
    from minideep import layers
    answers, x = solutions("08"), np.array([[1000.0, 1001.0], [0.0, 0.0]])
    np.testing.assert_allclose(answers["softmax"](x)[:, 1], [1 / (1 + np.exp(-1)), 0.5])
    dense = layers.Dense(2)
    dense.build((None, 2))
    assert answers["where_it_lives"](dense) == {"cpu"}


def test_10():
    names, figures = lesson("10")
    assert names["exact"] and names["counts"] == {2: (16, 36), 4: (36, 144), 6: (64, 324)}
    errors = names["errors"]
    assert errors[6] > 10 * errors[2] and errors[4] < 1e-5
    assert all(error < 2e-5 for error in names["on_this_machine"].values())
    assert len(figures) == 1
    answers, rng = solutions("10"), np.random.default_rng(0)
    assert answers["saving"](4, 3) == 4 and answers["saving"](10**6, 3) == pytest.approx(9, rel=1e-4)
    x, w = rng.standard_normal((4, 4)), rng.standard_normal((3, 3))
    true = sum(x[k:k + 2, j:j + 2] * w[k, j] for k in range(3) for j in range(3))
    np.testing.assert_allclose(answers["tile_2x2"](x, w), true, atol=1e-12)


def test_09(tmp_path):
    names, figures = lesson("09")
    assert len(figures) == 1 and names["error"] < 1e-5
    if names["can_run"]:
        assert "access outside of" in names["caught"]
        assert names["agree"] and not names["race_agrees"]
    from kernels import cuda
    from kernels.cuda import nvrtc
    from kernels.cuda.on_cpu import problem
    if nvrtc.problem() is None:
        assert len(names["sizes"]) == 5 and min(names["sizes"].values()) > 500
    if problem() is not None:
        pytest.skip(problem())
    for name, make in solutions("09").items():
        if name in ("saxpy", "reverse"):
            (tmp_path / f"{name}.cu").write_text(make())
    x, y = np.arange(300, dtype="float32"), np.ones(300, "float32")
    with cuda.on_cpu():
        cuda.module(tmp_path / "x.py", "saxpy.cu")["saxpy"](1, 64, x, y, 2.0, x.size)
        np.testing.assert_array_equal(y, 2 * x + 1)
        cuda.module(tmp_path / "x.py", "reverse.cu")["reverse"](5, 64, x, y, x.size)
        np.testing.assert_array_equal(y, x[::-1])


def test_11():
    names, figures = lesson("11")
    assert names["difference"] < 1e-10 and names["agreement"] < 1e-10
    assert names["error"] < 8 and max(names["properties"]) < 1e-6
    assert names["ratio"] > 3 and len(figures) == 2
    answers, rng = solutions("11"), np.random.default_rng(0)
    x = rng.standard_normal((9, 12))
    assert answers["best_shift"](x, np.roll(x, (2, 5), (0, 1))) == (2, 5)
    y = rng.standard_normal((9, 12))
    energies = answers["energy_of_filter"](x, y, [0.1, 1, 10])
    F = np.fft.fft2(x).conj() * np.fft.fft2(y) / (np.abs(np.fft.fft2(x)) ** 2 + 1)
    assert energies[0] > energies[1] > energies[2]
    assert energies[1] == pytest.approx((np.fft.ifft2(F).real ** 2).sum())


def test_12():
    names, figures = lesson("12")
    assert names["overlap"].mean() > 0.5 and names["error"] < 1e-4
    assert names["hidden"] < names["seen"] - 0.2
    assert len(figures) == 2
    answers = solutions("12")
    assert answers["overlap"]((0, 0, 2, 2), (1, 1, 2, 2)) == pytest.approx(1 / 7)
    assert answers["overlap"]((0, 0, 2, 2), (2, 0, 2, 2)) == 0
    assert answers["first_lost"]([0.9, 0.2, 0.4, 0.6, 0.4], 0.3, 0.5) == [
        False, True, True, False, False]


def test_14():
    names, figures = lesson("14")
    if not names["missing"]:
        assert names["spread"] < 1e-9 and names["identical"] and len(figures) == 1
    answers, rng = solutions("14"), np.random.default_rng(0)
    for p in (1, 2, 5):
        parts = rng.integers(0, 100, (p, p))
        assert answers["ring_allreduce"](parts.tolist()) == [parts.sum(axis=0).tolist()] * p
    assert answers["bytes_sent"](100, 4) == 150


def test_13(monkeypatch):
    monkeypatch.setenv("MINUTES", "0.4")
    names, figures = lesson("13")
    assert names["after"]["loss"] < names["before"]["loss"] - 0.05
    assert names["after"]["hits"] >= names["before"]["hits"] - 0.02
    assert names["overlap"].mean() > 0.4 and len(figures) == 3
    answers = solutions("13")
    y = answers["hill"](16, 14, 3, 2.0)
    assert y.argmax() == 14 * 16 + 3 and y[14, 15] == pytest.approx(y[14, 7])
    assert y[1, 3] == pytest.approx(np.exp(-9 / 8))  # three rows, across the edge
    assert answers["hit"](y, 1, 3, 3) and not answers["hit"](y, 1, 3, 2.9)
