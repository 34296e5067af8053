// The link whose frames are received (docs/otfs.md), and what a caller may ask for.
#pragma once

#include <cstdint>

extern "C" struct foundry_zak_link {
    int32_t delay_bins;     // M
    int32_t doppler_bins;   // N
    int32_t pilot_delay;    // kp
    int32_t pilot_doppler;  // lp
    int32_t guard_bins;     // delay bins of the guard strip around kp, odd
    int32_t first_tap;      // delay of the window's first tap, at most 0
    int32_t window_delays;  // delay taps of the window
    int32_t doppler_reach;  // D: the window has Doppler taps -D to D
    float pilot_amplitude;  // A
};

namespace foundry::zak {

using Link = foundry_zak_link;

// Antennas whose frames are received together, at most.
constexpr int MOST_ANTENNAS = 4;

inline int64_t samples(const Link& link) { return int64_t(link.delay_bins) * link.doppler_bins; }
inline int half_guard(const Link& link) { return link.guard_bins / 2; }
inline int dopplers(const Link& link) { return 2 * link.doppler_reach + 1; }
inline int data_delays(const Link& link) { return link.delay_bins - link.guard_bins; }

// Whether everything below stays inside its arrays: the strip lies in the frame, separates the
// periods whatever taps are kept, and leaves Doppler bins that hold noise alone.
inline bool is_valid(const Link& link) {
    if (link.delay_bins < 2 || link.doppler_bins < 2 || samples(link) > (int64_t(1) << 30)) return false;
    if (link.guard_bins < 1 || link.guard_bins % 2 == 0 || link.guard_bins >= link.delay_bins) return false;
    const int half = half_guard(link);
    if (link.pilot_delay < half || link.pilot_delay >= link.delay_bins - half) return false;
    if (link.pilot_doppler < 0 || link.pilot_doppler >= link.doppler_bins) return false;
    if (link.first_tap < -half || link.first_tap > 0) return false;
    // The window has the delay 0, and none beyond the strip.
    if (link.window_delays < 1 - link.first_tap || link.window_delays > half - link.first_tap + 1)
        return false;
    if (link.doppler_reach < 0 || link.doppler_reach >= link.doppler_bins) return false;
    return dopplers(link) < link.doppler_bins && link.pilot_amplitude > 0;
}

}  // namespace foundry::zak
