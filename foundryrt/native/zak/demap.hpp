// Equalized samples to symbols, exact max-log LLRs and hard decisions.
#pragma once

#include "zak/fourier.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

struct DemapMemory {
    ColumnsMemory columns;
    float* axes;  // real and imaginary parts of one delay's symbols, and of LANES more
    float* llr;   // one bit of them all

    DemapMemory(Parts& parts, int n)
        : columns(parts, n),
          axes(parts.take<float>(2 * n + LANES)),
          llr(parts.take<float>(3 * (2 * n + LANES))) {}
};

// Groups of LANES delays before the guard strip, and behind it.
inline int groups_before(const Demap& job) {
    return (job.link.pilot_delay - half_guard(job.link) + LANES - 1) / LANES;
}

inline int demap_groups(const Demap& job) {
    const int before = job.link.pilot_delay - half_guard(job.link);
    return groups_before(job) + (data_delays(job.link) - before + LANES - 1) / LANES;
}

inline size_t demap_scratch(const Demap& job) {
    Parts parts(nullptr);
    const DemapMemory memory(parts, job.link.doppler_bins);
    return parts.floats();
}

// LLRs of `count` axes: bit by bit in `llr`, `stride` apart. min keeps a NaN, for all are NaN.
template <int BITS>
inline void axis_llrs(const float* axes, int count, const float* levels, float scale, float* llr,
                      int stride) {
    for (int i = 0; i < count; i += LANES) {
        const Vector value = load(axes + i);
        Vector best[BITS][2];
        for (int level = 0; level < 1 << BITS; level++) {
            const Vector distance = value - levels[level];
            const Vector square = distance * distance * scale;
            for (int bit = 0; bit < BITS; bit++) {
                const int position = BITS - 1 - bit;
                Vector& least = best[bit][level >> position & 1];
                const bool is_first = (level & ~(1 << position)) == 0;
                least = is_first ? square : square < least ? square : least;
            }
        }
        for (int bit = 0; bit < BITS; bit++) store(llr + bit * stride + i, best[bit][1] - best[bit][0]);
    }
}

// The symbols of one delay, in memory.axes, to LLRs and bits.
template <int BITS>
inline void decide(const Demap& job, const DemapMemory& memory, int64_t delay) {
    const int n = job.link.doppler_bins, stride = 2 * n + LANES;
    axis_llrs<BITS>(memory.axes, 2 * n, job.levels, 1 / job.variance, memory.llr, stride);
    float* llr = job.llr + 2 * BITS * delay * n;
    uint8_t* bits = job.bits + 2 * BITS * delay * n;
    // A symbol's two axes take turns.
    for (int l = 0; l < n; l++)
        for (int bit = 0; bit < BITS; bit++)
            __builtin_memcpy(llr + 2 * (BITS * l + bit), memory.llr + bit * stride + 2 * l, 8);
    for (int i = 0; i < 2 * BITS * n; i++) bits[i] = llr[i] < 0;
}

inline void demap_group(const Demap& job, float* scratch, int group) {
    const int n = job.link.doppler_bins;
    Parts parts(scratch);
    const DemapMemory memory(parts, n);
    const int before = job.link.pilot_delay - half_guard(job.link), split = groups_before(job);
    // `at` counts delays that carry data.
    const bool is_before = group < split;
    const int at = is_before ? group * LANES : before + (group - split) * LANES;
    const int end = is_before ? before : data_delays(job.link);
    const int lanes = end - at < LANES ? end - at : LANES;
    const int delay = is_before ? at : at + job.link.guard_bins;
    read_columns(job.equalized, job.link.delay_bins, n, delay, lanes, memory.columns.in);
    const Complex* spectrum = transform(memory.columns, n, reinterpret_cast<const Scalar*>(job.roots));
    const float scale = 1 / (sqrtf(float(n)) * job.mu);
    for (int lane = 0; lane < lanes; lane++) {
        const float* from = reinterpret_cast<const float*>(spectrum) + lane;
        for (int i = 0; i < 2 * n; i++) memory.axes[i] = from[i * LANES] * scale;
        __builtin_memcpy(job.symbols + 2 * int64_t(at + lane) * n, memory.axes, sizeof(float) * 2 * n);
        if (job.axis_bits == 1) decide<1>(job, memory, at + lane);
        if (job.axis_bits == 2) decide<2>(job, memory, at + lane);
        if (job.axis_bits == 3) decide<3>(job, memory, at + lane);
    }
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
