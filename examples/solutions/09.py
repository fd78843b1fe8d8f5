"""Solutions of lesson 09: texts of CUDA C."""


def saxpy():
    """y = a·x + y for any grid: each thread takes every (number of threads)-th element."""
    return """
extern "C" __global__ void saxpy(const float* x, float* y, float a, Index n)
{
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < n;
         i += gridDim.x * (Index)blockDim.x)
        y[i] = a * x[i] + y[i];
}
"""


def reverse():
    """Both are neighbours: thread i + 1 writes next to thread i, and reads just before it."""
    return """
extern "C" __global__ void reverse(const float* x, float* y, Index n)
{
    const Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[n - 1 - i];
}
"""
