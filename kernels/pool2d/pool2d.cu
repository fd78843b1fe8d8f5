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
// Counted in the code for sm_90, not measured, for 2x2 windows that touch and WIDTH 4: about 59
// instructions for an output of max_pool2d (20 bytes; an H200 has time for 123 while it moves those),
// 21 for a number of its gradient (9 bytes, 55), 60 and 17 for the means (20 and 5 bytes, 123 and 31);
// two reads of 16 bytes or a write are under way in each of 1280 to 2048 threads of a multiprocessor.
// Of 3x3 windows with stride 2 the gradient of the largest is about 74 of 55: the instructions are the
// limit there.

#ifndef WIDTH
#define WIDTH 1
#endif

struct alignas(4 * WIDTH) Numbers {
    float at[WIDTH];
};

struct alignas(2 * WIDTH) Places {
    unsigned short at[WIDTH];
};

struct Span {
    int first, last;  // the last is not in it
};

// The pixels under window i along one axis, without the padding.
__device__ Span pixels(int i, int stride, int before, int size, int length)
{
    const int start = i * stride - before;
    return {max(start, 0), min(start + size, length)};
}

// The windows that hold pixel a, along one axis.
__device__ Span windows(int a, int stride, int before, int size, int outputs)
{
    const int end = (a + before) / stride + 1, start = a + before - size + 1;
    return {start <= 0 ? 0 : (start + stride - 1) / stride, min(end, outputs)};
}

// The largest of a window's pixels, and where it lies: the first of equals, or the first NaN. Places
// count from the window's first pixel on, in rows of w.
struct Largest {
    Numbers value;
    int place[WIDTH];
};

__device__ Largest largest(const Numbers* __restrict__ image, Span rows, Span columns, int w, int c)
{
    Largest best;
    for (int k = 0; k < WIDTH; k++) {
        best.value.at[k] = __int_as_float(0xff800000);  // -inf
        best.place[k] = 0;
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
                    best.place[k] = (a - rows.first) * w + b - columns.first;
                }
            }
        }
    }
    return best;
}

extern "C" __global__ void max_pool2d(const float* __restrict__ x, float* __restrict__ y,
                                      Index rows, int h, int w, int c, int oh, int ow, int kh,
                                      int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c;
    const Span b = pixels(j, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span a = pixels(row % oh, s0, top, kh, h);
        const Numbers* image = (const Numbers*)x + row / oh * h * w * c + column % c;
        ((Numbers*)y)[row * ow * c + column] = largest(image, a, b, w, c).value;
    }
}

extern "C" __global__ void max_pool2d_pick(const float* __restrict__ u,
                                           const float* __restrict__ x, float* __restrict__ y,
                                           Index rows, int h, int w, int c, int oh, int ow, int kh,
                                           int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c;
    const Span b = pixels(j, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span a = pixels(row % oh, s0, top, kh, h);
        const Index image = row / oh * h * w * c + column % c;
        const Largest best = largest((const Numbers*)x + image, a, b, w, c);
        const Numbers* first = (const Numbers*)u + image + ((Index)a.first * w + b.first) * c;
        Numbers picked;
        for (int k = 0; k < WIDTH; k++) picked.at[k] = first[(Index)best.place[k] * c].at[k];
        ((Numbers*)y)[row * ow * c + column] = picked;
    }
}

// Where windows do not overlap: thread (i, j) writes the pixels from its window's first one up to the
// next window's, of which those behind the last window have none. `rows` is N·`down`; down x across
// are the windows and such ends.
extern "C" __global__ void max_pool2d_grad_apart(
    const float* __restrict__ g, const float* __restrict__ x, float* __restrict__ dx, Index rows,
    int h, int w, int c, int oh, int ow, int kh, int kw, int s0, int s1, int top, int left, int down,
    int across)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= across * c) return;
    const int j = column / c, channel = column % c;
    const Span b = pixels(j, s1, left, kw, w), to_b = pixels(j, s1, left, s1, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const int i = row % down;
        const Index n = row / down, image = n * h * w * c + channel;
        const Span a = pixels(i, s0, top, kh, h), to_a = pixels(i, s0, top, s0, h);
        Numbers outer = {};
        Largest best = {};
        if (i < oh && j < ow) {
            outer = ((const Numbers*)g)[((n * oh + i) * ow + j) * c + channel];
            best = largest((const Numbers*)x + image, a, b, w, c);
        }
        for (int p = to_a.first; p < to_a.last; p++)
            for (int q = to_b.first; q < to_b.last; q++) {
                const int place = (p - a.first) * w + q - b.first;
                Numbers own;
                for (int k = 0; k < WIDTH; k++)
                    own.at[k] = best.place[k] == place ? outer.at[k] : 0;
                ((Numbers*)dx)[image + ((Index)p * w + q) * c] = own;
            }
    }
}

// Where they do: where each window's largest lies, ...
extern "C" __global__ void max_pool2d_places(const float* __restrict__ x,
                                             unsigned short* __restrict__ places, Index rows, int h,
                                             int w, int c, int oh, int ow, int kh, int kw, int s0,
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
        const Largest best = largest(image, a, b, w, c);
        Places found;
        for (int k = 0; k < WIDTH; k++) found.at[k] = best.place[k];
        ((Places*)places)[row * ow * c + column] = found;
    }
}

// ... and then each pixel asks its windows whether it is that.
extern "C" __global__ void max_pool2d_grad(const float* __restrict__ g,
                                           const unsigned short* __restrict__ places,
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
                const Places winner = ((const Places*)places)[at];
                const Numbers outer = ((const Numbers*)g)[at];
                const int place = (a - max(i * s0 - top, 0)) * w + b - max(j * s1 - left, 0);
                for (int k = 0; k < WIDTH; k++)
                    if (winner.at[k] == place) sum.at[k] += outer.at[k];
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
