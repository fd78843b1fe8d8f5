// One step of Adam in one pass: every number of w, g, m and v is read once, written once.

__device__ void step(float& w, float g, float& m, float& v, float rate, float share_1,
                     float share_2, float epsilon)
{
    m += share_1 * (g - m);
    v += share_2 * (g * g - v);
    w -= rate * m / (sqrtf(v) + epsilon);
}

// Four numbers at once, where all arrays begin at a multiple of 16 bytes; then what remains.
// share_1 = 1 - β₁, share_2 = 1 - β₂.
extern "C" __global__ void adam(float* __restrict__ w, const float* __restrict__ g,
                                float* __restrict__ m, float* __restrict__ v, float rate,
                                float share_1, float share_2, float epsilon, Index size)
{
    const Index first = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    const Index stride = gridDim.x * (Index)blockDim.x;
    const size_t misaligned = ((size_t)w | (size_t)g | (size_t)m | (size_t)v) % sizeof(float4);
    const Index fours = misaligned ? 0 : size / 4;
    for (Index i = first; i < fours; i += stride) {
        float4 ws = ((float4*)w)[i], ms = ((float4*)m)[i], vs = ((float4*)v)[i];
        const float4 gs = ((const float4*)g)[i];
        step(ws.x, gs.x, ms.x, vs.x, rate, share_1, share_2, epsilon);
        step(ws.y, gs.y, ms.y, vs.y, rate, share_1, share_2, epsilon);
        step(ws.z, gs.z, ms.z, vs.z, rate, share_1, share_2, epsilon);
        step(ws.w, gs.w, ms.w, vs.w, rate, share_1, share_2, epsilon);
        ((float4*)w)[i] = ws;
        ((float4*)m)[i] = ms;
        ((float4*)v)[i] = vs;
    }
    for (Index i = 4 * fours + first; i < size; i += stride)
        step(w[i], g[i], m[i], v[i], rate, share_1, share_2, epsilon);
}
