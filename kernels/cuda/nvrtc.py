"""CUDA C compiled by NVIDIA's own compiler, NVRTC, which needs no GPU and no driver.

For tests on machines without a GPU; where there is one, CuPy compiles (kernels.backend).
"""

from __future__ import annotations

ARCHITECTURES = (75, 80, 86, 89, 90)  # Turing, Ampere (data centre, desktop), Ada, Hopper


def problem():
    """None if NVRTC is here, or what is missing in words."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # no bindings, or no library to bind
        return f"NVRTC is missing ({error}): pip install 'numba-cuda[cu12]'"
    return None


def compile(source, name, architecture):
    """Machine code (cubin, bytes) of the CUDA C `source` for sm_<architecture>.

    name: the file's name, for messages. Raises RuntimeError with the compiler's log, which names
    the lines.
    """
    from cuda.bindings import nvrtc

    program = _call(nvrtc.nvrtcCreateProgram, source.encode(), name.encode(), 0, None, None)
    try:
        options = [b"-std=c++17", b"-arch=sm_%d" % architecture]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_call(nvrtc.nvrtcGetProgramLogSize, program))
            _call(nvrtc.nvrtcGetProgramLog, program, log)
            text = log.rstrip(b"\0").decode(errors="replace")
            raise RuntimeError(f"{name} does not compile for sm_{architecture}:\n{text}")
        cubin = bytearray(_call(nvrtc.nvrtcGetCUBINSize, program))
        _call(nvrtc.nvrtcGetCUBIN, program, cubin)
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _call(function, *args):
    """The result of an NVRTC function, without its status; RuntimeError where that says failure."""
    status, *result = function(*args)
    if status.value:
        raise RuntimeError(f"{function.__name__}: {status.name}")
    return result[0] if result else None
