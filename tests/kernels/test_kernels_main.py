"""`python -m kernels`: every rung is checked, and a wrong one is found."""

import numpy as np

import kernels
from kernels import __main__ as program, jit


def test_it_checks_every_rung(capsys, monkeypatch):
    monkeypatch.setattr(program, "seconds", lambda *_: 0.0)
    assert program.main() == 0
    lines = capsys.readouterr().out.splitlines()
    for name, op in kernels.ladders().items():
        assert name in lines
    on_cpu = [rung for op in kernels.ladders().values() for rung in op.rungs.values()]
    checked = [line for line in lines if " ok, error " in line]
    refused = [line for line in lines if " cannot run here: " in line]
    assert not refused or jit.problem()  # compiled rungs only, and only where there is no Numba
    assert len(checked + refused) == sum(rung.device in ("any", "cpu") for rung in on_cpu)


def test_it_finds_a_wrong_rung(capsys, monkeypatch):
    monkeypatch.setattr(program, "seconds", lambda *_: 0.0)
    rung = kernels.ladders()["avg_pool2d"].rungs["array"]
    monkeypatch.setattr(rung, "function", lambda *args, f=rung.function: f(*args) * 1.01)
    assert program.main() == 1
    assert "WRONG" in capsys.readouterr().out


def test_it_times():
    op = kernels.ladders()["rnn"]
    arguments = program.example_for(op.rungs["array"], op, "cpu", large=False)
    assert 0 < program.seconds(op.rungs["array"], arguments, "cpu", budget=0.01) < 1
    assert np.isfinite(arguments[0]).all()
