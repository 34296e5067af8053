// Channel and noise from the pilot of one frame.
#pragma once

#include <cstdint>
#include <vector>

#include "zak/kernels.hpp"

namespace foundry::zak {

// e^{-j2πi/n}, i = 0..n-1, complex.
std::vector<float> roots_of(int n);

// Taps of the window [2D+1, window], complex: the `max_taps` strongest at most, those over `tap_sigmas` σ,
// and 0 for the others; σ², and how many taps are not 0. std::bad_alloc where there is no memory.
void estimate(const Link& link, const Kernels& kernels, const float* samples, float tap_sigmas, int max_taps,
              float* taps, float* noise_variance, int64_t* kept);

}  // namespace foundry::zak
