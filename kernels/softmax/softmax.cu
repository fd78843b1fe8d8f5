// Softmax and the cross-entropies, with their gradients. x, y, g (rows, classes).
//
// Some threads share a row (rows.h): as many as hold it in registers, so that it is read from memory
// once and written once. Longer rows, of more than 16384 classes, are read a second time, which
// mostly comes from the cache. Maximum and sum are found in one go: who meets a larger number scales
// the sum so far down to it ("online", Milakov & Gimelshein 2018, arXiv:1805.02867).
//
// Counted in the code for sm_90, not measured: of 1000 classes, softmax is 35 instructions a number
// and 16 reads under way in each of 2048 threads of a multiprocessor. An H200 has time for 49 while it
// moves the 8 bytes, so that memory should be the limit. Of 50257 classes it is 43.
#include "rows.h"

constexpr float LOWEST = -3.402823466e38f;  // and not -inf, of which no difference may be taken

__device__ float minus_infinity() { return __int_as_float(0xff800000); }

struct Largest {
    float number = LOWEST;
};

__device__ Largest join(Largest a, Largest b) { return {fmaxf(a.number, b.number)}; }

struct Scale {
    float largest, sum;  // the largest x, and Σ exp(x - largest)
    float own;           // the largest that this thread has met
};

// Of a row. Where it is whole, v keeps the thread's numbers, as exp(x - own).
__device__ Scale scale_of(const Row& row, const float* __restrict__ x, float (&v)[EACH])
{
    float own = LOWEST, sum = 0;
    for (Index k = threadIdx.x; k < row.size; k += row.step()) {
        row.fetch(v, x + row.start, k, minus_infinity());
        const float before = own;
        for (int e = 0; e < EACH; e++) own = fmaxf(own, v[e]);
        if (!row.whole) sum *= expf(before - own);
        for (int e = 0; e < EACH; e++) sum += v[e] = expf(v[e] - own);
    }
    const float largest = over_row(Largest{own}).number;
    return {largest, over_row(sum * expf(own - largest)), own};
}

// v becomes the softmax of a row's numbers from the k-th on, of which scale_of has left them.
__device__ void softmax_of(const Row& row, const float* __restrict__ x, const Scale& scale, Index k,
                           float (&v)[EACH])
{
    const float share = 1 / scale.sum;
    if (row.whole) {
        const float factor = expf(scale.own - scale.largest) * share;
        for (int e = 0; e < EACH; e++) v[e] *= factor;
    } else {
        row.fetch(v, x + row.start, k, 0);
        for (int e = 0; e < EACH; e++) v[e] = expf(v[e] - scale.largest) * share;
    }
}

extern "C" __global__ void __launch_bounds__(1024)
softmax(const float* __restrict__ x, float* __restrict__ y, Index rows, Index classes)
{
    const Row row(rows, classes);
    float v[EACH];
    const Scale scale = scale_of(row, x, v);
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        softmax_of(row, x, scale, k, v);
        row.store(y + row.start, k, v);
    }
}

extern "C" __global__ void __launch_bounds__(1024)
log_softmax(const float* __restrict__ x, float* __restrict__ y, Index rows, Index classes)
{
    const Row row(rows, classes);
    float v[EACH];
    const Scale scale = scale_of(row, x, v);
    const float log_sum = logf(scale.sum);
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        row.fetch(v, x + row.start, k, 0);
        for (int e = 0; e < EACH; e++) v[e] = v[e] - scale.largest - log_sum;
        row.store(y + row.start, k, v);
    }
}

extern "C" __global__ void __launch_bounds__(1024)
softmax_grad(const float* __restrict__ g, const float* __restrict__ y, float* __restrict__ dx,
             Index rows, Index classes)
{
    const Row row(rows, classes);
    float outer[EACH], v[EACH], sum = 0;
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        row.fetch(outer, g + row.start, k, 0);
        row.fetch(v, y + row.start, k, 0);
        for (int e = 0; e < EACH; e++) sum += outer[e] * v[e];
    }
    sum = over_row(sum);
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        if (!row.whole) {
            row.fetch(outer, g + row.start, k, 0);
            row.fetch(v, y + row.start, k, 0);
        }
        for (int e = 0; e < EACH; e++) v[e] *= outer[e] - sum;
        row.store(dx + row.start, k, v);
    }
}

extern "C" __global__ void __launch_bounds__(1024)
log_softmax_grad(const float* __restrict__ g, const float* __restrict__ y, float* __restrict__ dx,
                 Index rows, Index classes)
{
    const Row row(rows, classes);
    float outer[EACH], v[EACH], sum = 0;
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        row.fetch(outer, g + row.start, k, 0);
        row.fetch(v, y + row.start, k, 0);  // already, where it stays
        for (int e = 0; e < EACH; e++) sum += outer[e];
    }
    sum = over_row(sum);
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        if (!row.whole) {
            row.fetch(outer, g + row.start, k, 0);
            row.fetch(v, y + row.start, k, 0);
        }
        for (int e = 0; e < EACH; e++) v[e] = outer[e] - expf(v[e]) * sum;
        row.store(dx + row.start, k, v);
    }
}

extern "C" __global__ void __launch_bounds__(1024)
softmax_crossentropy(const float* __restrict__ logits, const long long* __restrict__ labels,
                     float* __restrict__ loss, Index rows, Index classes)
{
    const Row row(rows, classes);
    float v[EACH];
    const Scale scale = scale_of(row, logits, v);
    if (threadIdx.x == 0)
        loss[row.number] =
            scale.largest - logits[row.start + labels[row.number]] + logf(scale.sum);
}

extern "C" __global__ void __launch_bounds__(1024)
softmax_crossentropy_grad(const float* __restrict__ g, const float* __restrict__ logits,
                          const long long* __restrict__ labels, float* __restrict__ dz, Index rows,
                          Index classes)
{
    const Row row(rows, classes);
    float v[EACH];
    const Scale scale = scale_of(row, logits, v);
    const float outer = g[row.number];
    const Index label = labels[row.number];
    for (Index k = threadIdx.x; k < classes; k += row.step()) {
        softmax_of(row, logits, scale, k, v);
        for (int e = 0; e < EACH; e++)
            v[e] = outer * (e * (int)blockDim.x == label - k ? v[e] - 1 : v[e]);
        row.store(dz + row.start, k, v);
    }
}

// Number by number: a thread takes FOUR at a time, a grid's width apart.
constexpr int FOUR = 4;

__device__ void fetch(float (&v)[FOUR], const float* __restrict__ x, Index first, Index apart,
                      Index size)
{
    for (int e = 0; e < FOUR; e++) v[e] = first + e * apart < size ? x[first + e * apart] : 0;
}

extern "C" __global__ void sigmoid_crossentropy(const float* __restrict__ logits,
                                                const float* __restrict__ targets,
                                                float* __restrict__ loss, Index size)
{
    const Index apart = gridDim.x * (Index)blockDim.x;
    float z[FOUR], target[FOUR];
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < size; i += FOUR * apart) {
        fetch(z, logits, i, apart, size);
        fetch(target, targets, i, apart, size);
        for (int e = 0; e < FOUR && i + e * apart < size; e++) {
            const float positive = z[e] < 0 ? 0 : z[e];  // a NaN stays one
            loss[i + e * apart] = positive - z[e] * target[e] + log1pf(expf(-fabsf(z[e])));
        }
    }
}

extern "C" __global__ void sigmoid_crossentropy_grad(const float* __restrict__ g,
                                                     const float* __restrict__ logits,
                                                     const float* __restrict__ targets,
                                                     float* __restrict__ dz, Index size)
{
    const Index apart = gridDim.x * (Index)blockDim.x;
    float outer[FOUR], z[FOUR], target[FOUR];
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < size; i += FOUR * apart) {
        fetch(outer, g, i, apart, size);
        fetch(z, logits, i, apart, size);
        fetch(target, targets, i, apart, size);
        for (int e = 0; e < FOUR && i + e * apart < size; e++)
            dz[i + e * apart] = outer[e] * (0.5f * tanhf(0.5f * z[e]) + 0.5f - target[e]);
    }
}
