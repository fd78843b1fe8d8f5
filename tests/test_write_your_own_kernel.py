"""The page examples/write_your_own_kernel.md does what it says."""

import contextlib
import io
import pathlib
import re
import sys

import pytest

from kernels import conv2d

PAGE = pathlib.Path(__file__).parents[1] / "examples" / "write_your_own_kernel.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROBLEM = sys.modules["kernels.cuda.on_cpu"].problem()


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_its_code_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    """cuda blocks become files, python blocks run in order, text blocks are what those print."""
    monkeypatch.setattr(conv2d, "rungs", dict(conv2d.rungs))  # the page adds one
    names = {"__file__": str(tmp_path / "page.py"), "__name__": "page"}
    printed, shown = "", 0
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "cuda":
            (tmp_path / text.split("\n")[0].removeprefix("// ")).write_text(text)
        elif language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, str(PAGE), "exec"), names)
            printed = out.getvalue()
        else:
            assert language == "text" and printed == text
            shown += 1
    assert shown >= 5 and conv2d.rungs["plain"].device == "cuda"
