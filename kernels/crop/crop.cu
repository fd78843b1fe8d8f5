// Bilinear crop and its gradients. Weights follow kernels/crop/__init__.py: row i of a crop OH high
// looks at v = y + (i + 1/2)·h/OH - 1/2 and mixes rows floor(v) and floor(v) + 1 of the image.
// x (N, H, W, C), or one image for all boxes; boxes (N, 4) = x, y, w, h; crops (N, OH, OW, C).

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

template <class T>
__device__ void crop_number(const T* __restrict__ x, const float* __restrict__ boxes,
                            float* __restrict__ y, Index size, bool shared, int h, int w, int c,
                            int oh, int ow)
{
    const Index stride = gridDim.x * (Index)blockDim.x;
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < size; i += stride) {
        const int channel = i % c, column = i / c % ow, row = i / c / ow % oh;
        const Index n = i / c / ow / oh;
        const float* box = boxes + 4 * n;
        const Sample v = sample(box[1], box[3], row, oh, h), u = sample(box[0], box[2], column, ow, w);
        float sum = 0;
        for (int a = 0; a < 2; a++) {
            const int from_row = v.left + a;
            if (from_row < 0 || from_row >= h) continue;
            const T* line = x + ((shared ? 0 : n * h) + from_row) * w * c + channel;
            float across = 0;
            if (u.left >= 0 && u.left < w) across += (1 - u.past) * line[(Index)u.left * c];
            if (u.left >= -1 && u.left + 1 < w) across += u.past * line[(Index)(u.left + 1) * c];
            sum += (a ? v.past : 1 - v.past) * across;
        }
        y[i] = sum;
    }
}

extern "C" __global__ void crop(const float* __restrict__ x, const float* __restrict__ boxes,
                                float* __restrict__ y, Index size, bool shared, int h, int w,
                                int c, int oh, int ow)
{
    crop_number(x, boxes, y, size, shared, h, w, c, oh, ow);
}

extern "C" __global__ void crop_bytes(const unsigned char* __restrict__ x,
                                      const float* __restrict__ boxes, float* __restrict__ y,
                                      Index size, bool shared, int h, int w, int c, int oh, int ow)
{
    crop_number(x, boxes, y, size, shared, h, w, c, oh, ow);
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

// A thread owns a number of the image and gathers from every box, in their order: no atomics.
extern "C" __global__ void crop_image_grad(const float* __restrict__ g,
                                           const float* __restrict__ boxes,
                                           float* __restrict__ dx, Index size, bool shared,
                                           Index count, int h, int w, int c, int oh, int ow)
{
    const Index stride = gridDim.x * (Index)blockDim.x;
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < size; i += stride) {
        const int channel = i % c, column = i / c % w, row = i / c / w % h;
        const Index image = i / c / w / h;
        const Index first = shared ? 0 : image, last = shared ? count : image + 1;
        float sum = 0;
        for (Index n = first; n < last; n++) {
            const float* box = boxes + 4 * n;
            const Range rows = looking_at(row, box[1], box[3], oh);
            const Range columns = looking_at(column, box[0], box[2], ow);
            for (int a = rows.first; a < rows.last; a++) {
                const float near = weight(sample(box[1], box[3], a, oh, h), row);
                if (near == 0) continue;
                float across = 0;
                for (int b = columns.first; b < columns.last; b++)
                    across += weight(sample(box[0], box[2], b, ow, w), column) *
                              g[((n * oh + a) * ow + b) * c + channel];
                sum += near * across;
            }
        }
        dx[i] = sum;
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
