// The C interface: checks what it is given, chooses the instruction set, shares work among threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "zak/estimate.hpp"
#include "zak/kernels.hpp"
#include "zak/memory.hpp"
#include "zak/pool.hpp"

namespace foundry::zak {
namespace {

enum Status { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2 };

// Amplitudes of one axis at unit symbol energy, by their bits, the first highest (38.211, 5.1).
std::vector<float> levels_of(int axis_bits) {
    std::vector<float> levels(size_t(1) << axis_bits);
    const double norm = std::sqrt(2 * (double(1 << 2 * axis_bits) - 1) / 3);
    for (size_t index = 0; index < levels.size(); index++) {
        int level = 0;
        for (int bit = 0; bit < axis_bits; bit++) level = (index >> bit & 1 ? -1 : 1) * ((1 << bit) - level);
        levels[index] = float(level / norm);
    }
    return levels;
}

template <class Body>
int guarded(const Body& body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    }
}

// The smallest noise variance over 0 (a NaN, if there is one), and by antenna what scales its samples to
// it. An antenna without noise stays as it is: as a rule it is dead.
float whiten(const float* noise_variance, int antennas, float* scale) {
    float least = 0;
    for (int i = 0; i < antennas; i++) {
        const float variance = noise_variance[i];
        if (std::isnan(variance)) return variance;
        if (variance > 0 && (least == 0 || variance < least)) least = variance;
    }
    for (int i = 0; i < antennas; i++)
        scale[i] = noise_variance[i] > least ? std::sqrt(least / noise_variance[i]) : 1;
    return least;
}

int equalize(Equalize& job, const Kernels& kernels, int threads, const float* noise_variance) {
    const Link& link = job.link;
    const std::vector<float> roots = roots_of(link.doppler_bins);
    float scale[MOST_ANTENNAS];
    std::fill_n(scale, MOST_ANTENNAS, 1.0f);
    job.noise_variance = whiten(noise_variance, job.antennas, scale);
    job.scale = scale;
    std::vector<int32_t> delays;
    for (int i = 0; i < link.window_delays; i++)
        for (int row = 0; row < job.antennas * dopplers(link); row++) {
            const float* tap = job.taps + 2 * (size_t(row) * link.window_delays + i);
            if (tap[0] == 0 && tap[1] == 0) continue;
            delays.push_back(link.first_tap + i);
            break;
        }
    job.delays = delays.data();
    job.delay_count = int(delays.size());
    job.roots = roots.data();
    Memory shared;
    struct Context {
        const Equalize& job;
        const Kernels& kernels;
        float* shared;
    } context{job, kernels, shared.grow(kernels.equalize_shared(job))};
    kernels.equalize_prepare(job, context.shared);
    const auto task = [](const void* given, float* scratch, int period) {
        const Context& c = *static_cast<const Context*>(given);
        c.kernels.equalize_period(c.job, c.shared, scratch, period);
    };
    run(threads, link.doppler_bins, kernels.equalize_scratch(job), task, &context);
    return OK;
}

int demap(Demap& job, const Kernels& kernels, int threads, const float* bias, float* mu, float* variance) {
    const int n = job.link.doppler_bins;
    double mean = 0;
    for (int period = 0; period < n; period++) mean += bias[period] / double(n);
    job.mu = float(mean);
    job.variance = float(1 / mean - 1);
    const std::vector<float> roots = roots_of(n), levels = levels_of(job.axis_bits);
    job.roots = roots.data();
    job.levels = levels.data();
    struct Context {
        const Demap& job;
        const Kernels& kernels;
    } context{job, kernels};
    const auto task = [](const void* given, float* scratch, int group) {
        const Context& c = *static_cast<const Context*>(given);
        c.kernels.demap_group(c.job, scratch, group);
    };
    run(threads, kernels.demap_groups(job), kernels.demap_scratch(job), task, &context);
    *mu = job.mu;
    // Each symbol depends on every sample, so one shows whether all are finite.
    *variance = job.variance + 0 * job.symbols[0];
    return OK;
}

}  // namespace
}  // namespace foundry::zak

#define FOUNDRY_EXPORT extern "C" __attribute__((visibility("default")))

using namespace foundry::zak;

// `lanes` chooses an instruction set by its vectors' floats, 0 the widest that this processor has.
// `antennas`, 1 to MOST_ANTENNAS, of estimate and equalize: samples, taps, noise_variance and kept have one
// part for each, antenna after antenna.
// All return 0, 1 for arguments that contradict each other, 2 where there is no memory.

FOUNDRY_EXPORT int foundry_zak_lanes(int lanes) {
    const Kernels* kernels = kernels_of(lanes);
    return kernels ? kernels->lanes : 0;
}

FOUNDRY_EXPORT int foundry_zak_estimate(const foundry_zak_link* link, int lanes, int antennas,
                                        const float* samples, float tap_sigmas, int max_taps, float* taps,
                                        float* noise_variance, int64_t* kept) {
    const Kernels* kernels = kernels_of(lanes);
    if (!kernels || !is_valid(*link) || antennas < 1 || antennas > MOST_ANTENNAS) return INVALID;
    const int64_t window = int64_t(dopplers(*link)) * link->window_delays;
    if (max_taps < 1 || max_taps > window) return INVALID;
    return guarded([&] {
        for (int i = 0; i < antennas; i++)
            estimate(*link, *kernels, samples + 2 * i * foundry::zak::samples(*link), tap_sigmas, max_taps,
                     taps + 2 * i * window, noise_variance + i, kept + i);
        return OK;
    });
}

FOUNDRY_EXPORT int foundry_zak_equalize(const foundry_zak_link* link, int lanes, int threads, int antennas,
                                        const float* samples, const float* taps, const float* noise_variance,
                                        int iterations, float* equalized, float* bias) {
    const Kernels* kernels = kernels_of(lanes);
    if (!kernels || !is_valid(*link) || iterations < 1) return INVALID;
    if (antennas < 1 || antennas > MOST_ANTENNAS) return INVALID;
    Equalize job{};
    job.link = *link;
    job.antennas = antennas;
    job.samples = samples;
    job.taps = taps;
    job.iterations = iterations;
    job.equalized = equalized;
    job.bias = bias;
    return guarded([&] { return equalize(job, *kernels, threads, noise_variance); });
}

FOUNDRY_EXPORT int foundry_zak_demap(const foundry_zak_link* link, int lanes, int threads,
                                     const float* equalized, const float* bias, int axis_bits, float* symbols,
                                     float* llr, uint8_t* bits, float* mu, float* variance) {
    const Kernels* kernels = kernels_of(lanes);
    if (!kernels || !is_valid(*link) || axis_bits < 1 || axis_bits > 3) return INVALID;
    Demap job{};
    job.link = *link;
    job.equalized = equalized;
    job.axis_bits = axis_bits;
    job.symbols = symbols;
    job.llr = llr;
    job.bits = bits;
    return guarded([&] { return demap(job, *kernels, threads, bias, mu, variance); });
}
