"""The lessons run, and what their captions and texts claim is so."""

import runpy
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import course  # noqa: E402

LIMIT = 120  # seconds a lesson may take


def lesson(number):
    """(namespace, figures) of a lesson's run."""
    start = time.perf_counter()
    namespace, cells = course.run(course.scripts()[number])
    assert time.perf_counter() - start < LIMIT
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
    assert len(figures) == 2 and [b.title for b in s.sources] and "a" in {
        b.title for b in names["graph"].boxes}
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
    assert names["accuracy"]["sigmoid"] < names["majority"] + 0.05
    assert len(figures) == 2
    import minideep
    answers = solutions("04")
    minideep.gradcheck(answers["softsign"], np.array([-2.0, -0.3, 0.4, 3.0]))
    assert answers["gain_for"](lambda z: np.maximum(z, 0)) == pytest.approx(2, rel=0.02)
    assert answers["gain_for"](lambda z: np.tanh(4 * z)) > 0.1
