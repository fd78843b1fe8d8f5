"""Arrays in files: safetensors (names, shapes, raw numbers; nothing in it can run), written whole.

A file is written beside its place under another name and then renamed onto it, so that a crash
leaves the old file or the new one, never half of one.
"""

import json
import os
import tempfile

import numpy as np

from kernels import backend
from minideep.tensor import Tensor

__all__ = "assign atomic_write load_arrays save_arrays".split()


def atomic_write(path, data):
    """Write bytes to `path`, all or nothing. Its folder is made if it is not there; what a link points
    to is replaced, not the link."""
    path = os.path.realpath(os.fspath(path))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path),
                                         prefix="." + os.path.basename(path) + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's own is for the owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save_arrays(path, arrays, **metadata):
    """Write {name: array or tensor} and metadata (anything JSON can hold) to a safetensors file."""
    from safetensors.numpy import save
    arrays = {name: np.asarray(backend.to_numpy(a.data if isinstance(a, Tensor) else a), order="C")
              for name, a in arrays.items()}
    atomic_write(path, save(arrays, {key: json.dumps(value) for key, value in metadata.items()}))


def load_arrays(path):
    """({name: NumPy array}, metadata) of a safetensors file. ValueError if it is none or is cut off."""
    from safetensors import SafetensorError, safe_open
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path!r} is not a whole safetensors file ({error})") from None
    return arrays, {key: _from_json(value) for key, value in metadata.items()}


def _from_json(text):
    try:
        return json.loads(text)
    except ValueError:
        return text  # metadata that another program wrote


def assign(weights, arrays, source="the arrays"):
    """Copy {name: array} into {name: tensor}, in place. Nothing is copied unless all names and
    shapes agree; the ValueError lists every one that does not."""
    problems = [f"missing: {name} {weights[name].shape}" for name in weights if name not in arrays]
    problems += [f"unexpected: {name} {arrays[name].shape}" for name in arrays if name not in weights]
    problems += [f"{name}: shape {arrays[name].shape} in the file, {w.shape} in the model"
                 for name, w in weights.items() if name in arrays and arrays[name].shape != w.shape]
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"{source} does not fit the model:\n  " + "\n  ".join(problems[:20]) + more)
    for name, w in weights.items():
        w.data[...] = backend.to_device(arrays[name].astype(w.dtype), w.device)
