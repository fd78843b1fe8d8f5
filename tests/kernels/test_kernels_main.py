"""`python -m kernels`: every rung is checked, and a wrong one is found."""

import os
import signal
import subprocess
import sys
import time

import pytest

import kernels
from kernels import __main__ as program, backend, jit


def test_it_checks_every_rung(capsys):
    assert program.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, op in kernels.ladders().items():
        assert name in lines
    here = [rung for op in kernels.ladders().values() for rung in op.rungs.values()
            if rung.device != "cuda" or backend.cuda_is_available()]
    checked = [line for line in lines if " ok: error " in line]
    assert len(checked) == len(here) or jit.problem()  # without Numba compiled rungs cannot run


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


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_ends_the_benchmark_ends_its_children_quietly(number, code, tmp_path):
    """The terminal's signal reaches all of the group; a child waits, and a child of that one too."""
    (tmp_path / "waits.py").write_text(
        "import os, subprocess, sys\n"
        "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print([os.getpid(), own.pid], flush=True)\nown.wait()\n")
    (tmp_path / "parent.py").write_text(
        "import sys, kernels.__main__ as program\nfrom kernels import bench\n"
        "def say(*_):\n"
        "    for answer in bench.answers_of('waits', {'threads': 1, 'allocator': 'default'}):\n"
        "        print(*answer, flush=True)\n"
        "program.bench = say\nsys.exit(program.main(['bench', 'adam']))\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths},
                          start_new_session=True) as parent:
        children = list(map(int, parent.stdout.readline().split()))
        assert len(children) == 2
        os.killpg(parent.pid, number)
        out, err = parent.communicate(timeout=20)
    assert (parent.returncode, out, err) == (code, "", "")
    for _ in range(100):                        # until who inherits them has taken note
        alive = [pid for pid in children if _runs(pid)]
        if not alive:
            break
        time.sleep(.1)
    assert not alive


def _runs(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_it_finds_a_wrong_rung(capsys, monkeypatch):
    rung = kernels.ladders()["avg_pool2d"].rungs["array"]
    monkeypatch.setattr(rung, "function", lambda *args, f=rung.function: f(*args) * 1.01)
    assert program.main([]) == 1
    assert "WRONG" in capsys.readouterr().out
