// Convolution as a matrix product whose left matrix is never stored ("implicit GEMM").
//
// Each of the three contractions is C = A·B, for every group of channels:
//
//                 rows of A and C       columns of B and C    summed over
//   output        pixels of y           output channels       taps (k, l), input channels
//   input grad    pixels of x           input channels        taps (k, l), output channels
//   weight grad   taps, input channels  output channels       pixels of y
//
// A block makes a tile of C, 128 x 64. It walks over the sum 16 at a time: its threads fetch a
// 128 x 16 piece of A (from the image, at the places that the taps see) and a 16 x 64 piece of B
// into shared memory, then each adds to 8 x 4 sums in its registers, which uses every number that
// it reads from there 4 or 8 times. While they do, the next piece is on its way ("double
// buffering"). Neighbours in memory are fetched four at a time (ALIGNED), where the channels of a
// group are a multiple of 4.
//
// Nothing is added by two blocks: the input gradient gathers, and where the weight gradient splits
// its long sum over blocks, they write partial sums, which add_up adds in order.
//
// With the macro TENSOR_CORES a tile's products are left to those, in TF32: see `mma`.

constexpr int TILE_M = 128, TILE_N = 64, TILE_K = 16, THREADS = 256;

struct Geometry {
    int h, w, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups;
};

constexpr int ROW_M = TILE_M + 4, ROW_N = TILE_N + 4;  // columns of a tile in different banks

struct Tiles {
    float a[2][TILE_K][ROW_M];
    float b[2][TILE_K][ROW_N];
};

// A place in a sum over taps and channels.
struct Tap {
    int k, l, channel;

    __device__ void advance(int steps, int kw, int channels)
    {
        channel += steps;
        while (channel >= channels) {
            channel -= channels;
            if (++l == kw) {
                l = 0;
                k++;
            }
        }
    }
};

__device__ float4 zeros() { return make_float4(0, 0, 0, 0); }

// Where in the image a tap of an output pixel lies. FORWARD: at output pixel (i, j) of x; else at
// input pixel (i, j) of y, the window whose tap (k, l) falls there. False: outside, or between.
template <bool FORWARD>
__device__ bool place(const Geometry& geometry, int i, int j, int k, int l, int& row, int& column)
{
    const Geometry& q = geometry;
    if (FORWARD) {
        row = i * q.s0 - q.top + k * q.d0;
        column = j * q.s1 - q.left + l * q.d1;
        return row >= 0 && row < q.h && column >= 0 && column < q.w;
    }
    row = i + q.top - k * q.d0;
    column = j + q.left - l * q.d1;
    if (row < 0 || column < 0) return false;
    if (q.s0 > 1) {
        if (row % q.s0) return false;
        row /= q.s0;
    }
    if (q.s1 > 1) {
        if (column % q.s1) return false;
        column /= q.s1;
    }
    return row < q.oh && column < q.ow;
}

// A of the output (FORWARD, from x) and of the input gradient (from g). A thread fetches for two
// rows, 64 apart, four numbers along the sum.
template <bool FORWARD, bool ALIGNED>
struct Patches {
    Geometry q;
    const float* image[2];  // null: below the last row
    int i[2], j[2];
    Tap tap;
    int height, width, pitch, channels;  // of the image; pitch: numbers from pixel to pixel

    __device__ Patches(const Geometry& geometry, const float* images, Index rows, Index first_row,
                       int group)
        : q(geometry)
    {
        height = FORWARD ? q.h : q.oh;
        width = FORWARD ? q.w : q.ow;
        pitch = FORWARD ? q.c : q.o;
        channels = pitch / q.groups;
        const int high = FORWARD ? q.oh : q.h, wide = FORWARD ? q.ow : q.w;
        for (int r = 0; r < 2; r++) {
            const Index m = first_row + threadIdx.x / 4 + r * 64;
            const Index n = m / wide / high;
            image[r] = nullptr;
            if (m < rows) image[r] = images + n * height * width * pitch + group * channels;
            i[r] = m / wide % high;
            j[r] = m % wide;
        }
        tap = {0, 0, 0};
        tap.advance(threadIdx.x % 4 * 4, q.kw, channels);
    }

    __device__ float one(int r, const Tap& t) const
    {
        int row, column;
        if (t.k >= q.kh || !place<FORWARD>(q, i[r], j[r], t.k, t.l, row, column)) return 0;
        return __ldg(image[r] + ((Index)row * width + column) * pitch + t.channel);
    }

    __device__ float4 fetch(int r) const
    {
        if (!image[r]) return zeros();
        if (ALIGNED) {
            int row, column;
            if (tap.k >= q.kh || !place<FORWARD>(q, i[r], j[r], tap.k, tap.l, row, column))
                return zeros();
            const Index at = ((Index)row * width + column) * pitch + tap.channel;
            return __ldg(reinterpret_cast<const float4*>(image[r] + at));
        }
        float v[4];
        Tap t = tap;
        for (int e = 0; e < 4; e++) {
            v[e] = one(r, t);
            t.advance(1, q.kw, channels);
        }
        return make_float4(v[0], v[1], v[2], v[3]);
    }

    __device__ void advance() { tap.advance(TILE_K, q.kw, channels); }

    __device__ static void put(float (&tile)[TILE_K][ROW_M], int r, float4 v)
    {
        const int row = threadIdx.x / 4 + r * 64, k = threadIdx.x % 4 * 4;
        tile[k][row] = v.x;
        tile[k + 1][row] = v.y;
        tile[k + 2][row] = v.z;
        tile[k + 3][row] = v.w;
    }
};

// A of the weight gradient: rows are (tap, channel), the sum runs over pixels. A thread fetches
// for two pixels, 8 apart, four numbers along the rows.
template <bool ALIGNED>
struct Columns {
    Geometry q;
    const float* x;
    Tap taps[4];
    Index pixel[2], last, n[2];
    int i[2], j[2];

    __device__ Columns(const Geometry& geometry, const float* images, int first_row, Index first,
                       Index last, int group)
        : q(geometry), x(images + group * (q.c / q.groups)), last(last)
    {
        Tap t = {0, 0, 0};
        const int channels = q.c / q.groups, m = first_row + threadIdx.x % 32 * 4;
        t.channel = m % channels;
        t.l = m / channels % q.kw;
        t.k = m / channels / q.kw;
        for (int e = 0; e < 4; e++) {
            taps[e] = t;
            t.advance(1, q.kw, channels);
        }
        for (int r = 0; r < 2; r++) {
            pixel[r] = first + threadIdx.x / 32 + r * 8;
            j[r] = pixel[r] % q.ow;
            i[r] = pixel[r] / q.ow % q.oh;
            n[r] = pixel[r] / q.ow / q.oh;
        }
    }

    __device__ const float* at(int r, const Tap& t) const  // null: a zero
    {
        int row, column;
        if (t.k >= q.kh || !place<true>(q, i[r], j[r], t.k, t.l, row, column)) return nullptr;
        return x + ((n[r] * q.h + row) * q.w + column) * q.c + t.channel;
    }

    __device__ float4 fetch(int r) const
    {
        if (pixel[r] >= last) return zeros();
        if (ALIGNED) {
            const float* here = at(r, taps[0]);
            return here ? __ldg(reinterpret_cast<const float4*>(here)) : zeros();
        }
        float v[4];
        for (int e = 0; e < 4; e++) {
            const float* here = at(r, taps[e]);
            v[e] = here ? __ldg(here) : 0;
        }
        return make_float4(v[0], v[1], v[2], v[3]);
    }

    __device__ void advance()
    {
        for (int r = 0; r < 2; r++) {
            pixel[r] += TILE_K;
            j[r] += TILE_K;
            while (j[r] >= q.ow) {
                j[r] -= q.ow;
                if (++i[r] == q.oh) {
                    i[r] = 0;
                    n[r]++;
                }
            }
        }
    }

    __device__ static void put(float (&tile)[TILE_K][ROW_M], int r, float4 v)
    {
        float* four = &tile[threadIdx.x / 32 + r * 8][threadIdx.x % 32 * 4];
        *reinterpret_cast<float4*>(four) = v;
    }
};

// B of the output (w) and of the weight gradient (g): a matrix with rows along the sum. A thread
// fetches four numbers of one row.
template <bool ALIGNED>
struct Rows {
    const float* matrix;
    Index row, last;
    int pitch, left;  // left: how many of the four exist

    __device__ Rows(const float* matrix, Index first, Index last, int pitch, int group, int columns,
                    int first_column)
        : row(first + threadIdx.x / 16), last(last), pitch(pitch)
    {
        const int column = first_column + threadIdx.x % 16 * 4;
        this->matrix = matrix + group * columns + column;
        left = columns - column;
    }

    __device__ float4 fetch() const
    {
        if (row >= last || left <= 0) return zeros();
        const float* here = matrix + row * pitch;
        if (ALIGNED) return __ldg(reinterpret_cast<const float4*>(here));
        return make_float4(__ldg(here), left > 1 ? __ldg(here + 1) : 0,
                           left > 2 ? __ldg(here + 2) : 0, left > 3 ? __ldg(here + 3) : 0);
    }

    __device__ void advance() { row += TILE_K; }

    __device__ static void put(float (&tile)[TILE_K][ROW_N], float4 v)
    {
        *reinterpret_cast<float4*>(&tile[threadIdx.x / 16][threadIdx.x % 16 * 4]) = v;
    }
};

// B of the input gradient: w with its channels exchanged. A thread fetches for one column (an
// input channel) four numbers along the sum (output channels).
template <bool ALIGNED>
struct Exchanged {
    Geometry q;
    const float* w;  // null: right of the last column
    Tap tap;
    int channels;

    __device__ Exchanged(const Geometry& geometry, const float* weights, int group,
                         int first_column)
        : q(geometry), w(nullptr), channels(q.o / q.groups)
    {
        const int column = first_column + threadIdx.x / 4;
        if (column < q.c / q.groups) w = weights + (Index)column * q.o + group * channels;
        tap = {0, 0, 0};
        tap.advance(threadIdx.x % 4 * 4, q.kw, channels);
    }

    __device__ const float* at(const Tap& t) const
    {
        return w + (Index)(t.k * q.kw + t.l) * (q.c / q.groups) * q.o + t.channel;
    }

    __device__ float4 fetch() const
    {
        if (!w) return zeros();
        if (ALIGNED)
            return tap.k < q.kh ? __ldg(reinterpret_cast<const float4*>(at(tap))) : zeros();
        float v[4];
        Tap t = tap;
        for (int e = 0; e < 4; e++) {
            v[e] = t.k < q.kh ? __ldg(at(t)) : 0;
            t.advance(1, q.kw, channels);
        }
        return make_float4(v[0], v[1], v[2], v[3]);
    }

    __device__ void advance() { tap.advance(TILE_K, q.kw, channels); }

    __device__ static void put(float (&tile)[TILE_K][ROW_N], float4 v)
    {
        const int column = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
        tile[k][column] = v.x;
        tile[k + 1][column] = v.y;
        tile[k + 2][column] = v.z;
        tile[k + 3][column] = v.w;
    }
};

#ifndef TENSOR_CORES

// A thread has 8 x 4 sums: rows ty.. and 64 + ty.., columns tx.. of the tile.
__device__ void add_products(float (&sum)[8][4], const float (&a)[TILE_K][ROW_M],
                             const float (&b)[TILE_K][ROW_N])
{
    const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
#pragma unroll
    for (int k = 0; k < TILE_K; k++) {
        const float4 low = *reinterpret_cast<const float4*>(&a[k][ty]);
        const float4 high = *reinterpret_cast<const float4*>(&a[k][64 + ty]);
        const float4 right = *reinterpret_cast<const float4*>(&b[k][tx]);
        const float left[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        const float across[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
        for (int m = 0; m < 8; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) sum[m][n] += left[m] * across[n];
    }
}

template <bool ALIGNED>
__device__ void write(const float (&sum)[8][4], float* c, Index rows, int columns, Index pitch)
{
    const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
#pragma unroll
    for (int m = 0; m < 8; m++) {
        const int row = (m < 4 ? 0 : 60) + ty + m;
        if (row >= rows) continue;
        float* here = c + row * pitch + tx;
        if (ALIGNED) {
            if (tx < columns)
                *reinterpret_cast<float4*>(here) =
                    make_float4(sum[m][0], sum[m][1], sum[m][2], sum[m][3]);
        } else {
#pragma unroll
            for (int n = 0; n < 4; n++)
                if (tx + n < columns) here[n] = sum[m][n];
        }
    }
}

#else

// D (16 x 8) += A (16 x 8) · B (8 x 8) by a warp. Lane 4·r + s holds, of A, rows r and r + 8 of
// columns s and then s + 4; of B, rows s and s + 4 of column r; of D, rows r and then r + 8 of
// columns 2s and 2s + 1. Numbers are rounded to TF32, which keeps 10 bits of the 23 (PTX ISA,
// mma.m16n8k8). Without tensor cores (older GPUs, and the CPU) the same by shuffles, unrounded.
__device__ void mma(float (&d)[4], const float (&a)[4], const float (&b)[2])
{
#if __CUDA_ARCH__ >= 800
    unsigned left[4], right[2];
#pragma unroll
    for (int i = 0; i < 4; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(left[i]) : "f"(a[i]));
#pragma unroll
    for (int i = 0; i < 2; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(right[i]) : "f"(b[i]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]),
                   "r"(right[1]));
#else
    const int row = threadIdx.x % 32 / 4 * 4, column = threadIdx.x % 4 * 8;  // lanes that hold them
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const float a0 = __shfl_sync(0xffffffffu, a[k / 4 * 2], row + k % 4);
        const float a1 = __shfl_sync(0xffffffffu, a[k / 4 * 2 + 1], row + k % 4);
        const float b0 = __shfl_sync(0xffffffffu, b[k / 4], column + k % 4);
        const float b1 = __shfl_sync(0xffffffffu, b[k / 4], column + 4 + k % 4);
        d[0] += a0 * b0;
        d[1] += a0 * b1;
        d[2] += a1 * b0;
        d[3] += a1 * b1;
    }
#endif
}

// A warp has 32 x 32 of the tile: 2 x 4 products of 16 x 8. Where they begin:
__device__ int first_row() { return threadIdx.x / 32 % 4 * 32; }
__device__ int first_column() { return threadIdx.x / 128 * 32; }

__device__ void add_products(float (&sum)[8][4], const float (&a)[TILE_K][ROW_M],
                             const float (&b)[TILE_K][ROW_N])
{
    const int r = threadIdx.x % 32 / 4, s = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < TILE_K; k += 8) {
        float left[2][4], right[4][2];
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                left[m][i] = a[k + s + i / 2 * 4][first_row() + m * 16 + r + i % 2 * 8];
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) right[n][i] = b[k + s + i * 4][first_column() + n * 8 + r];
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) mma(sum[m * 4 + n], left[m], right[n]);
    }
}

template <bool ALIGNED>
__device__ void write(const float (&sum)[8][4], float* c, Index rows, int columns, Index pitch)
{
#pragma unroll
    for (int mn = 0; mn < 8; mn++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = first_row() + mn / 4 * 16 + threadIdx.x % 32 / 4 + i / 2 * 8;
            const int column = first_column() + mn % 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
            if (row < rows && column < columns) c[row * pitch + column] = sum[mn][i];
        }
}

#endif

// One tile of C = A·B over `length` terms of the sum, written to c (its first row and column).
// rows, columns: how many of the tile exist; pitch: numbers from row to row of c.
template <bool ALIGNED, class A, class B>
__device__ void multiply(A a, B b, Index length, float* c, Index rows, int columns, Index pitch)
{
    __shared__ Tiles tiles;
    float sum[8][4] = {};
    A::put(tiles.a[0], 0, a.fetch(0));
    A::put(tiles.a[0], 1, a.fetch(1));
    B::put(tiles.b[0], b.fetch());
    __syncthreads();
    int now = 0;
    for (Index done = 0; done < length; done += TILE_K) {
        const bool more = done + TILE_K < length;
        float4 next_a0, next_a1, next_b;
        if (more) {
            a.advance();
            b.advance();
            next_a0 = a.fetch(0);
            next_a1 = a.fetch(1);
            next_b = b.fetch();
        }
        add_products(sum, tiles.a[now], tiles.b[now]);
        now = 1 - now;  // nobody reads it any more: all have passed the barrier below
        if (more) {
            A::put(tiles.a[now], 0, next_a0);
            A::put(tiles.a[now], 1, next_a1);
            B::put(tiles.b[now], next_b);
        }
        __syncthreads();
    }
    write<ALIGNED>(sum, c, rows, columns, pitch);
}

// Grid: (tiles along the rows, tiles along the columns, groups).
template <bool ALIGNED>
__device__ void output(const float* x, const float* w, float* y, Index pixels, const Geometry& q)
{
    const Index first_row = (Index)blockIdx.x * TILE_M;
    const int first_column = blockIdx.y * TILE_N, group = blockIdx.z, outputs = q.o / q.groups;
    const int length = q.kh * q.kw * (q.c / q.groups);
    multiply<ALIGNED>(
        Patches<true, ALIGNED>(q, x, pixels, first_row, group),
        Rows<ALIGNED>(w, 0, length, q.o, group, outputs, first_column), length,
        y + first_row * q.o + group * outputs + first_column, pixels - first_row,
        outputs - first_column, q.o);
}

template <bool ALIGNED>
__device__ void input_grad(const float* g, const float* w, float* dx, Index pixels,
                           const Geometry& q)
{
    const Index first_row = (Index)blockIdx.x * TILE_M;
    const int first_column = blockIdx.y * TILE_N, group = blockIdx.z, channels = q.c / q.groups;
    multiply<ALIGNED>(
        Patches<false, ALIGNED>(q, g, pixels, first_row, group),
        Exchanged<ALIGNED>(q, w, group, first_column), q.kh * q.kw * (q.o / q.groups),
        dx + first_row * q.c + group * channels + first_column, pixels - first_row,
        channels - first_column, q.c);
}

// Grid: (tiles along the rows, along the columns, groups x parts of the sum of `chunk` pixels).
// dw: (parts, KH, KW, C/groups, O)
template <bool ALIGNED>
__device__ void weight_grad(const float* g, const float* x, float* dw, Index pixels, Index chunk,
                            const Geometry& q)
{
    const int first_row = blockIdx.x * TILE_M, first_column = blockIdx.y * TILE_N;
    const int group = blockIdx.z % q.groups, outputs = q.o / q.groups;
    const int rows = q.kh * q.kw * (q.c / q.groups);
    const Index part = blockIdx.z / q.groups, first = part * chunk;
    const Index last = first + chunk < pixels ? first + chunk : pixels;
    multiply<ALIGNED>(
        Columns<ALIGNED>(q, x, first_row, first, last, group),
        Rows<ALIGNED>(g, first, last, q.o, group, outputs, first_column), last - first,
        dw + (part * rows + first_row) * q.o + group * outputs + first_column, rows - first_row,
        outputs - first_column, q.o);
}

extern "C" __global__ void __launch_bounds__(256)
conv2d(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y,
       Index pixels, int h, int width, int c, int kh, int kw, int o, int oh, int ow, int s0, int s1,
       int d0, int d1, int top, int left, int groups)
{
    output<false>(x, w, y, pixels,
                  {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups});
}

extern "C" __global__ void __launch_bounds__(256)
conv2d_aligned(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y,
               Index pixels, int h, int width, int c, int kh, int kw, int o, int oh, int ow,
               int s0, int s1, int d0, int d1, int top, int left, int groups)
{
    output<true>(x, w, y, pixels,
                 {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups});
}

extern "C" __global__ void __launch_bounds__(256)
conv2d_input_grad(const float* __restrict__ g, const float* __restrict__ w, float* __restrict__ dx,
                  Index pixels, int h, int width, int c, int kh, int kw, int o, int oh, int ow,
                  int s0, int s1, int d0, int d1, int top, int left, int groups)
{
    input_grad<false>(g, w, dx, pixels,
                      {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups});
}

extern "C" __global__ void __launch_bounds__(256)
conv2d_input_grad_aligned(const float* __restrict__ g, const float* __restrict__ w,
                          float* __restrict__ dx, Index pixels, int h, int width, int c, int kh,
                          int kw, int o, int oh, int ow, int s0, int s1, int d0, int d1, int top,
                          int left, int groups)
{
    input_grad<true>(g, w, dx, pixels,
                     {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups});
}

extern "C" __global__ void __launch_bounds__(256)
conv2d_weight_grad(const float* __restrict__ g, const float* __restrict__ x,
                   float* __restrict__ dw, Index pixels, Index chunk, int h, int width, int c,
                   int kh, int kw, int o, int oh, int ow, int s0, int s1, int d0, int d1, int top,
                   int left, int groups)
{
    weight_grad<false>(g, x, dw, pixels, chunk,
                       {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups});
}

extern "C" __global__ void __launch_bounds__(256)
conv2d_weight_grad_aligned(const float* __restrict__ g, const float* __restrict__ x,
                           float* __restrict__ dw, Index pixels, Index chunk, int h, int width,
                           int c, int kh, int kw, int o, int oh, int ow, int s0, int s1, int d0,
                           int d1, int top, int left, int groups)
{
    weight_grad<true>(g, x, dw, pixels, chunk,
                      {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups});
}

// Groups of few channels (depthwise), whose tiles would be nearly empty: a thread for every number,
// neighbours in neighbouring channels.
extern "C" __global__ void conv2d_narrow(const float* __restrict__ x, const float* __restrict__ w,
                                         float* __restrict__ y, Index size, int h, int width,
                                         int c, int kh, int kw, int o, int oh, int ow, int s0,
                                         int s1, int d0, int d1, int top, int left, int groups)
{
    const Geometry q = {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups};
    const Index at = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (at >= size) return;
    const int inputs = c / groups, channel = at % o, first = channel / (o / groups) * inputs;
    const Index pixel = at / o, image = pixel / ow / oh * h;
    float sum = 0;
    for (int k = 0; k < kh; k++)
        for (int l = 0; l < kw; l++) {
            int row, column;
            if (!place<true>(q, pixel / ow % oh, pixel % ow, k, l, row, column)) continue;
            const float* here = x + ((image + row) * width + column) * c + first;
            const float* weight = w + (Index)(k * kw + l) * inputs * o + channel;
            for (int ch = 0; ch < inputs; ch++) sum += here[ch] * weight[(Index)ch * o];
        }
    y[at] = sum;
}

extern "C" __global__ void conv2d_narrow_input_grad(
    const float* __restrict__ g, const float* __restrict__ w, float* __restrict__ dx, Index size,
    int h, int width, int c, int kh, int kw, int o, int oh, int ow, int s0, int s1, int d0, int d1,
    int top, int left, int groups)
{
    const Geometry q = {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups};
    const Index at = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (at >= size) return;
    const int inputs = c / groups, outputs = o / groups, channel = at % c;
    const int first = channel / inputs * outputs;
    const Index pixel = at / c, image = pixel / width / h * oh;
    float sum = 0;
    for (int k = 0; k < kh; k++)
        for (int l = 0; l < kw; l++) {
            int i, j;
            if (!place<false>(q, pixel / width % h, pixel % width, k, l, i, j)) continue;
            const float* here = g + ((image + i) * ow + j) * o + first;
            const float* weight = w + ((Index)(k * kw + l) * inputs + channel % inputs) * o + first;
            for (int out = 0; out < outputs; out++) sum += here[out] * weight[out];
        }
    dx[at] = sum;
}

// Grid: (blocks of weights, parts of the sum of `chunk` pixels). dw: (parts, KH, KW, C/groups, O)
extern "C" __global__ void conv2d_narrow_weight_grad(
    const float* __restrict__ g, const float* __restrict__ x, float* __restrict__ dw, Index pixels,
    Index chunk, Index size, int h, int width, int c, int kh, int kw, int o, int oh, int ow, int s0,
    int s1, int d0, int d1, int top, int left, int groups)
{
    const Geometry q = {h, width, c, kh, kw, o, oh, ow, s0, s1, d0, d1, top, left, groups};
    const Index at = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (at >= size) return;
    const int inputs = c / groups, channel = at % o, tap = at / o / inputs;
    const int input = channel / (o / groups) * inputs + at / o % inputs;
    const Index first = blockIdx.y * chunk;
    const Index last = first + chunk < pixels ? first + chunk : pixels;
    float sum = 0;
    for (Index pixel = first; pixel < last; pixel++) {
        int row, column;
        if (!place<true>(q, pixel / ow % oh, pixel % ow, tap / kw, tap % kw, row, column)) continue;
        const Index image = pixel / ow / oh * h;
        sum += g[pixel * o + channel] * x[((image + row) * width + column) * c + input];
    }
    dw[blockIdx.y * size + at] = sum;
}

// total[i] = Σ parts[p, i], in the order of p.
extern "C" __global__ void add_up(const float* __restrict__ parts, float* __restrict__ total,
                                  int count, Index size)
{
    const Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (i >= size) return;
    float sum = 0;
    for (int p = 0; p < count; p++) sum += parts[p * size + i];
    total[i] = sum;
}

// columns[n, i, j, k, l, c] = x at the place that tap (k, l) of pixel (i, j) sees; a thread each.
extern "C" __global__ void im2col(const float* __restrict__ x, float* __restrict__ columns,
                                  Index size, int h, int width, int c, int kh, int kw, int oh,
                                  int ow, int s0, int s1, int d0, int d1, int top, int left)
{
    const Geometry q = {h, width, c, kh, kw, 0, oh, ow, s0, s1, d0, d1, top, left, 1};
    const Index at = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (at >= size) return;
    const Index tap = at / c, pixel = tap / kw / kh;
    int row, column;
    const bool inside = place<true>(q, pixel / ow % oh, pixel % ow, tap / kw % kh, tap % kw, row,
                                    column);
    const Index image = pixel / ow / oh * h;
    columns[at] = inside ? x[((image + row) * width + column) * c + at % c] : 0;
}

// x = the sum of all columns that im2col takes from there, in the order of the taps; a thread for
// every number of x.
extern "C" __global__ void col2im(const float* __restrict__ columns, float* __restrict__ x,
                                  Index size, int h, int width, int c, int kh, int kw, int oh,
                                  int ow, int s0, int s1, int d0, int d1, int top, int left)
{
    const Geometry q = {h, width, c, kh, kw, 0, oh, ow, s0, s1, d0, d1, top, left, 1};
    const Index at = blockIdx.x * (Index)blockDim.x + threadIdx.x;
    if (at >= size) return;
    const Index pixel = at / c, image = pixel / width / h * oh;
    float sum = 0;
    for (int k = 0; k < kh; k++)
        for (int l = 0; l < kw; l++) {
            int i, j;
            if (place<false>(q, pixel / width % h, pixel % width, k, l, i, j))
                sum += columns[((((image + i) * ow + j) * kh + k) * kw + l) * c + at % c];
        }
    x[at] = sum;
}
