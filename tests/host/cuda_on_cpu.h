// Runs the kernels on a CPU: a thread is a fiber, which gives way only where CUDA's threads wait.
// Warps lag behind one another at random: what lacks a barrier gives other results than numpy.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)

struct Index {
    unsigned x;
};

struct Barrier {
    int members, arrived = 0, generation = 0;
};

struct Block {
    Index index;
    Barrier all, some;
    std::vector<Barrier> warps;
    int votes = 0;
    std::vector<float> exchange;
    std::vector<unsigned char> memory;
};

struct Fiber {
    ucontext_t context;  // where it begins
    jmp_buf left;        // where it gave way
    bool begun = false;
    Index index;
    Block* block;
    const Barrier* awaited = nullptr;
    int generation = 0;
    bool done = false;

    bool waits() const { return awaited && awaited->generation == generation; }
};

static constexpr std::size_t STACK = 64 << 10;
static std::vector<std::unique_ptr<char[]>> stacks;
static jmp_buf scheduler;
static Fiber* current;
static Barrier* cluster;
static std::vector<Block>* blocks;
static void (*body)(const void*);
static const void* kernel;

#define threadIdx (current->index)
#define blockIdx (current->block->index)

// By jumps: swapcontext asks the kernel for the signal mask each time.
static void give_way() {
    if (!_setjmp(current->left)) _longjmp(scheduler, 1);
}

static void resume(Fiber& fiber) {
    current = &fiber;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.left, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

static int arrive(Barrier& b) {
    int generation = b.generation;
    if (++b.arrived == b.members) b.arrived = 0, b.generation++;
    return generation;
}

static void await(Barrier& b, int generation) {
    current->awaited = &b, current->generation = generation;
    if (current->waits()) give_way();
    current->awaited = nullptr;
}

static void wait(Barrier& b) { await(b, arrive(b)); }

static Barrier& warp() { return current->block->warps[threadIdx.x / 32]; }
static void __syncthreads() { wait(current->block->all); }
static int __syncthreads_or(int value) {
    int& votes = current->block->votes;
    votes |= value != 0;
    __syncthreads();
    const int any = votes;
    __syncthreads();
    votes = 0;
    __syncthreads();
    return any;
}
static void __syncwarp() { wait(warp()); }
static void cluster_barrier() { wait(*cluster); }

template <class T>
T exchange(T value, int source) {
    float* slots = &current->block->exchange[threadIdx.x / 32 * 32];
    std::memcpy(&slots[threadIdx.x % 32], &value, 4);
    wait(warp());
    T got = value;
    if (source >= 0) std::memcpy(&got, &slots[source], 4);
    wait(warp());
    return got;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return exchange(value, int(threadIdx.x % 32) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int offset) {
    return exchange(value, int(threadIdx.x % 32) - offset);
}

static int atomicAdd(int* to, int value) { return *to += value, *to - value; }
static unsigned atomicOr(unsigned* to, unsigned value) { return *to |= value; }
static int __popc(unsigned value) { return __builtin_popcount(value); }
static int __ffs(unsigned value) { return __builtin_ffs(int(value)); }
static unsigned __float_as_uint(float value) { unsigned u; return std::memcpy(&u, &value, 4), u; }
static float __uint_as_float(unsigned value) { float f; return std::memcpy(&f, &value, 4), f; }
static float __int_as_float(int value) { return __uint_as_float(unsigned(value)); }
static float rsqrtf(float x) { return 1 / std::sqrt(x); }
static float approximate_root(float x) { return std::sqrt(x); }
static void sincospif(float x, float* sine, float* cosine) {
    *sine = float(std::sin(M_PI * double(x))), *cosine = float(std::cos(M_PI * double(x)));
}
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

static unsigned char* dynamic_shared() { return current->block->memory.data(); }

static void enter() {
    body(kernel);
    current->done = true;
    _longjmp(scheduler, 1);
}

// Clusters one after another, the fibers of a cluster in turn. `call` calls a kernel.
template <class Call>
void launch(unsigned grid, unsigned threads, unsigned size, std::size_t shared, const Call& call) {
    body = [](const void* given) { (*static_cast<const Call*>(given))(); };
    kernel = &call;
    std::uint64_t state = 1;
    const auto random = [&] { return state = state * 48271 % 2147483647; };
    for (unsigned first = 0; first < grid; first += size) {
        std::vector<Block> here(size);
        Barrier whole{int(size * threads)};
        cluster = &whole, blocks = &here;
        std::vector<Fiber> fibers(size * threads);
        std::vector<unsigned> lags(size * threads / 32);
        for (unsigned b = 0; b < size; b++) {
            here[b].index = {first + b};
            here[b].all.members = int(threads);
            here[b].warps.assign(threads / 32, Barrier{32});
            here[b].exchange.resize(threads);
            // Garbage, as on the device.
            here[b].memory.assign(shared, 0xff);
        }
        for (unsigned i = 0; i < size * threads; i++) {
            Fiber& f = fibers[i];
            f.index = {i % threads};
            f.block = &here[i / threads];
            if (i == stacks.size()) stacks.emplace_back(new char[STACK]);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = stacks[i].get();
            f.context.uc_stack.ss_size = STACK;
            f.context.uc_link = nullptr;
            makecontext(&f.context, enter, 0);
        }
        for (bool running = true; running;) {
            running = false;
            for (unsigned i = 0; i < fibers.size(); i++) {
                Fiber& f = fibers[i];
                if (f.done) continue;
                running = true;
                unsigned& lag = lags[i / 32];
                if (i % 32 == 0) lag = lag ? lag - 1 : random() % 16 ? 0 : random() % 64;
                if (lag || f.waits()) continue;
                resume(f);
            }
        }
    }
}
