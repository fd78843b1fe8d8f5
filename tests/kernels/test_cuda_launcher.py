"""The launcher of CUDA kernels, and what running them on the CPU finds."""

import sys
import textwrap
import types

import numpy as np
import pytest

import kernels.backend
import kernels.cuda as cuda
from kernels.cuda import nvrtc, on_cpu

on_cpu_module = sys.modules["kernels.cuda.on_cpu"]
needs_gxx = pytest.mark.skipif(on_cpu_module.problem() is not None,
                               reason=str(on_cpu_module.problem()))
pytestmark = needs_gxx


@pytest.fixture
def compiled(tmp_path):
    """A function from the source of kernels to their module."""
    def make(source, name="example.cu"):
        (tmp_path / name).write_text(textwrap.dedent(source).lstrip("\n"))
        return cuda.module(tmp_path / "launches.py", name)
    return make


SCALE = """
extern "C" __global__ void scale(const float* __restrict__ x, float* y, float factor, Index n)
{
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < n;
         i += gridDim.x * (Index)blockDim.x)
        y[i] = factor * x[i];
}
"""


def scale(module, x, factor=2, grid=None):
    y = cuda.empty(x.shape, like=x)
    module["scale"](cuda.blocks(x.size, 64) if grid is None else grid, 64, x, y, factor, x.size)
    return y


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("schedule", ["forward", "backward", "shuffled"])
def test_a_kernel_runs(compiled, n, schedule):
    x = np.arange(n, dtype=np.float32)
    with on_cpu(schedule):
        np.testing.assert_array_equal(scale(compiled(SCALE), x), 2 * x)
        np.testing.assert_array_equal(scale(compiled(SCALE), x, grid=2), 2 * x)


class TestArguments:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    def test_what_is_not_contiguous_is_copied(self, compiled):
        with on_cpu():
            np.testing.assert_array_equal(scale(compiled(SCALE), self.x.T), 2 * self.x.T)

    def test_nothing_is_launched_for_an_empty_output(self, compiled):
        with on_cpu():
            assert scale(compiled(SCALE), np.ones((0, 3), np.float32), grid=1).shape == (0, 3)

    def test_a_large_number_makes_the_index_wide(self, compiled, monkeypatch):
        module = compiled("""
            extern "C" __global__ void size(long long* y, Index n) { y[0] = sizeof(n); y[1] = n; }
        """)
        for n, size in [(5, 4), (2**30, 8), (2**40, 8)]:
            y = np.empty(2, np.int64)
            with on_cpu():
                module["size"](1, 1, y, n)
            assert y.tolist() == [size, n]

    @pytest.mark.parametrize("schedule", ["forward", "backward"])
    def test_an_array_stays_as_aligned_as_it_is(self, compiled, schedule):
        module = compiled("""
            extern "C" __global__ void lies(const float* x, long long* y) { y[0] = (size_t)x % 16; }
        """)
        memory, y = np.zeros(30, np.float32), np.zeros(1, np.int64)
        for first in range(4):
            x = memory[first : first + 20]
            with on_cpu(schedule):
                module["lies"](1, 1, x, y)
            assert y == x.ctypes.data % 16

    def test_null(self, compiled):
        module = compiled("""
            extern "C" __global__ void is_null(const float* b, bool* y) { y[0] = b == 0; }
        """)
        for b, null in [(None, True), (self.x, False)]:
            y = np.empty(1, bool)
            with on_cpu():
                module["is_null"](1, 1, b, y)
            assert y[0] == null

    def test_every_type_arrives(self, compiled):
        module = compiled("""
            extern "C" __global__ void pack(double* y, float a, double b, bool c, unsigned char d,
                                            int e, unsigned f, long long g, unsigned long long h)
            { y[0] = a; y[1] = b; y[2] = c; y[3] = d; y[4] = e; y[5] = f; y[6] = g; y[7] = h; }
        """)
        y = np.empty(8)
        values = [0.5, 0.1, True, 255, -(2**31), 2**32 - 1, -(2**40), 2**41]
        with on_cpu():
            module["pack"](1, 1, y, *values)
        assert y.tolist() == values

    @pytest.mark.parametrize("grid, block, change, kind, message", [
        (1, 64, {0: x.astype(float)}, TypeError, "x must hold float32, got float64"),
        (1, 64, {0: [1, 2]}, TypeError, "x must be an array, got list"),
        (1, 64, {1: x.T}, ValueError, "y is written, so it must be contiguous"),
        (1, 64, {1: None}, TypeError, "y must be an array, got NoneType"),
        (1, 64, {1: x}, ValueError, "y is written, and shares memory with x"),
        (1, 64, {2: "a"}, TypeError, "factor must be a number for float, got 'a'"),
        (1, 64, {3: 1.5}, TypeError, "n must be a number for Index, got 1.5"),
        ((1, 65536), 64, {}, ValueError, r"grid may be at most \(2147483647, 65535, 65535\)"),
        (1, (64, 32), {}, ValueError, "1 to 1024 threads in all"),
        (1, (1, 1, 65), {}, ValueError, "block may be at most"),
        (-1, 1, {}, ValueError, "grid may be at most"),
    ])
    def test_errors_say_what_is_wrong(self, compiled, grid, block, change, kind, message):
        arguments = [self.x, np.empty_like(self.x), 2, 6]
        for at, value in change.items():
            arguments[at] = value
        with on_cpu(), pytest.raises(kind, match="example.cu, kernel scale: .*" + message):
            compiled(SCALE)["scale"](grid, block, *arguments)

    def test_the_number_of_arguments(self, compiled):
        with pytest.raises(TypeError, match=r"takes 4 arguments \(x, y, factor, n\), got 1"):
            compiled(SCALE)["scale"](1, 1, self.x)

    def test_a_number_too_large(self, compiled):
        module = compiled('extern "C" __global__ void f(float* y, int n) { y[0] = n; }')
        with on_cpu(), pytest.raises(OverflowError, match="n=2147483648 does not fit into int"):
            module["f"](1, 1, np.empty(1, np.float32), 2**31)

    def test_unknown_names_and_types(self, compiled):
        with pytest.raises(KeyError, match="no kernel 'scales'; its kernels are scale"):
            compiled(SCALE)["scales"]
        with pytest.raises(ValueError, match=r"kernel f: cannot pass the parameter `float\*\* y`"):
            compiled('extern "C" __global__ void f(float** y) {}')["f"]

    def test_numpy_arrays_want_on_cpu(self, compiled):
        with pytest.raises(TypeError, match="takes CuPy arrays.*kernels.cuda.on_cpu"):
            scale(compiled(SCALE), self.x)
        with pytest.raises(ValueError, match="schedule must be one of forward, backward"):
            with on_cpu("sideways"):
                pass


BLOCK = """
extern "C" __global__ void reverse(const float* x, float* y)  // of a block's numbers
{
    __shared__ float tile[64];
    tile[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void reverse_dynamic(const float* x, float* y)
{
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void lanes(const float* x, float* y)
{
    float sum = x[threadIdx.x], total = sum;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
    y[threadIdx.x] = threadIdx.x % 32 ? total : sum;
    y[64 + threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 3);
    y[128 + threadIdx.x] = __shfl_up_sync(0xffffffffu, x[threadIdx.x], 1);
    y[192 + threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 2) == 0xaaaaaaaau;
}
"""


@pytest.mark.parametrize("schedule", ["forward", "backward", "shuffled"])
def test_barriers_shared_memory_and_lanes(compiled, schedule):
    module = compiled(BLOCK)
    x = np.arange(192, dtype=np.float32)
    y, z, lanes = np.empty_like(x), np.empty_like(x), np.empty((4, 2, 32), np.float32)
    with on_cpu(schedule):
        module["reverse"](3, 64, x, y)
        module["reverse_dynamic"](3, 64, x, z, shared=256)
        module["lanes"](1, 64, x[:64], lanes)
    np.testing.assert_array_equal(y.reshape(3, 64), x.reshape(3, 64)[:, ::-1])
    np.testing.assert_array_equal(z, y)
    warps = x[:64].reshape(2, 32)
    np.testing.assert_array_equal(lanes[0], np.repeat(warps.sum(1)[:, None], 32, 1))
    np.testing.assert_array_equal(lanes[1], np.repeat(warps[:, 3:4], 32, 1))
    np.testing.assert_array_equal(lanes[2], np.c_[warps[:, :1], warps[:, :-1]])
    assert (lanes[3] == 1).all()


# Bodies of kernels with x and y of n floats, run by 64 threads; each a kernel of one file.
FAULTS = {
    "right": "y[threadIdx.x] = x[threadIdx.x];",
    "write_after": "y[threadIdx.x + 1] = 1;",
    "write_before": "y[(int)threadIdx.x - 1] = 1;",
    "write_far": "y[1 << 20] = 1;",
    "read_after": "if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x + 1];",
    "read_before": "y[threadIdx.x] = x[(int)threadIdx.x - 1];",
    "overflow": "int big = 2147483647;\ny[0] = big + n;",
    "zero": "y[0] = n / (int)threadIdx.x;",
    "bounds": "__shared__ float s[8];\ns[threadIdx.x] = 1;\ny[0] = s[0];",
    "dynamic": "extern __shared__ float s[];\ns[threadIdx.x] = 1;\ny[0] = s[0];",
    "unwritten": "__shared__ float s[8];\ny[threadIdx.x] = s[0];",
    "misaligned": "*(float4*)(y + 1) = make_float4(1, 2, 3, 4);",
    "returned": "if (threadIdx.x < 5) __syncthreads();",
    "two_places": "if (threadIdx.x < 5)\n__syncthreads();\nelse\n__syncthreads();",
    "lane": "if (threadIdx.x % 2) __shfl_xor_sync(0xffffffffu, n, 1);",
    "mask": "if (threadIdx.x % 2) __shfl_xor_sync(0x2u, n, 1);",
    "race": "__shared__ float s[64];\ns[threadIdx.x] = x[threadIdx.x];\n"
            "y[threadIdx.x] = s[threadIdx.x / 2];",
    "wrong": "y[threadIdx.x] = x[threadIdx.x ^ 1];",
    "after_barrier": "__syncthreads(); y[threadIdx.x + 1] = 1;",
    "barrier": "__syncthreads(); y[threadIdx.x] = 1;",
}


def kernel(name, body):
    return (f'extern "C" __global__ void {name}(const float* x, float* y, int n)\n'
            f'{{\n#line 1 "example.cu"\n{body}\n}}\n')


class TestPlantedFaults:
    @pytest.fixture
    def run(self, compiled):
        """Runs a kernel of FAULTS on x = 0, 1, 2, ... and y = 77, 77, ...: returns y."""
        def run(name, schedule="forward", n=64, shared=0):
            x, y = np.arange(n, dtype=np.float32), np.full(n, 77, np.float32)
            with on_cpu(schedule):
                module[name](1, 64, x, y, n, shared=shared)
            return y
        module = compiled("\n".join(kernel(name, body) for name, body in FAULTS.items()))
        return run

    @pytest.mark.parametrize("name, schedule, message", [
        ("write_after", "forward", "access outside of y, at element 64 of 64.*"
         "block 0,0,0, thread 63,0,0"),
        ("write_before", "backward", "access outside of y, at element -1 of 64"),
        ("write_before", "forward", "writes outside of y, at element -1 of 64"),
        ("write_far", "forward", "access outside of y, at element 1048576"),
        ("read_after", "forward", "access outside of x, at element 64 of 64"),
        ("read_before", "backward", "access outside of x, at element -1"),
        ("overflow", "forward", "example.cu:2: undefined behaviour: an addition overflows"),
        ("zero", "forward", "example.cu:1: .* a division by zero"),
        ("bounds", "forward", "example.cu:2: .*outside of an array's bounds.*thread 8,0,0"),
        ("misaligned", "forward", "example.cu:1: .*misaligned"),
        ("returned", "forward",
         "divergent barrier: waits at line 1, thread 63,0,0 returned .*thread 4,0,0"),
        ("two_places", "forward", "divergent barrier: waits at line 4, .* waits at line 2"),
        ("lane", "forward",
         "divergent barrier: waits at line 1 for lane 0 of its warp, which returned"),
        ("mask", "forward", "lane 3 is not in its own mask 0x2"),
    ])
    def test_is_reported(self, run, name, schedule, message):
        with pytest.raises(RuntimeError, match=f"example.cu, kernel {name}: .*{message}"):
            run(name, schedule)

    def test_dynamic_shared_memory_is_guarded(self, run):
        assert run("dynamic", shared=256)[0] == 1
        with pytest.raises(RuntimeError, match="access outside of dynamic shared memory"):
            run("dynamic", shared=240)

    def test_shared_memory_begins_as_nan(self, run):
        assert np.isnan(run("unwritten")).all()

    def test_a_write_between_the_end_and_the_forbidden_page(self, run):
        with pytest.raises(RuntimeError, match="writes outside of y, at element 63 of 63"):
            run("barrier", n=63)
        with pytest.raises(RuntimeError, match="writes outside of y, at element 63 of 63"):
            run("right", n=63)  # copies what it reads after x

    def test_a_read_there_is_not_a_number(self, run):
        y = run("read_after", n=63)
        assert np.isnan(y[-1]) and not np.isnan(y[:-1]).any()

    def test_a_missing_barrier_depends_on_the_schedule(self, run):
        """Forward, every thread happens to write before its reader reads: nothing is found."""
        right = np.arange(64) // 2
        np.testing.assert_array_equal(run("race", "forward"), right)
        assert not np.array_equal(run("race", "backward"), right)
        assert not np.array_equal(run("race", "shuffled"), right)

    def test_a_wrong_index_gives_a_wrong_result(self, run):
        assert (run("right") == np.arange(64)).all() and (run("wrong") != np.arange(64)).all()

    def test_after_a_fault_the_next_launch_is_as_before(self, run):
        for _ in range(3):
            with pytest.raises(RuntimeError):
                run("after_barrier")
            assert (run("barrier") == 1).all()


def run_one(compiled, body):
    y = np.zeros(64, np.float32)
    with on_cpu():
        compiled(kernel("f", body))["f"](1, 1, y.copy(), y, 64)
    return y[0]


class TestCompiling:
    def test_an_error_names_the_line(self, compiled):
        with pytest.raises(RuntimeError, match="does not compile for the CPU:(.|\n)*example.cu:2:"):
            run_one(compiled, "y[0] = 1;\ny[0] = z;")

    def test_a_large_stack_is_refused(self, compiled):
        with pytest.raises(RuntimeError, match="frame size"):
            run_one(compiled, "float s[40000]; for (int i = 0; i < n; i++) s[i * 9] = x[i];\n"
                              "y[0] = s[n];")

    def test_without_a_compiler(self, compiled, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(RuntimeError, match="needs g.. .*apt-get install"):
            run_one(compiled, f"y[0] = {np.random.default_rng().integers(10**9)};")

    def test_a_folder_that_cannot_be_written(self, compiled, monkeypatch):
        def mkdir(*args, **kwargs):
            raise PermissionError
        monkeypatch.setattr(on_cpu_module.pathlib.Path, "mkdir", mkdir)
        number = np.random.default_rng().integers(10**6)
        assert run_one(compiled, f"y[0] = {number};") == number

    def test_compiled_code_is_kept(self, compiled, monkeypatch):
        assert run_one(compiled, "y[0] = 41;") == 41
        on_cpu_module._library.cache_clear()
        monkeypatch.setattr(on_cpu_module, "_compile", None)
        assert run_one(compiled, "y[0] = 41;") == 41


class _Gpu:
    """A device of CuPy, as far as the launcher uses one: entered before the launch."""

    def __init__(self):
        self.inside = False

    def __enter__(self):
        self.inside = True

    def __exit__(self, *error):
        self.inside = False


class _CupyArray(np.ndarray):
    device = _Gpu()


def test_each_of_many_sources_is_compiled_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(kernels.backend, "compile_cuda", lambda source: asked.append(source))
    (tmp_path / "k.cu").write_text('extern "C" __global__ void k(float* y, Index n) {}')
    modules = [cuda.Module(tmp_path / "k.cu", f"NUMBER {i}") for i in range(5)]
    for _ in range(3):
        for module in modules:
            for index in ("int", "long long"):
                module.compiled(index)
    assert len(asked) == len(set(asked)) == 10


def test_what_cupy_is_given(compiled, monkeypatch):
    """Exact types, null pointers, sizes and the arrays' device: on a fake CuPy."""
    backend = kernels.backend
    monkeypatch.setitem(backend._device_of_type, _CupyArray, "cuda")
    cupy = types.SimpleNamespace(ascontiguousarray=lambda array: array.copy())
    monkeypatch.setitem(backend._module_of_device, "cuda", cupy)
    calls = []

    class RawModule:
        def __init__(self, source):
            self.source = source

        def get_function(self, name):
            return lambda *args, **kwargs: calls.append(
                (self.source.splitlines()[0], name, _CupyArray.device.inside, args, kwargs))

    monkeypatch.setattr(backend, "compile_cuda", RawModule)
    module = compiled("""
        extern "C" __global__ void f(const float* a, const float* b, double* y, Index n, float s) {}
    """)
    a, y = np.zeros((2, 3), np.float32).view(_CupyArray), np.zeros(4).view(_CupyArray)
    module["f"]((2, 3), 64, a.T, None, y, 5, 0.5, shared=16)
    module["f"](1, (8, 8), a, a, y, 2**31, 1)
    with pytest.raises(TypeError, match="arrays on different devices"):
        module["f"](1, 64, a, None, np.zeros(4), 5, 1)
    (head, name, inside, (grid, block, args), options), wide = calls
    assert (head, name, inside, grid, block) == ("#define Index int", "f", True, (2, 3, 1), (64, 1, 1))
    assert options == {"shared_mem": 16} and args[0].flags.c_contiguous and args[2] is y
    assert [type(v) for v in args[1:]] == [np.uint64, _CupyArray, np.int32, np.float32]
    assert wide[0] == "#define Index long long" and type(wide[3][2][3]) is np.int64


@pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))
def test_nvrtc_compiles_and_names_the_line(compiled):
    module = compiled(SCALE)
    assert nvrtc.compile(module.source(), module.name, 80)[:4] == b"\x7fELF"
    bad = compiled('extern "C" __global__ void f(float* y)\n{\n    y[0] = z;\n}\n', "bad.cu")
    with pytest.raises(RuntimeError, match=r"bad.cu does not compile for sm_80:\nbad.cu\(3\)"):
        nvrtc.compile(bad.source("long long"), bad.name, 80)
