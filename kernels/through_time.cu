// What the gradient gate of the three recurrent cells needs beyond its scale: the limit.

// Shorten every row of values (rows, units) to a norm of at most `limit`. A row whose mask at step t
// is false passed through no gate and stays. One block a row; its size is a power of two.
extern "C" __global__ void shorten(float* __restrict__ values, const bool* __restrict__ mask,
                                   float limit, Index t, Index steps, Index units)
{
    __shared__ float part[256];
    float* row = values + blockIdx.x * units;
    float squares = 0;
    for (Index u = threadIdx.x; u < units; u += blockDim.x) squares += row[u] * row[u];
    part[threadIdx.x] = squares;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    const float norm = sqrtf(part[0]);
    if (norm <= limit || (mask && !mask[blockIdx.x * steps + t])) return;
    for (Index u = threadIdx.x; u < units; u += blockDim.x) row[u] *= limit / norm;
}
