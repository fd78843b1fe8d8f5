// Pooling, one thread an output: neighbouring threads take neighbouring channels, so that every
// access of a warp is one piece of memory. The gradients gather: each pixel asks the windows that
// hold it, in the order of the formula, so nothing is added by two threads and every run is equal.
//
// Rows of a block's threads are rows of the result, their columns its columns and channels, so
// that an index costs one division. x (N, H, W, C), y (N, OH, OW, C); `rows` is N·OH, or N·H.

struct Span {
    int first, last;  // the last is not in it
};

// The pixels under window i along one axis, without the padding.
__device__ Span pixels(int i, int stride, int before, int size, int length)
{
    const int start = i * stride - before;
    return {start < 0 ? 0 : start, start + size < length ? start + size : length};
}

// The windows that hold pixel a, along one axis.
__device__ Span windows(int a, int stride, int before, int size, int outputs)
{
    const int end = (a + before) / stride + 1, start = a + before - size + 1;
    return {start <= 0 ? 0 : (start + stride - 1) / stride, end < outputs ? end : outputs};
}

// Where the largest of a window's pixels lies: the first of equals, or the first NaN.
__device__ Index winner(const float* x, Index image, Span rows, Span columns, int w, int c)
{
    Index at = (image + (Index)rows.first * w + columns.first) * c;
    float best = x[at];
    for (int a = rows.first; a < rows.last; a++)
        for (int b = columns.first; b < columns.last; b++) {
            const Index here = (image + (Index)a * w + b) * c;
            const float pixel = x[here];
            if (best == best && !(pixel <= best)) {
                best = pixel;
                at = here;
            }
        }
    return at;
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
        const int i = row % oh;
        const Index image = row / oh * h * w;
        const float* channel = x + column % c;
        y[row * ow * c + column] =
            channel[winner(channel, image, pixels(i, s0, top, kh, h), b, w, c)];
    }
}

extern "C" __global__ void max_pool2d_pick(const float* __restrict__ u,
                                           const float* __restrict__ x, float* __restrict__ y,
                                           Index rows, int h, int w, int c, int oh, int ow, int kh,
                                           int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c, channel = column % c;
    const Span b = pixels(j, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span a = pixels(row % oh, s0, top, kh, h);
        y[row * ow * c + column] =
            u[channel + winner(x + channel, row / oh * h * w, a, b, w, c)];
    }
}

extern "C" __global__ void max_pool2d_grad(const float* __restrict__ g,
                                           const float* __restrict__ x, float* __restrict__ dx,
                                           Index rows, int h, int w, int c, int oh, int ow, int kh,
                                           int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= w * c) return;
    const int b = column / c, channel = column % c;
    const Span js = windows(b, s1, left, kw, ow);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const int a = row % h;
        const Index n = row / h, own = (row * w + b) * c;
        const Span is = windows(a, s0, top, kh, oh);
        float sum = 0;
        for (int i = is.first; i < is.last; i++)
            for (int j = js.first; j < js.last; j++) {
                const Span p = pixels(i, s0, top, kh, h), q = pixels(j, s1, left, kw, w);
                if (winner(x + channel, n * h * w, p, q, w, c) == own)
                    sum += g[((n * oh + i) * ow + j) * c + channel];
            }
        dx[own + channel] = sum;
    }
}

extern "C" __global__ void avg_pool2d(const float* __restrict__ x, float* __restrict__ y,
                                      Index rows, int h, int w, int c, int oh, int ow, int kh,
                                      int kw, int s0, int s1, int top, int left)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c, channel = column % c;
    const Span columns = pixels(j, s1, left, kw, w);
    for (Index row = blockIdx.y * blockDim.y + threadIdx.y; row < rows;
         row += gridDim.y * blockDim.y) {
        const Span span = pixels(row % oh, s0, top, kh, h);
        const Index image = row / oh * h * w;
        float sum = 0;
        for (int a = span.first; a < span.last; a++)
            for (int b = columns.first; b < columns.last; b++)
                sum += x[(image + (Index)a * w + b) * c + channel];
        const int count = (span.last - span.first) * (columns.last - columns.first);
        y[row * ow * c + column] = sum / count;
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
        float sum = 0;
        for (int i = is.first; i < is.last; i++)
            for (int j = js.first; j < js.last; j++) {
                const Span p = pixels(i, s0, top, kh, h), q = pixels(j, s1, left, kw, w);
                const int count = (p.last - p.first) * (q.last - q.first);
                sum += g[((image + i) * ow + j) * c + channel] / count;
            }
        dx[row * w * c + column] = sum;
    }
}
