"""What the README shows runs as it stands there, and does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

import minideep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def block(beginning):
    (found,) = [b for b in BLOCKS if b.startswith(beginning)]
    return found


def test_the_engine_in_ten_lines_learns(capsys):
    minideep.seed(0)
    namespace = {}
    exec(block("import numpy as np\nimport minideep"), namespace)
    assert namespace["model"].evaluate(namespace["x"], namespace["y"], verbose=0)[1] > 0.9


def test_gradients(capsys):
    namespace = {"minideep": minideep}
    exec(block("x = minideep.tensor("), namespace)
    x = namespace["x"]
    assert x.grad.shape == x.shape
    tanh = np.tanh(x.numpy())
    np.testing.assert_allclose(namespace["g"].numpy(), 1 - tanh**2, rtol=1e-5)


def test_looking_inside(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = minideep.models.Sequential([minideep.layers.Dense(4, activation="tanh")])
    exec(block("from minideep import inspect"), {"model": model, "x": np.ones((9, 2), "float32")})
    printed = capsys.readouterr().out
    assert "tanh in " in printed and "saved for backward" in printed and "GFLOP/s" in printed
    assert "<svg" in (tmp_path / "graph.svg").read_text(encoding="utf-8")


def test_swapping_the_backend(capsys):
    exec(block("import kernels"), {"minideep": minideep, "np": np})
    assert "im2col" in capsys.readouterr().out


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.parametrize("name, lines", [
    ("keras_cnn", "model.add("), ("keras_lstm_two_layers", "model.add(LSTM")])
def test_the_programs_shown_are_those_in_examples(name, lines):
    shown = {line.split("#")[0].strip() for b in BLOCKS for line in b.splitlines()}
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.strip().startswith(lines):
            assert line.strip().replace("(size, size, 3)", "(224, 224, 3)") in shown
