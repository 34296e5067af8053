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

inline void demap_group(const Demap& job, float* scratch, int group) {
    const int n = job.link.doppler_bins, bits = job.axis_bits;
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
    const Spectrum spectrum = transform(memory.columns, n, reinterpret_cast<const Scalar*>(job.roots));
    const float scale = 1 / (sqrtf(float(n)) * job.mu), inverse = 1 / job.variance;
    const int stride = 2 * n + LANES;
    for (int lane = 0; lane < lanes; lane++) {
        float* symbols = job.symbols + 2 * int64_t(at + lane) * n;
        for (int l = 0; l < n; l++) {
            const float* row =
                reinterpret_cast<const float*>(&spectrum.rows[spectrum.is_reversed ? reversed(l, n) : l]);
            memory.axes[2 * l] = row[lane] * scale;
            memory.axes[2 * l + 1] = row[LANES + lane] * scale;
        }
        __builtin_memcpy(symbols, memory.axes, sizeof(float) * 2 * n);
        if (bits == 1) axis_llrs<1>(memory.axes, 2 * n, job.levels, inverse, memory.llr, stride);
        if (bits == 2) axis_llrs<2>(memory.axes, 2 * n, job.levels, inverse, memory.llr, stride);
        if (bits == 3) axis_llrs<3>(memory.axes, 2 * n, job.levels, inverse, memory.llr, stride);
        float* llr = job.llr + 2 * bits * int64_t(at + lane) * n;
        uint8_t* decided = job.bits + 2 * bits * int64_t(at + lane) * n;
        for (int l = 0; l < n; l++)
            for (int bit = 0; bit < bits; bit++)
                __builtin_memcpy(llr + 2 * (bits * l + bit), memory.llr + bit * stride + 2 * l, 8);
        for (int i = 0; i < 2 * bits * n; i++) decided[i] = llr[i] < 0;
    }
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
