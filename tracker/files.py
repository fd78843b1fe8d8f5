"""Results in files: all of one, or nothing.

    write_json("out.json", {"auc": .7})
    with replacing("out.csv") as partial:       # a name in the same folder, renamed at the end
        partial.write_text("...")

An interrupted command leaves what was there before.
"""
from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """A temporary name to write to: it becomes `path` at the end, and vanishes after an error, with
    the folders that were made for it. What a link points to is replaced, not the link; what is no
    file, a pipe say, is itself written to."""
    path, real = Path(path), _real(path)
    if _is_device(path):
        yield path
        return
    made, partial = make_folder(real.parent), partial_name(real)
    try:
        yield partial
        if real.exists():
            shutil.copymode(real, partial)
        os.replace(partial, real)
    finally:
        partial.unlink(missing_ok=True)
        remove_empty(made)


def write_text(path, text):
    """Write a text file (UTF-8), all of it or nothing."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write a JSON file, all of it or nothing; numbers that JSON has no word for (nan, inf) are null."""
    write_text(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_output(path, folder=False):
    """OSError that names `path` if no file, or with folder=True no folder of files, can be written
    there. To be asked before long work; leaves nothing behind."""
    path, real = Path(path), _real(path)
    if path.exists() and path.is_dir() != folder:
        raise OSError(f"{path} cannot be written: it is " + (
            "a file, and a folder is wanted" if folder else "a folder, and a file's name is wanted"))
    if path.is_file() and path.absolute().parts[1:2] in (("dev",), ("proc",)):
        raise OSError(f"{path} cannot be written: it stands for {real}, where what is printed goes; "
                      "name another file")
    if _is_device(path):                        # it is not opened to see: who reads would notice
        if not os.access(path, os.W_OK):
            raise OSError(f"{path} cannot be written: Permission denied")
        return
    place = real if folder else real.parent
    place = next(p for p in (place, *place.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {place}: {error.strerror}") from error


def _is_device(path):
    """Is it a pipe, a terminal and the like, which is written to and not replaced?"""
    return path.exists() and not path.is_file() and not path.is_dir()


def _real(path):
    """What the path stands for, links followed."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"{path} cannot be written: its links lead in a circle") from error
    return Path(path).resolve()


def make_folder(folder):
    """Make a folder and those above it; -> those that were not there, the innermost first."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders):
    """Take folders away again, as long as nothing is in them."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def partial_name(path):
    # same folder, so that the rename is atomic; same ending, by which OpenCV knows the format
    return path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
