// A step of the GRU in one launch, forward and back through time.
//
// A thread owns one unit of one sample and sums what its three blocks z, r, ĥ recall of the state;
// a block of 16 samples by 16 units shares states and recurrent weights in shared memory. Sums run
// in one fixed order: results are the same in every run.
// xw (N, T, 3U), h0 (N, U), R (U, 3U), rb (3U,), mask (N, T) or null, hs (N, T, U).
//
// Where samples and units are many, the sums are better made by cuBLAS, and given as `product`; then
// only the cell is left.

constexpr int SIDE = 16;
constexpr int BLOCKS = 3;

__device__ float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }

struct Gates {
    float z, r, candidate, recalled;  // recalled = h Rh + bh
};

// The gates of step t, after their squashing; every thread of the block must come along. product:
// this step's and sample's part of it, or null.
__device__ Gates cell(const float* __restrict__ xw, const float* h0, const float* __restrict__ R,
                      const float* __restrict__ rb, const float* __restrict__ product,
                      const float* hs, Index t, Index n, Index samples, Index steps, Index u,
                      Index units)
{
    __shared__ float h_tile[SIDE][SIDE], R_tile[BLOCKS][SIDE][SIDE];
    const int x = threadIdx.x, y = threadIdx.y;
    const float* h = t ? hs + (t - 1) * units : h0;
    const Index apart = t ? steps * units : units;
    float sums[BLOCKS] = {0, 0, 0};
    for (Index start = 0; !product && start < units; start += SIDE) {
        const bool inside = n < samples && start + x < units;
        h_tile[y][x] = inside ? h[n * apart + start + x] : 0;
        for (int q = 0; q < BLOCKS; q++) {
            const bool there = start + y < units && u < units;
            R_tile[q][y][x] = there ? R[(start + y) * BLOCKS * units + q * units + u] : 0;
        }
        __syncthreads();
        for (int k = 0; k < SIDE; k++)
            for (int q = 0; q < BLOCKS; q++) sums[q] += h_tile[y][k] * R_tile[q][k][x];
        __syncthreads();
    }
    if (n >= samples || u >= units) return {};
    for (int q = 0; product && q < BLOCKS; q++) sums[q] = product[q * units + u];
    const float* own = xw + (n * steps + t) * BLOCKS * units + u;
    Gates gates;
    gates.z = sigmoid(own[0] + sums[0] + rb[u]);
    gates.r = sigmoid(own[units] + sums[1] + rb[units + u]);
    gates.recalled = sums[2] + rb[2 * units + u];
    gates.candidate = tanhf(own[2 * units] + gates.r * gates.recalled);
    return gates;
}

extern "C" __global__ void gru_step(const float* __restrict__ xw, const float* __restrict__ h0,
                                    const float* __restrict__ R, const float* __restrict__ rb,
                                    const float* __restrict__ product,
                                    const bool* __restrict__ mask, float* hs, Index t,
                                    Index samples, Index steps, Index units)
{
    const Index n = blockIdx.x * (Index)SIDE + threadIdx.y, u = blockIdx.y * SIDE + threadIdx.x;
    const float* own = product ? product + n * BLOCKS * units : product;
    const Gates gates = cell(xw, h0, R, rb, own, hs, t, n, samples, steps, u, units);
    if (n >= samples || u >= units) return;
    const Index at = (n * steps + t) * units + u;
    float h = t ? hs[at - units] : h0[n * units + u];
    if (!mask || mask[n * steps + t]) h = gates.candidate + gates.z * (h - gates.candidate);
    hs[at] = h;
}

// All steps of a sample in one launch, where its columns of R are no more than a block's threads: a
// thread a column, which all read from the cache; the state waits in shared memory. A block a sample.
extern "C" __global__ void __launch_bounds__(1024)
gru_sequence(const float* __restrict__ xw, const float* __restrict__ h0,
             const float* __restrict__ R, const float* __restrict__ rb,
             const bool* __restrict__ mask, float* __restrict__ hs, Index steps, Index units)
{
    __shared__ float h[1024 / BLOCKS], sums[1024];
    const Index n = blockIdx.x;
    const int column = threadIdx.x, width = BLOCKS * units;
    if (column < units) h[column] = h0[n * units + column];
    __syncthreads();
    for (Index t = 0; t < steps; t++) {
        const float* x = xw + (n * steps + t) * width + column;
        if (column < width) {
            float sum = rb[column];
#pragma unroll 16
            for (int k = 0; k < units; k++) sum += h[k] * R[k * width + column];
            sums[column] = column < 2 * units ? sigmoid(x[0] + sum) : sum;
        }
        __syncthreads();
        if (column < units) {
            const float z = sums[column], r = sums[units + column];
            const float candidate = tanhf(x[2 * units] + r * sums[2 * units + column]);
            if (!mask || mask[n * steps + t]) h[column] = candidate + z * (h[column] - candidate);
            hs[(n * steps + t) * units + column] = h[column];
        }
        __syncthreads();
    }
}

// The gates of all steps at once, when all states are known: (N, T, 4, U), z, r, ĥ, h Rh + bh.
extern "C" __global__ void gru_gates(const float* __restrict__ xw, const float* __restrict__ h0,
                                     const float* __restrict__ R, const float* __restrict__ rb,
                                     const float* __restrict__ product,
                                     const float* __restrict__ hs, float* __restrict__ gates,
                                     Index samples, Index steps, Index units)
{
    const Index n = blockIdx.x * (Index)SIDE + threadIdx.y, u = blockIdx.y * SIDE + threadIdx.x;
    for (Index t = blockIdx.z; t < steps; t += gridDim.z) {
        const float* given = product ? product + (n * steps + t) * BLOCKS * units : product;
        const Gates own = cell(xw, h0, R, rb, given, hs, t, n, samples, steps, u, units);
        if (n >= samples || u >= units) continue;
        float* here = gates + (n * steps + t) * 4 * units + u;
        here[0] = own.z;
        here[units] = own.r;
        here[2 * units] = own.candidate;
        here[3 * units] = own.recalled;
    }
}

// Through step t. dh (N, U) enters as what comes back from step t + 1, but for what passes through
// its R: with_product adds that (`product`, if not null). with_cell then writes dxw[:, t] and
// d_recurrent[:, t], the gradient of h R + rb, and leaves in dh what goes back to step t - 1.
extern "C" __global__ void gru_back(const float* __restrict__ g, const float* __restrict__ hs,
                                    const float* __restrict__ gates, const float* __restrict__ h0,
                                    const float* __restrict__ R,
                                    const float* __restrict__ product,
                                    const bool* __restrict__ mask, float* __restrict__ dxw,
                                    float* d_recurrent,
                                    float* __restrict__ dh, float scale, Index t, Index samples,
                                    Index steps, Index units, bool with_product, bool with_cell)
{
    __shared__ float da_tile[SIDE][SIDE], R_tile[SIDE][SIDE + 1];
    const int x = threadIdx.x, y = threadIdx.y;
    const Index n = blockIdx.x * (Index)SIDE + y, u = blockIdx.y * SIDE + x;
    const Index width = BLOCKS * units, first = blockIdx.y * SIDE;
    float sum = 0;
    for (Index start = 0; with_product && !product && start < width; start += SIDE) {
        const bool inside = start + x < width;
        const bool sample = inside && n < samples, row = inside && first + y < units;
        da_tile[y][x] = sample ? d_recurrent[(n * steps + t + 1) * width + start + x] : 0;
        R_tile[y][x] = row ? R[(first + y) * width + start + x] : 0;
        __syncthreads();
        for (int k = 0; k < SIDE; k++) sum += da_tile[y][k] * R_tile[x][k];
        __syncthreads();
    }
    if (n >= samples || u >= units) return;
    if (product) sum = product[n * units + u];
    float d_h = dh[n * units + u] + scale * sum;
    if (with_cell) {
        const Index at = (n * steps + t) * units + u, to = (n * steps + t) * width + u;
        float dz = 0, dr = 0, d_candidate = 0, d_recalled = 0;
        d_h += g[at];
        if (!mask || mask[n * steps + t]) {
            const float* gate = gates + (n * steps + t) * 4 * units + u;
            const float z = gate[0], r = gate[units], candidate = gate[2 * units];
            const float h = t ? hs[at - units] : h0[n * units + u];
            d_candidate = d_h * (1 - z) * (1 - candidate * candidate);
            dz = d_h * (h - candidate) * z * (1 - z);
            dr = d_candidate * gate[3 * units] * r * (1 - r);
            d_recalled = d_candidate * r;
            d_h *= scale * z;
        }
        dxw[to] = d_recurrent[to] = dz;
        dxw[to + units] = d_recurrent[to + units] = dr;
        dxw[to + 2 * units] = d_candidate;
        d_recurrent[to + 2 * units] = d_recalled;
    }
    dh[n * units + u] = d_h;
}
