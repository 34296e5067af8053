#include "zak/estimate.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "zak/memory.hpp"

namespace foundry::zak {
namespace {

constexpr double TURN = 6.283185307179586;

}  // namespace

std::vector<float> roots_of(int n) {
    std::vector<float> roots(2 * size_t(n));
    for (int i = 0; i < n; i++) {
        const double angle = -TURN * i / n;
        roots[2 * i] = float(std::cos(angle));
        roots[2 * i + 1] = float(std::sin(angle));
    }
    return roots;
}

void estimate(const Link& link, const Kernels& kernels, const float* samples, float tap_sigmas, int max_taps,
              float* taps, float* noise_variance, int64_t* kept) {
    const int n = link.doppler_bins, width = link.window_delays, channel = dopplers(link);
    const double q = double(zak::samples(link));
    const std::vector<float> roots = roots_of(n);
    const Columns job{samples, link.delay_bins, n, link.pilot_delay + link.first_tap, width, roots.data()};
    Memory memory;
    std::vector<float> window(2 * size_t(n) * width);
    kernels.columns(job, memory.grow(kernels.columns_scratch(n)), window.data());
    double noise = 0;
    std::vector<float> energies(size_t(channel) * width);
    for (int row = 0; row < n; row++) {
        // Row b + D of the window is Doppler bin lp + b; from 2D+1 on it holds noise alone.
        const float* from =
            window.data() + 2 * size_t(width) * ((row + link.pilot_doppler + n - link.doppler_reach) % n);
        if (row >= channel) {
            for (int i = 0; i < 2 * width; i++) noise += double(from[i]) * from[i];
            continue;
        }
        const double angle = -TURN * double(int64_t(row - link.doppler_reach) * link.pilot_delay) / q;
        const float re = float(std::cos(angle) / link.pilot_amplitude),
                    im = float(std::sin(angle) / link.pilot_amplitude);
        float* to = taps + 2 * size_t(width) * row;
        for (int i = 0; i < width; i++) {
            to[2 * i] = from[2 * i] * re - from[2 * i + 1] * im;
            to[2 * i + 1] = from[2 * i] * im + from[2 * i + 1] * re;
            energies[size_t(row) * width + i] = to[2 * i] * to[2 * i] + to[2 * i + 1] * to[2 * i + 1];
        }
    }
    const float variance = float(noise / (double(n - channel) * width));
    std::vector<float> ranked(energies);
    // A NaN has no rank, and spoils the order of the others.
    for (float& one : ranked)
        if (std::isnan(one)) one = 0;
    std::nth_element(ranked.begin(), ranked.begin() + (max_taps - 1), ranked.end(), std::greater<float>());
    const float threshold =
        variance * (tap_sigmas * tap_sigmas / (link.pilot_amplitude * link.pilot_amplitude));
    const float floor = std::isnan(threshold) ? threshold : std::max(ranked[max_taps - 1], threshold);
    int64_t count = 0;
    for (size_t i = 0; i < energies.size(); i++) {
        if (!(energies[i] >= floor)) taps[2 * i] = taps[2 * i + 1] = 0;
        count += energies[i] >= floor && energies[i] > 0;
    }
    *noise_variance = variance;
    *kept = count;
}

}  // namespace foundry::zak
