#include "stack.hpp"

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstring>

namespace foundry {
namespace {

constexpr size_t REACH = 128 << 10;  // bytes below the caller
constexpr size_t NEAR = 16 << 10;
constexpr size_t SPARE = 64 << 10;  // of the stack's end, where nothing is written

struct Range {
    uintptr_t lowest, end;
};

// The calling thread's stack; empty where nobody knows.
Range own_stack() {
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return {0, 0};
    void* lowest = nullptr;
    size_t size = 0;
    const int failed = pthread_attr_getstack(&attributes, &lowest, &size);
    pthread_attr_destroy(&attributes);
    const auto start = reinterpret_cast<uintptr_t>(lowest);
    return failed ? Range{0, 0} : Range{start, start + size};
}

std::atomic<uint8_t> value{0};

template <size_t reach>
__attribute__((noinline)) void fill() {
    unsigned char unused[reach];
    std::memset(unused, value.load(std::memory_order_relaxed), sizeof(unused));
    // The compiler must not leave out what nobody reads.
    asm volatile("" : : "r"(unused) : "memory");
}

template <size_t reach>
void fill_if_there() {
    thread_local const Range stack = own_stack();
    const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    // A coroutine or a signal's handler may run on another one.
    if (here < stack.end && here > stack.lowest + reach + SPARE) fill<reach>();
}

}  // namespace

void fill_with(uint8_t byte) { value.store(byte, std::memory_order_relaxed); }

void fill_stack() { fill_if_there<REACH>(); }

void fill_near() { fill_if_there<NEAR>(); }

}  // namespace foundry
