"""`import minideep` is quick: it loads nothing that the first line of a program does not need."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"numba", "llvmlite", "cv2", "matplotlib", "scipy", "cupy", "torch", "keras", "rich", "typer",
         "safetensors", "numba.cuda"}


def modules(program):
    """What a new process has loaded after the program, besides what NumPy loads."""
    code = f"import sys, json, numpy; before = set(sys.modules)\n{program}\n" \
           "print(json.dumps(sorted(set(sys.modules) - before)))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], check=True, text=True,
                                         stdout=subprocess.PIPE).stdout))


def test_nothing_heavy_is_loaded():
    loaded = modules("import minideep, kernels")
    assert not loaded & HEAVY
    own = {name for name in loaded if name.split(".")[0] in ("kernels", "minideep")}
    assert "kernels.simd" not in own  # it would load Numba
    assert not own & {"minideep.models", "minideep.layers", "minideep.benchmark", "kernels.bench"}
    assert len(loaded - own) <= 30, sorted(loaded - own)  # of the standard library


@pytest.mark.parametrize("use", ["minideep.layers.Dense(2)", "minideep.models.Sequential()",
                                 "minideep.optimizers.Adam()", "minideep.losses.get('mse')"])
def test_other_modules_load_when_they_are_named(use):
    assert not modules(f"import minideep\n{use}") & HEAVY


def test_every_public_name_is_there():
    import minideep

    for name in minideep.__all__:
        assert getattr(minideep, name) is not None
    assert set(dir(minideep)) >= set(minideep.__all__)
    with pytest.raises(AttributeError, match="no attribute 'layrs'"):
        minideep.layrs


def test_nothing_is_compiled_and_it_is_quick():
    """At most 0.15 s more than NumPy in the same run. CPU time, the best of some: machines are busy."""
    code = ("import time, numpy; t = time.process_time(); import minideep; "
            "print(time.process_time() - t)")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    seconds = [float(subprocess.run([sys.executable, "-c", code], check=True, text=True,
                                    env=environment, stdout=subprocess.PIPE).stdout) for _ in range(4)]
    assert min(seconds) < 0.15, seconds
