// CUDA C, as far as the kernels here use it, for a C++ compiler: runs a kernel on the CPU.
//
// The threads of a block are fibres: each runs until it reaches a barrier, then the next one runs.
// Once all of them wait, they go on; blocks run one after another. Nothing runs at the same time,
// so a run repeats to the bit, and a race shows as a result that depends on the order of the
// threads, which the caller chooses. What goes wrong (undefined behaviour, an access to memory
// outside the arrays, threads that wait at different barriers) ends the launch with a message that
// names the line, the block and the thread.
//
// The kernel's source follows this header inside an unnamed namespace.
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
#define __launch_bounds__(...)
// Blocks run one by one, so one static variable serves them all. In a section of their own they
// can be filled with NaN before each block. (`extern __shared__ T name[]` is rewritten before.)
#define __shared__ static __attribute__((section("shared_memory")))

struct dim3 {
    unsigned x, y, z;
};
typedef dim3 uint3;
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float3 { float x, y, z; };
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
struct int2 { int x, y; } __attribute__((aligned(8)));
struct int4 { int x, y, z, w; } __attribute__((aligned(16)));
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace on_cpu {

enum Waits { RUNS, FOR_BLOCK, FOR_WARP, DONE };

struct Fibre {
    sigjmp_buf state;
    bool started;
    dim3 thread;
    Waits waits;
    int line;             // of the barrier that it waits at
    unsigned mask;        // of the lanes that meet there, for a warp's barrier
    uint64_t slot[2];     // what it offers to the other lanes: now, and at the barrier before
    int turn;             // which of the two
};

constexpr int MOST_THREADS = 1024;
constexpr size_t STACK = 128 * 1024;

static Fibre fibres[MOST_THREADS];
static char* stacks;
static int current, threads;
static sigjmp_buf scheduler, launch_point;
static void (*body)();
static char* message;     // empty until something goes wrong
static size_t message_size;
static dim3 block_index, block_size, grid_size;
static unsigned char* dynamic_shared;

[[noreturn]] static void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    int used = vsnprintf(message, message_size, format, values);
    va_end(values);
    if (used > 0 && size_t(used) < message_size) {
        const dim3 t = fibres[current].thread;
        snprintf(message + used, message_size - used, " (block %u,%u,%u, thread %u,%u,%u)",
                 block_index.x, block_index.y, block_index.z, t.x, t.y, t.z);
    }
    siglongjmp(launch_point, 1);
}

static void fibre_main() {
    for (;;) {  // a fibre is used again by the next block
        body();
        fibres[current].waits = DONE;
        if (!sigsetjmp(fibres[current].state, 0)) siglongjmp(scheduler, 1);
    }
}

static void wait(Waits what, int line, unsigned mask = 0) {
    Fibre& own = fibres[current];
    own.waits = what;
    own.line = line;
    own.mask = mask;
    if (!sigsetjmp(own.state, 0)) siglongjmp(scheduler, 1);
}

static void resume(int which) {
    current = which;
    if (sigsetjmp(scheduler, 0)) return;  // it waits, or has finished
    if (fibres[which].started) siglongjmp(fibres[which].state, 1);
    fibres[which].started = true;
    static ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks + which * STACK;
    start.uc_stack.ss_size = STACK;
    makecontext(&start, fibre_main, 0);
    setcontext(&start);
}

// The order in which threads (and blocks) run: 0 forward, 1 backward, else shuffled by that seed.
static unsigned place(unsigned i, unsigned count, unsigned order) {
    if (order == 0) return i;
    if (order == 1) return count - 1 - i;
    uint64_t step = order * 2654435761ull % count;  // i * step + order runs through all of them,
    while (std::__gcd<uint64_t>(step, count) != 1) step++;  // where step and count are coprime
    return (i * step + order) % count;
}

static void release_warps(bool& any) {
    for (int t = 0; t < threads; t++) {
        const Fibre& own = fibres[t];
        if (own.waits != FOR_WARP) continue;
        any = true;
        const int first = t / 32 * 32;
        for (int lane = 0; lane < 32 && first + lane < threads; lane++) {
            const Fibre& other = fibres[first + lane];
            if (!(own.mask >> lane & 1) || (other.waits == FOR_WARP && other.line == own.line))
                continue;
            current = t;
            if (other.waits == DONE)
                fail("divergent barrier: waits at line %d for lane %d of its warp, which returned",
                     own.line, lane);
            fail("divergent barrier: waits at line %d for lane %d of its warp, which waits at "
                 "line %d", own.line, lane, other.line);
        }
    }
    for (int t = 0; t < threads && any; t++)
        if (fibres[t].waits == FOR_WARP) fibres[t].waits = RUNS;
}

static bool release_block() {  // false: the block has finished
    int waiting = -1, done = -1;
    for (int t = 0; t < threads; t++) {
        if (fibres[t].waits == DONE) { done = t; continue; }
        if (waiting >= 0 && fibres[t].line != fibres[waiting].line) {
            current = t;
            const dim3 o = fibres[waiting].thread;
            fail("divergent barrier: waits at line %d, thread %u,%u,%u waits at line %d",
                 fibres[t].line, o.x, o.y, o.z, fibres[waiting].line);
        }
        waiting = t;
    }
    if (waiting < 0) return false;
    if (done >= 0) {
        current = waiting;
        const dim3 o = fibres[done].thread;
        fail("divergent barrier: waits at line %d, thread %u,%u,%u returned",
             fibres[waiting].line, o.x, o.y, o.z);
    }
    for (int t = 0; t < threads; t++) fibres[t].waits = RUNS;
    return true;
}

static void run_block(unsigned order) {
    for (int t = 0; t < threads; t++) {
        const dim3 b = block_size;
        fibres[t].thread = {t % b.x, t / b.x % b.y, t / (b.x * b.y)};
        fibres[t].waits = RUNS;
        fibres[t].turn = 0;
    }
    for (;;) {
        for (int t = 0; t < threads; t++) {
            const int which = place(t, threads, order);
            if (fibres[which].waits == RUNS) resume(which);
        }
        bool warps = false;
        release_warps(warps);
        if (!warps && !release_block()) return;
    }
}

// An access to a page that may not be touched: which one was it?
struct Region {
    const char* name;
    unsigned char* begin;  // of the memory around the array that may not be touched
    unsigned char* end;
    unsigned char* data;
    size_t bytes, item;
};
static const Region* regions;
static int region_count;

static void on_fault(int, siginfo_t* info, void*) {
    unsigned char* at = static_cast<unsigned char*>(info->si_addr);
    for (int i = 0; i < region_count; i++) {
        const Region& r = regions[i];
        if (at >= r.begin && at < r.end)
            fail("access outside of %s, at element %lld of %lld", r.name,
                 (long long)(at - r.data) / (long long)r.item, (long long)(r.bytes / r.item));
    }
    fail("access to memory that belongs to no array (address %p)", (void*)at);
}

// The linker's names of the section's ends, which exist where the section does.
__shared__ char section_exists __attribute__((used));
extern "C" char __start_shared_memory[] __attribute__((visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((visibility("hidden")));

static void launch(void (*kernel)(), const unsigned* sizes, unsigned order, size_t shared_bytes) {
    body = kernel;
    grid_size = {sizes[0], sizes[1], sizes[2]};
    block_size = {sizes[3], sizes[4], sizes[5]};
    threads = sizes[3] * sizes[4] * sizes[5];
    if (!stacks) {
        stacks = static_cast<char*>(mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stacks == MAP_FAILED) { stacks = nullptr; fail("no memory for the threads' stacks"); }
    }
    for (int t = 0; t < threads; t++) fibres[t].started = false;
    const uint64_t blocks = uint64_t(sizes[0]) * sizes[1] * sizes[2];
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t b = order == 0 ? i : blocks - 1 - i;
        block_index = {unsigned(b % sizes[0]), unsigned(b / sizes[0] % sizes[1]),
                       unsigned(b / sizes[0] / sizes[1])};
        // NaN, so that what nobody has written does not pass for a number
        memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
        if (shared_bytes) memset(dynamic_shared, 0xff, shared_bytes);
        run_block(order);
    }
}

// Returns 0, or 1 with the reason in `text`. regions: the arrays, then the dynamic shared memory.
static int guarded_launch(void (*kernel)(), const unsigned* sizes, unsigned order,
                          const Region* arrays, int count, char* text, size_t text_size) {
    regions = arrays;
    region_count = count;
    dynamic_shared = arrays[count - 1].data;
    message = text;
    message_size = text_size;
    struct sigaction ours = {}, segv, bus;
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &ours, &segv);
    sigaction(SIGBUS, &ours, &bus);
    const int failed = sigsetjmp(launch_point, 0);
    if (!failed) launch(kernel, sizes, order, arrays[count - 1].bytes);
    sigaction(SIGSEGV, &segv, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    return failed;
}

template <class T> uint64_t bits(T value) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    uint64_t result = 0;
    memcpy(&result, &value, sizeof(T));
    return result;
}

// All lanes of the mask meet; returns where what each of them offered lies.
inline int meet(unsigned mask, uint64_t offer, int line) {
    Fibre& own = fibres[current];
    const int lane = current % 32;
    if (!(mask >> lane & 1)) fail("line %d: lane %d is not in its own mask %#x", line, lane, mask);
    const int turn = own.turn;
    own.slot[turn] = offer;
    own.turn = 1 - turn;
    wait(FOR_WARP, line, mask);
    return turn;
}

template <class T> T from_lane(unsigned mask, T value, int source, bool inside, int line) {
    const int own = current % 32, first = current - own;
    const int turn = meet(mask, bits(value), line);
    if (!inside) return value;
    if (first + source >= threads || !(mask >> source & 1))
        fail("line %d: reads lane %d, which does not take part", line, source);
    const Fibre& other = fibres[first + source];
    // `other` has either not yet moved on, or met at one further barrier, and kept both offers
    T result;
    memcpy(&result, &other.slot[turn], sizeof(T));
    return result;
}

}  // namespace on_cpu

#define threadIdx (on_cpu::fibres[on_cpu::current].thread)
#define blockIdx (on_cpu::block_index)
#define blockDim (on_cpu::block_size)
#define gridDim (on_cpu::grid_size)
#define warpSize 32

inline void __syncthreads(int line = __builtin_LINE()) { on_cpu::wait(on_cpu::FOR_BLOCK, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    on_cpu::meet(mask, 0, line);
}
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                                 int line = __builtin_LINE()) {
    const int lane = on_cpu::current % 32;
    return on_cpu::from_lane(mask, value, lane / width * width + (source & (width - 1)), true, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32,
                                     int line = __builtin_LINE()) {
    const int lane = on_cpu::current % 32, source = lane ^ other;
    return on_cpu::from_lane(mask, value, source, source / width <= lane / width, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                      int line = __builtin_LINE()) {
    const int lane = on_cpu::current % 32, source = lane + int(delta);
    return on_cpu::from_lane(mask, value, source, lane % width + int(delta) < width, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                    int line = __builtin_LINE()) {
    const int lane = on_cpu::current % 32, source = lane - int(delta);
    return on_cpu::from_lane(mask, value, source, lane % width >= int(delta), line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    const int turn = on_cpu::meet(mask, predicate != 0, line);
    const int first = on_cpu::current / 32 * 32;
    unsigned votes = 0;
    for (int lane = 0; lane < 32 && first + lane < on_cpu::threads; lane++)
        if (mask >> lane & 1) votes |= unsigned(on_cpu::fibres[first + lane].slot[turn]) << lane;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, !predicate, line) == 0;
}

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}
using std::max;
using std::min;
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __int_as_float(int x) { float f; memcpy(&f, &x, 4); return f; }
inline int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }

// What -fsanitize=undefined calls: the first member of every description is the place.
namespace on_cpu {
struct Place { const char* file; unsigned line, column; };
[[noreturn]] static void undefined(const Place* place, const char* what) {
    fail("%s:%u: undefined behaviour: %s", place->file, place->line, what);
}
}  // namespace on_cpu
#define ON_CPU_UNDEFINED(name, what)                                                          \
    extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_##name(        \
        on_cpu::Place* place) { on_cpu::undefined(place, what); }
ON_CPU_UNDEFINED(add_overflow_abort, "an addition overflows")
ON_CPU_UNDEFINED(sub_overflow_abort, "a subtraction overflows")
ON_CPU_UNDEFINED(mul_overflow_abort, "a multiplication overflows")
ON_CPU_UNDEFINED(negate_overflow_abort, "a negation overflows")
ON_CPU_UNDEFINED(divrem_overflow_abort, "a division by zero, or one that overflows")
ON_CPU_UNDEFINED(shift_out_of_bounds_abort, "a shift by too much, or of a negative number")
ON_CPU_UNDEFINED(out_of_bounds_abort, "an index outside of an array's bounds")
ON_CPU_UNDEFINED(type_mismatch_v1_abort, "a null pointer, a misaligned one, or one to too little")
ON_CPU_UNDEFINED(pointer_overflow_abort, "pointer arithmetic that overflows")
ON_CPU_UNDEFINED(load_invalid_value_abort, "a bool or enum that is no such value")
ON_CPU_UNDEFINED(float_cast_overflow_abort, "a number that does not fit into the integer")
ON_CPU_UNDEFINED(vla_bound_not_positive_abort, "an array of no or negative length")
ON_CPU_UNDEFINED(nonnull_arg_abort, "a null pointer as an argument")
ON_CPU_UNDEFINED(builtin_unreachable, "a place that must not be reached")
ON_CPU_UNDEFINED(missing_return, "the end of a function that returns a value")
