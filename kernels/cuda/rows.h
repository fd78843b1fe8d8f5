// Rows of numbers, each of which several threads share: how they read it, and how they put together
// what each of them found in it. Included by the .cu files that have such rows.
//
// blockDim is (threads of a row, rows of a block), as kernels.cuda.row_block says: a power of two, or
// whole warps for one row. Thread t has the numbers t, t + blockDim.x, ..., EACH of them
// at a time: so many reads are under way at once, and neighbouring threads read neighbours. A row of
// no more than EACH numbers a thread is read from memory once, and stays in registers.

constexpr int EACH = 16;

struct Row {
    Index number, start, size;
    bool whole;  // EACH numbers a thread are all of it

    // Threads beyond the last row do that one once more, as all lanes of a warp must take part.
    __device__ Row(Index rows, Index size)
        : number(min((Index)(blockIdx.x * (Index)blockDim.y + threadIdx.y), rows - 1)),
          start(number * size), size(size), whole(size <= EACH * (Index)blockDim.x)
    {
    }

    __device__ Index step() const { return EACH * (Index)blockDim.x; }

    // Whether the thread's e-th number from k on is one of the row's.
    __device__ bool has(Index k, int e) const { return k + e * (Index)blockDim.x < size; }

    // v = the thread's numbers from k on; here: where the row begins.
    __device__ void fetch(float (&v)[EACH], const float* __restrict__ here, Index k,
                          float beyond) const
    {
        here += k;
#pragma unroll
        for (int e = 0; e < EACH; e++, here += blockDim.x) v[e] = has(k, e) ? *here : beyond;
    }

    __device__ void store(float* __restrict__ here, Index k, const float (&v)[EACH]) const
    {
        here += k;
#pragma unroll
        for (int e = 0; e < EACH; e++, here += blockDim.x)
            if (has(k, e)) *here = v[e];
    }
};

__device__ float join(float a, float b) { return a + b; }

__device__ float* shared_words()
{
    __shared__ float words[4 * 32];
    return words;
}

// join() of what `count` neighbouring lanes hold, a power of two.
template <class T>
__device__ T over_lanes(T own, int count)
{
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        if (apart >= count) continue;
        T other;
        for (int k = 0; k < sizeof(T) / sizeof(float); k++)
            ((float*)&other)[k] = __shfl_xor_sync(0xffffffffu, ((float*)&own)[k], apart);
        own = join(own, other);
    }
    return own;
}

// join() of what all threads of a row hold, a few floats each; in a fixed order. T{} adds nothing.
template <class T>
__device__ T over_row(T own)
{
    constexpr int WORDS = sizeof(T) / sizeof(float);
    static_assert(WORDS <= 4, "the room of shared_words");
    const int lanes = min((int)blockDim.x, 32), warps = blockDim.x / 32;
    own = over_lanes(own, lanes);
    if (warps <= 1) return own;
    float* words = shared_words();
    __syncthreads();  // they may still be read by those who were here before
    if (threadIdx.x % 32 == 0)
        for (int k = 0; k < WORDS; k++) words[k * 32 + threadIdx.x / 32] = ((float*)&own)[k];
    __syncthreads();
    const int lane = threadIdx.x % 32;
    own = T{};
    if (lane < warps)
        for (int k = 0; k < WORDS; k++) ((float*)&own)[k] = words[k * 32 + lane];
    return over_lanes(own, 32);
}
