"""`python -m kernels`: every rung is checked, and a wrong one is found."""

import pytest

import kernels
from kernels import __main__ as program, jit


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


def test_it_finds_a_wrong_rung(capsys, monkeypatch):
    rung = kernels.ladders()["avg_pool2d"].rungs["array"]
    monkeypatch.setattr(rung, "function", lambda *args, f=rung.function: f(*args) * 1.01)
    assert program.main([]) == 1
    assert "WRONG" in capsys.readouterr().out
