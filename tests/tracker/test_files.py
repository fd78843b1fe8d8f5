"""What commands leave behind: whole files, or what was there before."""

import json
import math
import os
import subprocess
import sys

import pytest

from tracker.files import check_output, replacing, write_json


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
        assert not path.exists() and partial.suffix == ".txt"
    with pytest.raises(ZeroDivisionError):
        with replacing(path) as partial:
            partial.write_text("half")
            1 / 0
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["a.txt"]


def test_what_a_link_points_to_is_replaced_and_what_is_no_file_is_written_to(tmp_path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("before")
    link.symlink_to(real)
    real.chmod(0o600)
    with replacing(link) as partial:
        partial.write_text("after")
    assert link.is_symlink() and real.read_text() == "after"
    assert real.stat().st_mode & 0o777 == 0o600
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(pipe) as partial:
            partial.write_text("through")
        assert pipe.is_fifo() and os.read(reader, 10) == b"through"
    finally:
        os.close(reader)


def test_json_has_null_where_a_number_is_none(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"auc": math.nan, "curve": (1., -math.inf, [math.nan, 2]), "name": "nan", "n": 3})
    assert json.loads(path.read_text()) == {"auc": None, "curve": [1., None, [None, 2]], "name": "nan",
                                            "n": 3}
    with pytest.raises(TypeError):
        write_json(path, {"auc": object()})
    assert json.loads(path.read_text())["n"] == 3 and os.listdir(tmp_path) == ["a.json"]


def test_where_a_file_can_be_written_is_known_before(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/proc/nowhere/file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    check_output(tmp_path / "pipe")
    check_output(tmp_path / "new" / "file")
    check_output(tmp_path / "new" / "folder", folder=True)
    for name, why in (("link", "/proc: "), ("loop", "circle"), ("file/a", "Not a directory")):
        with pytest.raises(OSError, match=f"{name} cannot be written: .*{why}"):
            check_output(tmp_path / name)
    with pytest.raises(OSError, match="a folder is wanted"):
        check_output(tmp_path / "file", folder=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "loop", "pipe"]


def test_what_is_printed_to_is_not_replaced(tmp_path):
    """`--json /dev/stdout > file` would lose the tables."""
    said = tmp_path / "said"
    check = "from tracker.files import check_output; check_output('/dev/stdout')"
    with open(said, "w") as file:
        run = subprocess.run([sys.executable, "-c", check], stdout=file, stderr=subprocess.PIPE,
                             text=True)
    assert run.returncode and "name another file" in run.stderr
    assert not subprocess.run([sys.executable, "-c", check], stdout=subprocess.PIPE).returncode
