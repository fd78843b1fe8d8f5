"""Every .cu file compiles for every GPU that we name, with narrow and with wide indices."""

import pathlib

import pytest

import kernels
from kernels.cuda import Module, nvrtc

FOLDER = pathlib.Path(kernels.__file__).parent
FILES = sorted(FOLDER.rglob("*.cu"))

pytestmark = pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("file, macro", [("conv2d/conv2d.cu", "TENSOR_CORES"),
                                         ("pool2d/pool2d.cu", "WIDTH 4"),
                                         ("crop/crop.cu", "WIDTH 3"),
                                         ("crop/crop.cu", "WIDTH 4")])
def test_compiles_with_its_macro(file, macro, architecture):
    module = Module(FOLDER / file, macro)
    assert nvrtc.compile(module.source(), module.name, architecture)


@pytest.mark.parametrize("architecture, index",
                         [(a, "int") for a in nvrtc.ARCHITECTURES] + [(80, "long long")])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_compiles(file, architecture, index):
    module = Module(file)
    cubin = nvrtc.compile(module.source(index), module.name, architecture)
    for name in module.kernels:
        assert name.encode() in cubin
    assert module.text.count("__global__") == len(module.kernels), "a kernel that is not extern \"C\""
