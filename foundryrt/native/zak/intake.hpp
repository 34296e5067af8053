// Samples as they come to float32, and whether they are numbers that can be squared: one pass.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "zak/kernels.hpp"
#include "zak/simd.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

// Past the caches where the processor can: what is written is not read first, and nothing is evicted.
inline void stream(float* to, Vector value) {
#if FOUNDRY_LANES == 16
    _mm512_stream_ps(to, (__m512)value);
#elif FOUNDRY_LANES == 8
    _mm256_stream_ps(to, (__m256)value);
#elif defined(__x86_64__)
    _mm_stream_ps(to, (__m128)value);
#else
    store(to, value);
#endif
}

// Other threads and devices see what was streamed.
inline void end_stream() {
#ifdef __x86_64__
    _mm_sfence();
#endif
}

template <class Component>
inline Vector convert(const Component* from) {
    typedef Component Few __attribute__((vector_size(LANES * sizeof(Component))));
    Few few;
    __builtin_memcpy(&few, from, sizeof few);
    return __builtin_convertvector(few, Vector);
}

// Bytes by which reading is ahead: what lies beyond a page processors do not fetch by themselves.
constexpr int AHEAD = 2048;

// to = (from - middle) · scale; whether all are less than the limit, which NaN is not.
template <class Component>
inline bool take(const Intake& job, float middle, float scale) {
    const Component* from = static_cast<const Component*>(job.from);
    bool is_good = true;
    const auto take_one = [&](int64_t i) {
        job.to[i] = (float(from[i]) - middle) * scale;
        is_good &= fabsf(job.to[i]) < job.limit;
    };
    int64_t at = 0;
    for (; at < job.count && uintptr_t(job.to + at) % sizeof(Vector) != 0; at++) take_one(at);
    Integers good = Integers{} - 1;
    for (; at + LANES <= job.count; at += LANES) {
        __builtin_prefetch(reinterpret_cast<const char*>(from + at) + AHEAD);
        const Vector value = (convert(from + at) - middle) * scale;
        if (job.is_streamed) stream(job.to + at, value);
        else store(job.to + at, value);
        good &= (Vector)((Integers)value & INT32_MAX) < all(job.limit);
    }
    for (; at < job.count; at++) take_one(at);
    if (job.is_streamed) end_stream();
    for (int lane = 0; lane < LANES; lane++) is_good &= good[lane] != 0;
    return is_good;
}

inline bool intake(const Intake& job) {
    switch (job.format) {
        case SampleFormat::FLOAT32:
            return take<float>(job, 0, 1);
        case SampleFormat::INT16:
            return take<int16_t>(job, 0, 1 / 32768.0f);
        case SampleFormat::INT8:
            return take<int8_t>(job, 0, 1 / 128.0f);
        case SampleFormat::UINT8:
            return take<uint8_t>(job, 128, 1 / 128.0f);
    }
    return false;
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
