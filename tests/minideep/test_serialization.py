"""Files: what was saved comes back; a crash leaves the old file; misfits are named."""

import os

import numpy as np
import pytest

import minideep
from minideep import serialization


def test_arrays_and_metadata_come_back(tmp_path):
    path = tmp_path / "deep" / "weights.safetensors"
    base = np.arange(24, dtype="float32").reshape(4, 6)
    arrays = {"plain": base, "view": base[::2, ::-1], "transposed": base.T,
              "double": base.astype("float64"), "scalar": np.array(7), "empty": np.zeros((0, 3)),
              "tensor": minideep.tensor(base, requires_grad=True)}
    metadata = {"epoch": 3, "state": {"big": 2 ** 100, "names": ["a", "ü"]}, "none": None}
    serialization.save_arrays(path, arrays, **metadata)
    loaded, again = serialization.load_arrays(path)
    assert again == metadata and set(loaded) == set(arrays)
    for name, array in arrays.items():
        array = array.numpy() if isinstance(array, minideep.Tensor) else array
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
    assert os.listdir(path.parent) == ["weights.safetensors"]


def test_a_file_of_another_program_is_read(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    numpy_files.save_file({"w": np.ones(3)}, tmp_path / "x.safetensors", {"format": "pt"})
    arrays, metadata = serialization.load_arrays(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt"} and arrays["w"].shape == (3,)


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_crash_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "weights.safetensors"
    serialization.save_arrays(path, {"w": np.zeros(3)})
    old = path.read_bytes()

    def crash(*args, **kwargs):
        raise OSError("the disk is full")

    if broken == "write":
        real = os.fdopen

        class Half:
            def __init__(self, handle, mode):
                self.file = real(handle, mode)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.file.close()

            def write(self, data):
                self.file.write(data[:10])
                crash()

        monkeypatch.setattr(os, "fdopen", Half)
    else:
        monkeypatch.setattr(os, broken, crash)
    with pytest.raises(OSError, match="disk is full"):
        serialization.save_arrays(path, {"w": np.ones(3)})
    monkeypatch.undo()
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["weights.safetensors"]


def test_broken_and_absent_files(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match="w.safetensors"):
        serialization.load_arrays(path)
    serialization.save_arrays(path, {"w": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        serialization.load_arrays(path)


def test_every_misfit_is_named_and_nothing_is_copied():
    weights = {name: minideep.tensor(np.zeros(shape, "float32"))
               for name, shape in (("a", (2, 3)), ("b", (4,)), ("c", (1,)))}
    with pytest.raises(ValueError) as error:
        serialization.assign(weights, {"a": np.ones((2, 3)), "b": np.ones(5), "d": np.ones(1)}, "f.st")
    text = str(error.value)
    assert "f.st" in text and "missing: c (1,)" in text and "unexpected: d (1,)" in text
    assert "b: shape (5,) in the file, (4,) in the model" in text
    assert not weights["a"].numpy().any()
    array = weights["a"].data
    serialization.assign({"a": weights["a"]}, {"a": np.ones((2, 3))})
    assert weights["a"].data is array and array.dtype == np.float32 and array.all()


def test_what_a_link_points_to_is_replaced(tmp_path):
    link, real = tmp_path / "link.safetensors", tmp_path / "real.safetensors"
    link.symlink_to(real)
    serialization.save_arrays(link, {"a": np.ones(2)})
    assert link.is_symlink() and real.is_file()
    assert list(serialization.load_arrays(real)[0]) == ["a"]
