// Softmax and the cross-entropies. A warp takes a row, or a whole block does where rows are long;
// its threads find the row's maximum and sum together, by shuffles, in a fixed order.
// x, y, g (rows, classes). blockDim is (32, rows of a block), or (a multiple of 32, 1).

constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ float join(float a, float b, bool largest) { return largest ? fmaxf(a, b) : a + b; }

// The sum, or the maximum, of the values that the threads of a row hold.
__device__ float over_row(float value, bool largest)
{
    __shared__ float part[32];
    for (int apart = 16; apart > 0; apart /= 2)
        value = join(value, __shfl_xor_sync(ALL_LANES, value, apart), largest);
    if (blockDim.x == 32) return value;
    __syncthreads();  // `part` may still be read by those who were here before
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    value = part[0];
    for (int warp = 1; warp < blockDim.x / 32; warp++) value = join(value, part[warp], largest);
    return value;
}

struct Scale {
    float largest, sum;  // the largest x, and Σ exp(x - largest)
};

__device__ Scale scale_of(const float* __restrict__ x, Index classes)
{
    float largest = x[0], sum = 0;
    for (Index k = threadIdx.x; k < classes; k += blockDim.x) largest = fmaxf(largest, x[k]);
    largest = over_row(largest, true);
    for (Index k = threadIdx.x; k < classes; k += blockDim.x) sum += expf(x[k] - largest);
    return {largest, over_row(sum, false)};
}

extern "C" __global__ void softmax(const float* __restrict__ x, float* __restrict__ y, Index rows,
                                   Index classes)
{
    const Index row = blockIdx.x * (Index)blockDim.y + threadIdx.y, start = row * classes;
    if (row >= rows) return;
    const Scale scale = scale_of(x + start, classes);
    for (Index k = threadIdx.x; k < classes; k += blockDim.x)
        y[start + k] = expf(x[start + k] - scale.largest) / scale.sum;
}

extern "C" __global__ void log_softmax(const float* __restrict__ x, float* __restrict__ y,
                                       Index rows, Index classes)
{
    const Index row = blockIdx.x * (Index)blockDim.y + threadIdx.y, start = row * classes;
    if (row >= rows) return;
    const Scale scale = scale_of(x + start, classes);
    const float log_sum = logf(scale.sum);
    for (Index k = threadIdx.x; k < classes; k += blockDim.x)
        y[start + k] = x[start + k] - scale.largest - log_sum;
}

extern "C" __global__ void softmax_grad(const float* __restrict__ g, const float* __restrict__ y,
                                        float* __restrict__ dx, Index rows, Index classes)
{
    const Index row = blockIdx.x * (Index)blockDim.y + threadIdx.y, start = row * classes;
    if (row >= rows) return;
    float sum = 0;
    for (Index k = threadIdx.x; k < classes; k += blockDim.x) sum += g[start + k] * y[start + k];
    sum = over_row(sum, false);
    for (Index k = threadIdx.x; k < classes; k += blockDim.x)
        dx[start + k] = y[start + k] * (g[start + k] - sum);
}

extern "C" __global__ void log_softmax_grad(const float* __restrict__ g,
                                            const float* __restrict__ y, float* __restrict__ dx,
                                            Index rows, Index classes)
{
    const Index row = blockIdx.x * (Index)blockDim.y + threadIdx.y, start = row * classes;
    if (row >= rows) return;
    float sum = 0;
    for (Index k = threadIdx.x; k < classes; k += blockDim.x) sum += g[start + k];
    sum = over_row(sum, false);
    for (Index k = threadIdx.x; k < classes; k += blockDim.x)
        dx[start + k] = g[start + k] - expf(y[start + k]) * sum;
}

extern "C" __global__ void softmax_crossentropy(const float* __restrict__ logits,
                                                const long long* __restrict__ labels,
                                                float* __restrict__ loss, Index rows,
                                                Index classes)
{
    const Index row = blockIdx.x * (Index)blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float* z = logits + row * classes;
    const Scale scale = scale_of(z, classes);
    if (threadIdx.x == 0) loss[row] = scale.largest - z[labels[row]] + logf(scale.sum);
}

extern "C" __global__ void softmax_crossentropy_grad(const float* __restrict__ g,
                                                     const float* __restrict__ logits,
                                                     const long long* __restrict__ labels,
                                                     float* __restrict__ dz, Index rows,
                                                     Index classes)
{
    const Index row = blockIdx.x * (Index)blockDim.y + threadIdx.y, start = row * classes;
    if (row >= rows) return;
    const Scale scale = scale_of(logits + start, classes);
    for (Index k = threadIdx.x; k < classes; k += blockDim.x) {
        const float y = expf(logits[start + k] - scale.largest) / scale.sum;
        dz[start + k] = g[row] * (y - (k == labels[row] ? 1.0f : 0.0f));
    }
}

extern "C" __global__ void sigmoid_crossentropy(const float* __restrict__ logits,
                                                const float* __restrict__ targets,
                                                float* __restrict__ loss, Index size)
{
    const Index stride = gridDim.x * (Index)blockDim.x;
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < size; i += stride) {
        const float z = logits[i], positive = z < 0 ? 0 : z;  // a NaN stays one
        loss[i] = positive - z * targets[i] + log1pf(expf(-fabsf(z)));
    }
}

extern "C" __global__ void sigmoid_crossentropy_grad(const float* __restrict__ g,
                                                     const float* __restrict__ logits,
                                                     const float* __restrict__ targets,
                                                     float* __restrict__ dz, Index size)
{
    const Index stride = gridDim.x * (Index)blockDim.x;
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < size; i += stride)
        dz[i] = g[i] * (0.5f * tanhf(0.5f * logits[i]) + 0.5f - targets[i]);
}
