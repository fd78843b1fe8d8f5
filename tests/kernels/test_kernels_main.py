"""`python -m kernels`: every rung is checked, and a wrong one is found."""

import os

import pytest

import kernels
from kernels import __main__ as program, bench, jit


def test_it_checks_every_rung(capsys):
    assert program.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, op in kernels.ladders().items():
        assert name in lines
    on_cpu = [rung for op in kernels.ladders().values() for rung in op.rungs.values()
              if rung.device in ("any", "cpu")]
    checked = [line for line in lines if " ok: error " in line]
    assert len(checked) == len(on_cpu) or jit.problem()  # without Numba compiled rungs cannot run


def test_a_wrong_environment_is_one_line(capsys, kernels_setting):
    kernels_setting("conv2d=fastest")
    for arguments in ([], ["bench", "adam"]):
        with pytest.raises(SystemExit) as stopped:
            program.main(arguments)
        assert stopped.value.code == 2
        assert "conv2d has no rung 'fastest'; its rungs are formula" in capsys.readouterr().err


@pytest.mark.parametrize("option, values", [("--threads", "0 -1 1.5 two"), ("--seconds", "-1 0 nan inf")])
def test_numbers_that_cannot_be_are_one_line(capsys, monkeypatch, option, values):
    monkeypatch.setattr(program, "bench", lambda *_: pytest.fail("it began"))
    for value in values.split():
        with pytest.raises(SystemExit) as stopped:
            program.main(["bench", "adam", f"{option}={value}"])
        assert stopped.value.code == 2
        assert f"argument {option}: a " in (said := capsys.readouterr().err) and f"not '{value}'" in said


def test_ctrl_c_ends_the_children_quietly(capfd, monkeypatch, tmp_path):
    """One child says an answer and then waits; Ctrl-C comes while it does."""
    (tmp_path / "waits.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = []

    def interrupted(*_):
        for answer in bench.answers_of("waits", {"threads": 1, "allocator": "default"}):
            found.append(answer)
            raise KeyboardInterrupt

    monkeypatch.setattr(program, "bench", interrupted)
    assert program.main(["bench", "adam"]) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(found[0], 0)
    assert capfd.readouterr() == ("", "")


def test_it_finds_a_wrong_rung(capsys, monkeypatch):
    rung = kernels.ladders()["avg_pool2d"].rungs["array"]
    monkeypatch.setattr(rung, "function", lambda *args, f=rung.function: f(*args) * 1.01)
    assert program.main([]) == 1
    assert "WRONG" in capsys.readouterr().out
