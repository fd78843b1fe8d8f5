// Pooling, a thread for each output and WIDTH neighbouring channels: 4, where the channels are a
// multiple of 4, so that a thread reads 16 bytes at once and an index is found once for four numbers.
// Neighbouring threads take neighbouring channels, so that every access of a warp is one piece.
//
// Where windows do not overlap, a thread owns a window and writes the gradient of every pixel of it.
// Where they do, the gradients gather: each pixel asks the windows that hold it, in the order of the
// formula, so nothing is added by two threads and every run is equal.
//
// Rows of a block's threads are rows of the result, their columns its columns and channels, so that
// an index costs one division. x (N, H, W, C), y (N, OH, OW, C); `rows` is N·OH, or N·H; c is counted
// in Numbers.
//
// Counted in the code for sm_90, not measured, for 2x2 windows that touch and WIDTH 4: about 50
// instructions for an output of max_pool2d (21 bytes; an H200 has time for 129 while it moves those),
// 12 for a number of its gradient (5 bytes, 32), 60 and 17 for the means (20 and 5 bytes, 123 and 31);
// two reads of 16 bytes or a write are under way in each of 1280 to 2048 threads of a multiprocessor.
// Of 3x3 windows with stride 2 the gradient of the largest is about 42 of 32: the instructions are the
// limit there.

#ifndef WIDTH
#define WIDTH 1
#endif

struct alignas(4 * WIDTH) Numbers {
    float at[WIDTH];
};

struct alignas(WIDTH) Winners {
    unsigned char at[WIDTH];
};

struct Span {
    int first, last;  // the last is not in it
    int start;        // where the window begins, in the padding perhaps
};

// The pixels under window i along one axis, without the padding.
__device__ Span pixels(int i, int stride, int before, int size, int length)
{
    const int start = i * stride - before;
    return {max(start, 0), min(start + size, length), start};
}

// The windows that hold pixel a, along one axis.
__device__ Span windows(int a, int stride, int before, int size, int outputs)
{
    const int end = (a + before) / stride + 1, start = a + before - size + 1;
    return {start <= 0 ? 0 : (start + stride - 1) / stride, min(end, outputs), 0};
}

// The largest of a window's pixels, and its number, counted row by row in the whole window: the first
// of equals, or the first NaN.
struct Largest {
    Numbers value;
    int number[WIDTH];
};

__device__ Largest largest(const Numbers* __restrict__ image, Span rows, Span columns, int kw, int w,
                           int c)
{
    Largest best;
    for (int k = 0; k < WIDTH; k++) {
        best.value.at[k] = __int_as_float(0xff800000);  // -inf
        best.number[k] = (rows.first - rows.start) * kw + columns.first - columns.start;
    }
    for (int a = rows.first; a < rows.last; a++) {
        const Numbers* pixel = image + ((Index)a * w + columns.first) * c;
#pragma unroll 2
        for (int b = columns.first; b < columns.last; b++, pixel += c) {
            const Numbers x = *pixel;
            for (int k = 0; k < WIDTH; k++) {
                const float so_far = best.value.at[k];
                if (so_far == so_far && !(x.at[k] <= so_far)) {
                    best.value.at[k] = x.at[k];
                    best.number[k] = (a - rows.start) * kw + b - columns.start;
                }
            }
        }
    }
    return best;
}

// winners: written if `keep`.
extern "C" __global__ void max_pool2d(const float* __restrict__ x, float* __restrict__ y,
                                      unsigned char* __restrict__ winners, bool keep, Index rows,
                                      int h, int w, int c, int oh, int ow, int kh, int kw, int s0,
                                      int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c;
    const Span b = pixels(j, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span a = pixels(row % oh, s0, top, kh, h);
        const Numbers* image = (const Numbers*)x + row / oh * h * w * c + column % c;
        const Largest best = largest(image, a, b, kw, w, c);
        ((Numbers*)y)[row * ow * c + column] = best.value;
        if (keep) {
            Winners found;
            for (int k = 0; k < WIDTH; k++) found.at[k] = best.number[k];
            ((Winners*)winners)[row * ow * c + column] = found;
        }
    }
}

extern "C" __global__ void max_pool2d_pick(const float* __restrict__ u,
                                           const unsigned char* __restrict__ winners,
                                           float* __restrict__ y, Index rows, int h, int w, int c,
                                           int oh, int ow, int kh, int kw, int s0, int s1, int top,
                                           int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const Span b = pixels(column / c, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span a = pixels(row % oh, s0, top, kh, h);
        const Numbers* image = (const Numbers*)u + row / oh * h * w * c + column % c;
        const Winners winner = ((const Winners*)winners)[row * ow * c + column];
        Numbers picked = {};
        for (int k = 0; k < WIDTH; k++) {
            const int p = a.start + winner.at[k] / kw, q = b.start + winner.at[k] % kw;
            if (p >= a.first && p < a.last && q >= b.first && q < b.last)
                picked.at[k] = image[((Index)p * w + q) * c].at[k];
        }
        ((Numbers*)y)[row * ow * c + column] = picked;
    }
}

// Where windows do not overlap: thread (i, j) writes the pixels from its window's first one up to the
// next window's, of which those behind the last window have none. `rows` is N·`down`; down x across
// are the windows and such ends.
extern "C" __global__ void max_pool2d_grad_apart(
    const float* __restrict__ g, const unsigned char* __restrict__ winners, float* __restrict__ dx,
    Index rows, int h, int w, int c, int oh, int ow, int kh, int kw, int s0, int s1, int top,
    int left, int down, int across)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= across * c) return;
    const int j = column / c, channel = column % c;
    const Span b = pixels(j, s1, left, s1, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const int i = row % down;
        const Index n = row / down;
        const Span a = pixels(i, s0, top, s0, h);
        Numbers outer = {};
        Winners winner = {};
        if (i < oh && j < ow) {
            const Index at = ((n * oh + i) * ow + j) * c + channel;
            outer = ((const Numbers*)g)[at];
            winner = ((const Winners*)winners)[at];
        }
        for (int p = a.first; p < a.last; p++)
            for (int q = b.first; q < b.last; q++) {
                const bool inside = p - a.start < kh && q - b.start < kw;
                const int number = inside ? (p - a.start) * kw + q - b.start : -1;
                Numbers own;
                for (int k = 0; k < WIDTH; k++)
                    own.at[k] = winner.at[k] == number ? outer.at[k] : 0;
                ((Numbers*)dx)[((n * h + p) * w + q) * c + channel] = own;
            }
    }
}

// Where they do: each pixel asks its windows whether it is their winner.
extern "C" __global__ void max_pool2d_grad(const float* __restrict__ g,
                                           const unsigned char* __restrict__ winners,
                                           float* __restrict__ dx, Index rows, int h, int w, int c,
                                           int oh, int ow, int kh, int kw, int s0, int s1, int top,
                                           int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= w * c) return;
    const int b = column / c, channel = column % c;
    const Span js = windows(b, s1, left, kw, ow);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const int a = row % h;
        const Index n = row / h;
        const Span is = windows(a, s0, top, kh, oh);
        Numbers sum = {};
        for (int i = is.first; i < is.last; i++)
            for (int j = js.first; j < js.last; j++) {
                const Index at = ((n * oh + i) * ow + j) * c + channel;
                const Winners winner = ((const Winners*)winners)[at];
                const Numbers outer = ((const Numbers*)g)[at];
                const int number = (a + top - i * s0) * kw + b + left - j * s1;
                for (int k = 0; k < WIDTH; k++)
                    if (winner.at[k] == number) sum.at[k] += outer.at[k];
            }
        ((Numbers*)dx)[row * w * c + column] = sum;
    }
}

extern "C" __global__ void avg_pool2d(const float* __restrict__ x, float* __restrict__ y,
                                      Index rows, int h, int w, int c, int oh, int ow, int kh,
                                      int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c;
    const Span columns = pixels(j, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span span = pixels(row % oh, s0, top, kh, h);
        const Numbers* image = (const Numbers*)x + row / oh * h * w * c + column % c;
        Numbers sum = {};
        for (int a = span.first; a < span.last; a++) {
            const Numbers* pixel = image + ((Index)a * w + columns.first) * c;
#pragma unroll 2
            for (int b = columns.first; b < columns.last; b++, pixel += c) {
                const Numbers x = *pixel;
                for (int k = 0; k < WIDTH; k++) sum.at[k] += x.at[k];
            }
        }
        const int count = (span.last - span.first) * (columns.last - columns.first);
        for (int k = 0; k < WIDTH; k++) sum.at[k] /= count;
        ((Numbers*)y)[row * ow * c + column] = sum;
    }
}

extern "C" __global__ void avg_pool2d_grad_apart(const float* __restrict__ g,
                                                 float* __restrict__ dx, Index rows, int h, int w,
                                                 int c, int oh, int ow, int kh, int kw, int s0,
                                                 int s1, int top, int left, int down, int across)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= across * c) return;
    const int j = column / c, channel = column % c;
    const Span b = pixels(j, s1, left, kw, w), to_b = pixels(j, s1, left, s1, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const int i = row % down;
        const Index n = row / down;
        const Span a = pixels(i, s0, top, kh, h), to_a = pixels(i, s0, top, s0, h);
        Numbers share = {};
        if (i < oh && j < ow) {
            const int count = (a.last - a.first) * (b.last - b.first);
            share = ((const Numbers*)g)[((n * oh + i) * ow + j) * c + channel];
            for (int k = 0; k < WIDTH; k++) share.at[k] /= count;
        }
        for (int p = to_a.first; p < to_a.last; p++)
            for (int q = to_b.first; q < to_b.last; q++)
                ((Numbers*)dx)[((n * h + p) * w + q) * c + channel] =
                    p < a.last && q < b.last ? share : Numbers{};
    }
}

extern "C" __global__ void avg_pool2d_grad(const float* __restrict__ g, float* __restrict__ dx,
                                           Index rows, int h, int w, int c, int oh, int ow, int kh,
                                           int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= w * c) return;
    const int b = column / c, channel = column % c;
    const Span js = windows(b, s1, left, kw, ow);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span is = windows(row % h, s0, top, kh, oh);
        const Index image = row / h * oh;
        Numbers sum = {};
        for (int i = is.first; i < is.last; i++)
            for (int j = js.first; j < js.last; j++) {
                const Span p = pixels(i, s0, top, kh, h), q = pixels(j, s1, left, kw, w);
                const float share = 1.0f / ((p.last - p.first) * (q.last - q.first));
                const Numbers outer = ((const Numbers*)g)[((image + i) * ow + j) * c + channel];
                for (int k = 0; k < WIDTH; k++) sum.at[k] += outer.at[k] * share;
            }
        ((Numbers*)dx)[row * w * c + column] = sum;
    }
}
