"""What was tracked before, kept in files: an interrupted evaluation goes on where it stopped.

A track is found again under a hash of everything that decides it:

    the tracker     its name; the text of every module of this project that it uses; the weights
                    that come with the project; the settings MINIDEEP_* in the environment; for
                    OpenCV's trackers only tracker/opencv.py and OpenCV itself
    the sequence    names, sizes and times of change of its files; the boxes; the box that the
                    tracker was started with

so a change of any of them leads to a new track, and going back leads to the old one. Every track
is one file, written whole or not at all. It lies in MINIDEEP_CACHE, else in ~/.cache/minideep,
and may be deleted at any time.
"""

import ast
import functools
import hashlib
import os
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tracker import OPENCV, opencv
from tracker.files import replacing

ROOT = Path(__file__).parents[1]
PROTOCOL = 1        # raise it when tracker.evaluate.run() shows trackers something else
written = 0         # tracks that this process has kept
_NOT_SETTINGS = ("MINIDEEP_CACHE", "MINIDEEP_DATA", "MINIDEEP_PEERS", "MINIDEEP_NANO")


def folder():
    """Where tracks are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MINIDEEP_CACHE") or Path(home) / "minideep") / "tracks"


def key(tracker, sequence, first):
    """The hash of a tracker's fingerprint and of a sequence; None if the frames are not files.

    first: the box (4,) that the tracker is started with.
    """
    try:
        files = sequence.frames.fingerprint()
    except AttributeError:              # frames in memory, or a part of these
        return None
    boxes = np.ascontiguousarray(sequence.boxes, np.float64).tobytes()
    first = np.ascontiguousarray(first, np.float64).tobytes()
    return _hash(bytes([PROTOCOL]), tracker.encode(), files.encode(), boxes, first)


def load(key):
    """The arrays of a track, or None where there is none (or only what a crash left of one)."""
    try:
        with np.load(folder() / f"{key}.npz", allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def save(key, arrays):
    """Keep the arrays of a track. A folder that cannot be written to is no reason to stop: that is
    said, once."""
    global written
    try:
        with replacing(folder() / f"{key}.npz") as partial:
            np.savez_compressed(partial, **arrays)
    except OSError as error:
        _warn(folder(), error.strerror)
    else:
        written += 1


@functools.cache
def _warn(place, reason):
    print(f"warning: tracks cannot be kept in {place} ({reason}): after an interruption they have to "
          "be made again. MINIDEEP_CACHE=FOLDER keeps them elsewhere", file=sys.stderr)


@functools.cache
def fingerprint(name, module):
    """What decides how the tracker called `name` behaves; module: where its class is defined."""
    if name in OPENCV:
        nano = opencv.nano_files() if name == "Nano" else []
        return _hash(name.encode(), opencv.version().encode(),
                     *(Path(f).read_bytes() for f in (opencv.__file__, *nano)))
    settings = sorted(f"{k}={v}" for k, v in os.environ.items()
                      if k.startswith("MINIDEEP_") and k not in _NOT_SETTINGS)
    files = sorted(_sources(module)) + sorted((ROOT / "tracker" / "weights").glob("*.safetensors"))
    return _hash(name.encode(), np.__version__.encode(), *(s.encode() for s in settings),
                 *(part for f in files for part in (f.name.encode(), f.read_bytes())))


def _sources(module):
    """The files of this project that a module of tracker/ uses, itself among them.

    Inside tracker/ imports are followed, wherever they stand; of the engine and the kernels all
    counts. tracker/__init__.py, which can load every tracker, leads to none.
    """
    found, waiting, packages = set(), [module], set()
    while waiting:
        name = waiting.pop()
        package, *rest = name.split(".")
        if package in ("minideep", "kernels"):
            packages |= {"minideep", "kernels"}
        if package != "tracker":
            continue
        place = ROOT.joinpath(*name.split("."))
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not file.is_file() or file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if rest else ():
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                waiting += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return found | {f for p in packages for f in (ROOT / p).rglob("*")
                    if f.suffix in (".py", ".cu", ".h")}


def _hash(*parts):
    said = hashlib.sha256()
    for part in parts:
        said.update(len(part).to_bytes(8, "big") + part)
    return said.hexdigest()
