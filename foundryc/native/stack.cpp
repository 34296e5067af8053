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

Stack find_own() {
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return {};
    void* lowest = nullptr;
    size_t size = 0;
    const int failed = pthread_attr_getstack(&attributes, &lowest, &size);
    pthread_attr_destroy(&attributes);
    const auto start = reinterpret_cast<uintptr_t>(lowest);
    return failed ? Stack{} : Stack{start, start + size};
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
void fill_if_there(const Stack& stack) {
    const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    // A coroutine or a signal's handler may run on another one.
    if (here < stack.end && here > stack.lowest + reach + SPARE) fill<reach>();
}

}  // namespace

void fill_with(uint8_t byte) { value.store(byte, std::memory_order_relaxed); }

Stack own_stack() {
    thread_local const Stack stack = find_own();
    return stack;
}

void fill_stack() { fill_if_there<REACH>(own_stack()); }

void fill_near(const Stack& own) { fill_if_there<NEAR>(own); }

}  // namespace foundry
