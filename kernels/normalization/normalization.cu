// Moments of groups, the normalisation by them, and its gradient.
// x (N, P, C); G groups of K = C / G neighbouring channels; moments (2, N, G): mean and variance.
//
// Where a sample is one pixel (layer normalisation), its groups are rows of neighbours in memory,
// which stay in the registers of the threads that share them (rows.h).
//
// Where it is many (batch, group and instance normalisation), neighbouring threads take neighbouring
// channels. A thread's channel and sample are always the same, so that it finds scale and shift once;
// it reads EIGHT of its pixels at a time, so that many reads are under way. Sums over the pixels are
// cut into parts, one for a block, for which no digits cancel; a second, small kernel joins them.
//
// Counted in the code for sm_90, not measured: of many pixels, 9 (moments), 14 (normalize), 14
// (gradient_sums) and 21 (normalize_grad) instructions for 4, 8, 8 and 12 bytes, of which an H200
// moves so many in the time of 25, 49, 49 and 74; with eight reads or more under way in each of 1280
// to 2048 threads of a multiprocessor, memory should be the limit. Rows: 19, 22 and 39 for 4, 8, 12.
#include "rows.h"

constexpr int THREADS = 256, EIGHT = 8;

struct Moments {
    float count, mean, squares;  // squares: the sum of those of the distances from the mean
};

__device__ Moments join(Moments a, Moments b)  // Chan et al. 1979
{
    if (b.count == 0) return a;
    if (a.count == 0) return b;
    const float count = a.count + b.count, share = __fdividef(b.count, count), off = b.mean - a.mean;
    return {count, a.mean + off * share, a.squares + b.squares + off * off * (a.count * share)};
}

struct Sums {
    float outer, both;  // of g (or g·gamma), and of that times (x - mean)/root
};

__device__ Sums join(Sums a, Sums b) { return {a.outer + b.outer, a.both + b.both}; }

// ---------------------------------------------------------------------- samples of one pixel: rows

extern "C" __global__ void __launch_bounds__(1024)
moments_of_rows(const float* __restrict__ x, float* __restrict__ moments, Index rows, Index k)
{
    const Row row(rows, k);
    float v[EACH], sum = 0, squares = 0;
    for (Index i = threadIdx.x; i < k; i += row.step()) {
        row.fetch(v, x + row.start, i, 0);
        for (int e = 0; e < EACH; e++) sum += v[e];
    }
    const float mean = over_row(sum) / k;
    for (Index i = threadIdx.x; i < k; i += row.step()) {
        if (!row.whole) row.fetch(v, x + row.start, i, 0);
        for (int e = 0; e < EACH; e++) {
            const float off = row.has(i, e) ? v[e] - mean : 0;
            squares += off * off;
        }
    }
    squares = over_row(squares);
    if (threadIdx.x) return;
    moments[row.number] = mean;
    moments[rows + row.number] = squares / k;
}

extern "C" __global__ void __launch_bounds__(1024)
normalize_rows(const float* __restrict__ x, const float* __restrict__ moments,
               const float* __restrict__ gamma, const float* __restrict__ beta,
               float* __restrict__ y, Index rows, Index k, Index groups, float epsilon)
{
    const Row row(rows, k);
    const Index channel = row.number % groups * k;
    const float mean = moments[row.number];
    const float inverse = rsqrtf(moments[rows + row.number] + epsilon);
    float v[EACH], factor[EACH], shift[EACH];
    for (Index i = threadIdx.x; i < k; i += row.step()) {
        row.fetch(v, x + row.start, i, 0);
        row.fetch(factor, gamma + channel, i, 0);
        row.fetch(shift, beta + channel, i, 0);
        for (int e = 0; e < EACH; e++) v[e] = (v[e] - mean) * inverse * factor[e] + shift[e];
        row.store(y + row.start, i, v);
    }
}

// inner = (x - mean)/root and outer = g·gamma, from the row's i-th number on.
__device__ void fetch(const Row& row, const float* __restrict__ g, const float* __restrict__ x,
                      const float* __restrict__ gamma, Index i, float mean, float inverse,
                      float (&outer)[EACH], float (&inner)[EACH])
{
    float factor[EACH];
    row.fetch(inner, x, i, mean);
    row.fetch(outer, g, i, 0);
    row.fetch(factor, gamma, i, 0);
    for (int e = 0; e < EACH; e++) {
        inner[e] = (inner[e] - mean) * inverse;
        outer[e] *= factor[e];
    }
}

// dx only: gamma's and beta's gradients are sums over the rows, which gradient_sums finds.
extern "C" __global__ void __launch_bounds__(1024)
rows_grad(const float* __restrict__ g, const float* __restrict__ x,
          const float* __restrict__ moments, const float* __restrict__ gamma,
          float* __restrict__ dx, Index rows, Index k, Index groups, float epsilon)
{
    const Row row(rows, k);
    const float mean = moments[row.number];
    const float inverse = rsqrtf(moments[rows + row.number] + epsilon);
    gamma += row.number % groups * k;
    g += row.start;
    x += row.start;
    float outer[EACH], inner[EACH];
    Sums means = {0, 0};
    for (Index i = threadIdx.x; i < k; i += row.step()) {
        fetch(row, g, x, gamma, i, mean, inverse, outer, inner);
        for (int e = 0; e < EACH; e++) means = join(means, {outer[e], outer[e] * inner[e]});
    }
    means = over_row(means);
    means = {means.outer / k, means.both / k};
    for (Index i = threadIdx.x; i < k; i += row.step()) {
        if (!row.whole) fetch(row, g, x, gamma, i, mean, inverse, outer, inner);
        for (int e = 0; e < EACH; e++)
            outer[e] = (outer[e] - means.outer - inner[e] * means.both) * inverse;
        row.store(dx + row.start, i, outer);
    }
}

// ------------------------------------------------------------------- samples of many: channels
// blockDim is (neighbouring channels, pixels read at once). A block takes the pixels of a part, or
// EIGHT·blockDim.y of them at a time.

struct Channel {
    Index number, c;

    __device__ Channel(Index c) : number(blockIdx.x * (Index)blockDim.x + threadIdx.x), c(c) {}

    __device__ Index step() const { return EIGHT * (Index)blockDim.y; }

    __device__ bool has(Index pixel, Index last, int e) const
    {
        return pixel + e * (Index)blockDim.y < last;
    }

    // v = the channel's number in every blockDim.y-th pixel, from `pixel` until `last`. That mostly all
    // eight are there is asked once, so that nothing comes between their reads.
    __device__ void fetch(float (&v)[EIGHT], const float* __restrict__ x, Index pixel,
                          Index last) const
    {
        const Index apart = blockDim.y * c;
        x += pixel * c + number;
        if (has(pixel, last, EIGHT - 1))
            for (int e = 0; e < EIGHT; e++) v[e] = x[e * apart];
        else
            for (int e = 0; e < EIGHT; e++) v[e] = has(pixel, last, e) ? x[e * apart] : 0;
    }

    __device__ void store(float* __restrict__ y, Index pixel, Index last,
                          const float (&v)[EIGHT]) const
    {
        const Index apart = blockDim.y * c;
        y += pixel * c + number;
        for (int e = 0; e < EIGHT; e++)
            if (has(pixel, last, e)) y[e * apart] = v[e];
    }
};

// join() of what the block's threads of one channel hold, for the first of them.
template <class T>
__device__ T over_channel(T own, float* words)
{
    constexpr int WORDS = sizeof(T) / sizeof(float);
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        for (int k = 0; k < WORDS; k++) words[k * THREADS + thread] = ((float*)&own)[k];
        __syncthreads();
        if (threadIdx.y >= half) continue;
        T other;
        for (int k = 0; k < WORDS; k++)
            ((float*)&other)[k] = words[k * THREADS + thread + half * blockDim.x];
        own = join(own, other);
    }
    return own;
}

// Mean [0] and sum of squares about it [1] of every channel and part: (2, N, C, parts). The eight
// numbers at hand give a mean and squares about it, which join the running ones.
extern "C" __global__ void __launch_bounds__(THREADS)
moments_of_channels(const float* __restrict__ x, float* __restrict__ parts, Index samples, Index p,
                    Index c, Index pixels_each)
{
    __shared__ float words[3 * THREADS];
    const Channel channel(c);
    const Index first = blockIdx.y * pixels_each, apart = blockDim.y * c;
    const Index last = channel.number < c ? min(first + pixels_each, p) : first;
    for (Index n = blockIdx.z; n < samples; n += gridDim.z) {
        Moments own = {0, 0, 0};
        Index i = first + threadIdx.y;
        const float* here = x + (n * p + i) * c + channel.number;
        for (; i + (EIGHT - 1) * (Index)blockDim.y < last; i += channel.step()) {
            float v[EIGHT], sum = 0, squares = 0;
            for (int e = 0; e < EIGHT; e++, here += apart) sum += v[e] = *here;
            const float mean = sum / EIGHT;
            for (int e = 0; e < EIGHT; e++) squares += (v[e] - mean) * (v[e] - mean);
            own = join(own, {EIGHT, mean, squares});
        }
        for (; i < last; i += blockDim.y, here += apart) own = join(own, {1, *here, 0});
        own = over_channel(own, words);
        if (threadIdx.y || channel.number >= c) continue;
        const Index at = (n * c + channel.number) * gridDim.y + blockIdx.y;
        parts[at] = own.mean;
        parts[samples * c * gridDim.y + at] = own.squares;
    }
}

// A group's moments from the parts of its channels, which are neighbours: a row.
extern "C" __global__ void __launch_bounds__(1024)
join_moments(const float* __restrict__ parts, float* __restrict__ moments, Index rows, Index k,
             Index p, Index count, Index pixels_each)
{
    const Row row(rows, k * count);
    Moments own = {0, 0, 0};
    float means[EACH], squares[EACH];
    for (Index i = threadIdx.x; i < row.size; i += row.step()) {
        row.fetch(means, parts + row.start, i, 0);
        row.fetch(squares, parts + rows * row.size + row.start, i, 0);
        for (int e = 0; e < EACH && row.has(i, e); e++) {
            const Index part = (i + e * (Index)blockDim.x) % count;
            const float pixels = min(pixels_each, p - part * pixels_each);
            own = join(own, {pixels, means[e], squares[e]});
        }
    }
    own = over_row(own);
    if (threadIdx.x) return;
    moments[row.number] = own.mean;
    moments[rows + row.number] = own.squares / own.count;
}

extern "C" __global__ void __launch_bounds__(THREADS)
normalize(const float* __restrict__ x, const float* __restrict__ moments,
          const float* __restrict__ gamma, const float* __restrict__ beta, float* __restrict__ y,
          Index samples, Index p, Index c, Index groups, float epsilon)
{
    const Channel channel(c);
    if (channel.number >= c) return;
    const Index group = channel.number / (c / groups);
    const float factor = gamma[channel.number], shift = beta[channel.number];
    for (Index n = blockIdx.z; n < samples; n += gridDim.z) {
        const Index at = n * groups + group;
        const float mean = moments[at];
        const float scale = factor * rsqrtf(moments[samples * groups + at] + epsilon);
        for (Index i = blockIdx.y * channel.step() + threadIdx.y; i < p;
             i += gridDim.y * channel.step()) {
            float v[EIGHT];
            channel.fetch(v, x + n * p * c, i, p);
            for (int e = 0; e < EIGHT; e++) v[e] = (v[e] - mean) * scale + shift;
            channel.store(y + n * p * c, i, p, v);
        }
    }
}

// Σ g [0] and Σ g·(x - mean)/root [1] of every channel and part: (2, N, C, parts). by_pixel: N is 1,
// and each pixel has moments of its own (P, G), as the samples of one pixel have.
extern "C" __global__ void __launch_bounds__(THREADS)
gradient_sums(const float* __restrict__ g, const float* __restrict__ x,
              const float* __restrict__ moments, float* __restrict__ parts, Index samples, Index p,
              Index c, Index groups, Index pixels_each, bool by_pixel, float epsilon)
{
    __shared__ float words[2 * THREADS];
    const Channel channel(c);
    const Index first = blockIdx.y * pixels_each;
    const Index last = channel.number < c ? min(first + pixels_each, p) : first;
    const Index group = channel.number < c ? channel.number / (c / groups) : 0;
    const Index all = (by_pixel ? p : samples) * groups;
    for (Index n = blockIdx.z; n < samples; n += gridDim.z) {
        const float* own = moments + n * groups + group;
        float mean = own[0], inverse = rsqrtf(own[all] + epsilon);
        Sums sums = {0, 0};
        for (Index i = first + threadIdx.y; i < last; i += channel.step()) {
            float outer[EIGHT], inner[EIGHT];
            channel.fetch(outer, g + n * p * c, i, last);
            channel.fetch(inner, x + n * p * c, i, last);
            for (int e = 0; e < EIGHT; e++) {
                if (by_pixel && channel.has(i, last, e)) {
                    const float* here = own + (i + e * (Index)blockDim.y) * groups;
                    mean = here[0];
                    inverse = rsqrtf(here[all] + epsilon);
                }
                sums = join(sums, {outer[e], outer[e] * ((inner[e] - mean) * inverse)});
            }
        }
        sums = over_channel(sums, words);
        if (threadIdx.y || channel.number >= c) continue;
        const Index at = (n * c + channel.number) * gridDim.y + blockIdx.y;
        parts[at] = sums.outer;
        parts[samples * c * gridDim.y + at] = sums.both;
    }
}

// sums (rows,) of parts (rows, count).
extern "C" __global__ void __launch_bounds__(1024)
add_parts(const float* __restrict__ parts, float* __restrict__ sums, Index rows, Index count)
{
    const Row row(rows, count);
    float v[EACH], sum = 0;
    for (Index i = threadIdx.x; i < count; i += row.step()) {
        row.fetch(v, parts + row.start, i, 0);
        for (int e = 0; e < EACH; e++) sum += v[e];
    }
    sum = over_row(sum);
    if (threadIdx.x == 0) sums[row.number] = sum;
}

// means (2, N, G): of g·gamma, and of that times (x - mean)/root, over each group's numbers, from
// their sums over the pixels (2, N, C). rows: N·G.
extern "C" __global__ void __launch_bounds__(1024)
group_means(const float* __restrict__ sums, const float* __restrict__ gamma,
            float* __restrict__ means, Index rows, Index k, Index groups, Index p)
{
    const Row row(rows, k);
    const float* factors = gamma + row.number % groups * k;
    float factor[EACH], outer[EACH], both[EACH];
    Sums own = {0, 0};
    for (Index i = threadIdx.x; i < k; i += row.step()) {
        row.fetch(factor, factors, i, 0);
        row.fetch(outer, sums + row.start, i, 0);
        row.fetch(both, sums + rows * k + row.start, i, 0);
        for (int e = 0; e < EACH; e++)
            own = join(own, {factor[e] * outer[e], factor[e] * both[e]});
    }
    own = over_row(own);
    if (threadIdx.x) return;
    const float share = 1.0f / (p * (float)k);
    means[row.number] = own.outer * share;
    means[rows + row.number] = own.both * share;
}

// means: as group_means makes them.
extern "C" __global__ void __launch_bounds__(THREADS)
normalize_grad(const float* __restrict__ g, const float* __restrict__ x,
               const float* __restrict__ moments, const float* __restrict__ gamma,
               const float* __restrict__ means, float* __restrict__ dx, Index samples, Index p,
               Index c, Index groups, float epsilon)
{
    const Channel channel(c);
    if (channel.number >= c) return;
    const Index group = channel.number / (c / groups), all = samples * groups;
    const float factor = gamma[channel.number];
    for (Index n = blockIdx.z; n < samples; n += gridDim.z) {
        const Index at = n * groups + group;
        const float mean = moments[at], inverse = rsqrtf(moments[all + at] + epsilon);
        const float mean_outer = means[at], mean_both = means[all + at];
        for (Index i = blockIdx.y * channel.step() + threadIdx.y; i < p;
             i += gridDim.y * channel.step()) {
            float outer[EIGHT], inner[EIGHT];
            channel.fetch(outer, g + n * p * c, i, p);
            channel.fetch(inner, x + n * p * c, i, p);
            for (int e = 0; e < EIGHT; e++) {
                inner[e] = (inner[e] - mean) * inverse;
                outer[e] = (outer[e] * factor - mean_outer - inner[e] * mean_both) * inverse;
            }
            channel.store(dx + n * p * c, i, p, outer);
        }
    }
}
