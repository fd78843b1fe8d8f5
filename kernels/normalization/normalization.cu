// Moments of groups, the normalisation by them, and its gradient.
// x (N, P, C); G groups of K = C / G neighbouring channels; moments (2, N, G): mean and variance.

constexpr int THREADS = 256;
constexpr int WIDE = 32, HIGH = THREADS / WIDE;  // a tile of channels, and the rows read at once

// Of a whole block, in a fixed order.
__device__ float over_block(float value)
{
    __shared__ float part[THREADS / 32];
    for (int apart = 16; apart > 0; apart /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, apart);
    __syncthreads();  // `part` may still be read by those who were here before
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) value += part[warp];
    return value;
}

// Where groups are wide: a block a group. Two passes, so that no digits cancel.
extern "C" __global__ void moments_of_wide_groups(const float* __restrict__ x,
                                                  float* __restrict__ moments, Index samples,
                                                  Index p, Index c, Index groups)
{
    const Index n = blockIdx.x / groups, group = blockIdx.x % groups, k = c / groups, size = p * k;
    const float* first = x + n * p * c + group * k;
    float sum = 0, squares = 0;
    for (Index i = threadIdx.x; i < size; i += THREADS) sum += first[i / k * c + i % k];
    const float mean = over_block(sum) / size;
    for (Index i = threadIdx.x; i < size; i += THREADS) {
        const float off = first[i / k * c + i % k] - mean;
        squares += off * off;
    }
    const float variance = over_block(squares) / size;
    if (threadIdx.x) return;
    moments[blockIdx.x] = mean;
    moments[samples * groups + blockIdx.x] = variance;
}

// Where they are narrow: neighbouring threads take neighbouring channels, and each block a part of
// the pixels. Written are the mean [0] of every part and channel and the sum of squares about it
// [1]: (2, parts, N, C). Running means (Welford 1962), so that no digits cancel.
extern "C" __global__ void moments_of_channels(const float* __restrict__ x,
                                               float* __restrict__ parts, Index samples, Index p,
                                               Index c, Index pixels_each)
{
    __shared__ float means[HIGH][WIDE], squares[HIGH][WIDE], counts[HIGH];
    const int a = threadIdx.y, b = threadIdx.x;
    const Index channel = blockIdx.x * (Index)WIDE + b, first = blockIdx.y * pixels_each;
    const Index last = min(first + pixels_each, p);
    for (Index n = blockIdx.z; n < samples; n += gridDim.z) {
        float mean = 0, square = 0, count = 0;
        for (Index i = first + a; i < last; i += HIGH) {
            count += 1;
            if (channel >= c) continue;
            const float value = x[(n * p + i) * c + channel], off = value - mean;
            mean += off / count;
            square += off * (value - mean);
        }
        means[a][b] = mean;
        squares[a][b] = square;
        if (b == 0) counts[a] = count;
        __syncthreads();
        if (a == 0 && channel < c) {
            for (int other = 1; other < HIGH && counts[other] > 0; other++) {  // Chan et al. 1979
                const float off = means[other][b] - mean, both = count + counts[other];
                mean += off * (counts[other] / both);
                square += squares[other][b] + off * off * (count * counts[other] / both);
                count = both;
            }
            const Index at = (blockIdx.y * samples + n) * c + channel;
            parts[at] = mean;
            parts[gridDim.y * samples * c + at] = square;
        }
        __syncthreads();
    }
}

extern "C" __global__ void normalize(const float* __restrict__ x, const float* __restrict__ moments,
                                     const float* __restrict__ gamma,
                                     const float* __restrict__ beta, float* __restrict__ y,
                                     Index samples, Index p, Index c, Index groups, float epsilon)
{
    const Index channel = blockIdx.x * (Index)WIDE + threadIdx.x, rows = samples * p;
    if (channel >= c) return;
    const float* means = moments + channel / (c / groups);
    const float* variances = means + samples * groups;
    const Index stride = gridDim.y * (Index)HIGH;
    for (Index row = blockIdx.y * (Index)HIGH + threadIdx.y; row < rows; row += stride) {
        const Index at = row / p * groups, i = row * c + channel;
        const float inner = (x[i] - means[at]) / sqrtf(variances[at] + epsilon);
        y[i] = inner * gamma[channel] + beta[channel];
    }
}

// Σ g [0] and Σ g·(x - mean)/root [1] over each part of the pixels: (2, parts, N, C). Here N may be
// 1 and P all pixels of all samples, for sums over all of them; `per` is P as the moments know it.
extern "C" __global__ void gradient_sums(const float* __restrict__ g, const float* __restrict__ x,
                                         const float* __restrict__ moments,
                                         float* __restrict__ parts, Index samples, Index p, Index c,
                                         Index groups, Index per, Index pixels_each, float epsilon)
{
    __shared__ float sums[2][HIGH][WIDE];
    const int a = threadIdx.y, b = threadIdx.x;
    const Index channel = blockIdx.x * (Index)WIDE + b, first = blockIdx.y * pixels_each;
    const Index last = channel < c ? min(first + pixels_each, p) : first;
    const Index group = channel < c ? channel / (c / groups) : 0;
    const float* means = moments + group;
    const float* variances = means + samples * p / per * groups;
    for (Index n = blockIdx.z; n < samples; n += gridDim.z) {
        float mean = means[n * groups], root = sqrtf(variances[n * groups] + epsilon);
        float outer = 0, both = 0;
        for (Index i = first + a; i < last; i += HIGH) {
            if (per < p) {
                const Index of = (n * p + i) / per * groups;
                mean = means[of];
                root = sqrtf(variances[of] + epsilon);
            }
            const Index at = (n * p + i) * c + channel;
            outer += g[at];
            both += g[at] * ((x[at] - mean) / root);
        }
        sums[0][a][b] = outer;
        sums[1][a][b] = both;
        __syncthreads();
        if (a < 2 && channel < c) {
            float sum = 0;
            for (int other = 0; other < HIGH; other++) sum += sums[a][other][b];
            parts[((a * (Index)gridDim.y + blockIdx.y) * samples + n) * c + channel] = sum;
        }
        __syncthreads();
    }
}

// by_group (2, N, G): the means over each group of g·gamma and of g·gamma·(x - mean)/root.
extern "C" __global__ void normalize_grad(const float* __restrict__ g, const float* __restrict__ x,
                                          const float* __restrict__ moments,
                                          const float* __restrict__ gamma,
                                          const float* __restrict__ by_group,
                                          float* __restrict__ dx, Index samples, Index p, Index c,
                                          Index groups, float epsilon)
{
    const Index channel = blockIdx.x * (Index)WIDE + threadIdx.x, rows = samples * p;
    if (channel >= c) return;
    const Index group = channel / (c / groups), all = samples * groups;
    const Index stride = gridDim.y * (Index)HIGH;
    for (Index row = blockIdx.y * (Index)HIGH + threadIdx.y; row < rows; row += stride) {
        const Index of = row / p * groups + group, i = row * c + channel;
        const float root = sqrtf(moments[all + of] + epsilon);
        const float inner = (x[i] - moments[of]) / root;
        dx[i] = (g[i] * gamma[channel] - by_group[of] - inner * by_group[all + of]) / root;
    }
}

// The same where groups are wide: a block a group, which finds its two means itself.
extern "C" __global__ void wide_groups_grad(const float* __restrict__ g,
                                            const float* __restrict__ x,
                                            const float* __restrict__ moments,
                                            const float* __restrict__ gamma,
                                            float* __restrict__ dx, Index samples, Index p, Index c,
                                            Index groups, float epsilon)
{
    const Index n = blockIdx.x / groups, group = blockIdx.x % groups, k = c / groups, size = p * k;
    const Index first = n * p * c + group * k;
    const float mean = moments[blockIdx.x];
    const float root = sqrtf(moments[samples * groups + blockIdx.x] + epsilon);
    float sum = 0, both = 0;
    for (Index i = threadIdx.x; i < size; i += THREADS) {
        const Index at = first + i / k * c + i % k;
        const float outer = g[at] * gamma[group * k + i % k];
        sum += outer;
        both += outer * ((x[at] - mean) / root);
    }
    sum = over_block(sum) / size;
    both = over_block(both) / size;
    for (Index i = threadIdx.x; i < size; i += THREADS) {
        const Index at = first + i / k * c + i % k;
        const float inner = (x[at] - mean) / root;
        dx[at] = (g[at] * gamma[group * k + i % k] - sum - inner * both) / root;
    }
}
