// Bilinear crop and its gradients. Weights follow kernels/crop/__init__.py: row i of a crop OH high
// looks at v = y + (i + 1/2)·h/OH - 1/2 and mixes rows floor(v) and floor(v) + 1 of the image.
// x (N, H, W, C), or one image for all boxes; boxes (N, 4) = x, y, w, h; crops (N, OH, OW, C).
//
// A thread makes WIDTH neighbouring channels of a pixel: 4, where the channels are a multiple of 4, 3
// of a colour image, else 1. So what costs most, to find the samples, is done once for all of them.
// c is counted in such Numbers.
//
// Counted in the code for sm_90, not measured: a number of a crop of floats is 39 instructions
// where channels are 3, 27 where they come by fours, and 83 else, once for all rows of a thread 30
// more; an H200 has time for 49 while it moves 8 bytes. Of bytes it is 51, 45 and 91, and 31 for the 5
// that move: the instructions are the limit there. All four pixels are read at once.

#ifndef WIDTH
#define WIDTH 1
#endif

template <class T>
struct alignas(WIDTH == 4 ? 4 * sizeof(T) : sizeof(T)) Numbers {
    T at[WIDTH];
};

// Where output i of `outputs` looks, clipped to just outside of the image (a box may be huge).
__device__ float centre(float first, float extent, int i, int outputs, int length)
{
    const float at = first + extent * ((i + 0.5f) / outputs) - 0.5f;
    return fminf(fmaxf(at, -2.0f), length + 1.0f);
}

// The pixel before the sample, and how near the sample is to the pixel after it, from 0 to 1.
struct Sample {
    int left;
    float past;
};

__device__ Sample sample(float first, float extent, int i, int outputs, int length)
{
    const float at = centre(first, extent, i, outputs, length), left = floorf(at);
    return {(int)left, at - left};
}

__device__ float number(float x) { return x; }

// A byte as the last bits of 2^23: a conversion takes four times as long.
__device__ float number(unsigned char x) { return __int_as_float(0x4b000000 | x) - 8388608.0f; }

// A thread keeps its box and its column, blockIdx.z and x, and goes through rows of the crop.
template <class T>
__device__ void crop_column(const Numbers<T>* __restrict__ x, const float* __restrict__ boxes,
                            Numbers<float>* __restrict__ y, Index count, bool shared, int h, int w,
                            int c, int oh, int ow)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= ow * c) return;
    const int j = column / c, channel = column % c;
    for (Index n = blockIdx.z; n < count; n += gridDim.z) {
        const float* box = boxes + 4 * n;
        const float top = box[1], height = box[3];
        const Sample u = sample(box[0], box[2], j, ow, w);
        const bool left = u.left >= 0 && u.left < w, right = u.left >= -1 && u.left + 1 < w;
        const Numbers<T>* image = x + (shared ? 0 : n * h) * w * c + (Index)u.left * c + channel;
        for (int i = blockIdx.y * blockDim.y + threadIdx.y; i < oh; i += gridDim.y * blockDim.y) {
            const Sample v = sample(top, height, i, oh, h);
            Numbers<float> sum = {};
#pragma unroll
            for (int a = 0; a < 2; a++) {
                const int row = v.left + a;
                const bool inside = row >= 0 && row < h;
                Numbers<T> before = {}, after = {};
                if (inside && left) before = image[(Index)row * w * c];
                if (inside && right) after = image[((Index)row * w + 1) * c];
                for (int k = 0; k < WIDTH; k++)
                    sum.at[k] += (a ? v.past : 1 - v.past) *
                                 ((1 - u.past) * number(before.at[k]) + u.past * number(after.at[k]));
            }
            y[(n * oh + i) * ow * c + column] = sum;
        }
    }
}

extern "C" __global__ void crop(const float* __restrict__ x, const float* __restrict__ boxes,
                                float* __restrict__ y, Index count, bool shared, int h, int w,
                                int c, int oh, int ow)
{
    crop_column((const Numbers<float>*)x, boxes, (Numbers<float>*)y, count, shared, h, w, c, oh, ow);
}

extern "C" __global__ void crop_bytes(const unsigned char* __restrict__ x,
                                      const float* __restrict__ boxes, float* __restrict__ y,
                                      Index count, bool shared, int h, int w, int c, int oh, int ow)
{
    crop_column((const Numbers<unsigned char>*)x, boxes, (Numbers<float>*)y, count, shared, h, w, c,
                oh, ow);
}

struct Range {
    int first, last;  // the last is not in it
};

// The outputs that may look at a pixel: those whose centre lies within 1 of it, and one to spare.
__device__ Range looking_at(float pixel, float first, float extent, int outputs)
{
    const float scale = outputs / extent, most = outputs + 1.0f;
    const float low = (pixel - 0.5f - first) * scale - 1.5f;
    const float high = (pixel + 1.5f - first) * scale + 1.5f;
    const int from = (int)fminf(fmaxf(low, 0.0f), most);
    return {from, min((int)fminf(fmaxf(high, 0.0f), most) + 1, outputs)};
}

// With how much weight a sample counts the pixel: 0 where it does not look at it.
__device__ float weight(Sample at, int pixel)
{
    return at.left == pixel ? 1 - at.past : at.left + 1 == pixel ? at.past : 0;
}

// A thread owns numbers of the image and gathers from every box, in their order: no atomics. `rows`
// is N·H.
extern "C" __global__ void crop_image_grad(const float* __restrict__ g,
                                           const float* __restrict__ boxes,
                                           float* __restrict__ dx, Index rows, bool shared,
                                           Index count, int h, int w, int c, int oh, int ow)
{
    const int across = blockIdx.x * blockDim.x + threadIdx.x;
    if (across >= w * c) return;
    const int column = across / c, channel = across % c;
    for (Index line = blockIdx.y * blockDim.y + threadIdx.y; line < rows;
         line += gridDim.y * blockDim.y) {
        const int row = line % h;
        const Index image = line / h;
        const Index first = shared ? 0 : image, last = shared ? count : image + 1;
        Numbers<float> sum = {};
        for (Index n = first; n < last; n++) {
            const float* box = boxes + 4 * n;
            const Range rows = looking_at(row, box[1], box[3], oh);
            if (rows.first >= rows.last) continue;
            const Range columns = looking_at(column, box[0], box[2], ow);
            if (columns.first >= columns.last) continue;
            for (int a = rows.first; a < rows.last; a++) {
                const float near = weight(sample(box[1], box[3], a, oh, h), row);
                if (near == 0) continue;
                Numbers<float> part = {};
                for (int b = columns.first; b < columns.last; b++) {
                    const float share = weight(sample(box[0], box[2], b, ow, w), column);
                    const Numbers<float> outer =
                        ((const Numbers<float>*)g)[((n * oh + a) * ow + b) * c + channel];
                    for (int k = 0; k < WIDTH; k++) part.at[k] += share * outer.at[k];
                }
                for (int k = 0; k < WIDTH; k++) sum.at[k] += near * part.at[k];
            }
        }
        ((Numbers<float>*)dx)[line * w * c + across] = sum;
    }
}

constexpr int THREADS = 256;

// One block a box: threads share its samples, then their sums meet in a fixed order.
extern "C" __global__ void crop_box_grad(const float* __restrict__ g, const float* __restrict__ x,
                                         const float* __restrict__ boxes,
                                         float* __restrict__ d_boxes, bool shared, int h, int w,
                                         int c, int oh, int ow)
{
    __shared__ float part[4][THREADS];
    const Index n = blockIdx.x;
    const float* box = boxes + 4 * n;
    const float* image = x + (shared ? 0 : n * h * w * c);
    float sums[4] = {0, 0, 0, 0};
    for (int i = threadIdx.x; i < oh * ow; i += THREADS) {
        const int row = i / ow, column = i % ow;
        const Sample v = sample(box[1], box[3], row, oh, h), u = sample(box[0], box[2], column, ow, w);
        const float* here = g + (n * oh * ow + i) * c;
        float dv = 0, du = 0;  // the slopes of Σ g·crop along v and u
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                const int from_row = v.left + a, from = u.left + b;
                if (from_row < 0 || from_row >= h || from < 0 || from >= w) continue;
                const float* pixel = image + ((Index)from_row * w + from) * c;
                float product = 0;
                for (int k = 0; k < c; k++) product += here[k] * pixel[k];
                dv += (a ? product : -product) * (b ? u.past : 1 - u.past);
                du += (b ? product : -product) * (a ? v.past : 1 - v.past);
            }
        sums[0] += du;
        sums[1] += dv;
        sums[2] += du * ((column + 0.5f) / ow);
        sums[3] += dv * ((row + 0.5f) / oh);
    }
    for (int k = 0; k < 4; k++) part[k][threadIdx.x] = sums[k];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int k = 0; k < 4; k++) part[k][threadIdx.x] += part[k][threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        for (int k = 0; k < 4; k++) d_boxes[4 * n + k] = part[k][0];
}
