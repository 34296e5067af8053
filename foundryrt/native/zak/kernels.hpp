// What one instruction set's kernels offer. Shared and scratch memory are floats, aligned to 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "zak/link.hpp"

namespace foundry::zak {

// DFT over the periods of some delays: X[k, l] of docs/otfs.md.
struct Columns {
    const float* samples;  // complex [N, M]
    int delay_bins, doppler_bins;
    int first, count;    // the delays
    const float* roots;  // complex [N], e^{-j2πi/N}
};

struct Equalize {
    Link link;
    int antennas;
    const float* samples;   // complex [antennas, N, M]
    const float* taps;      // complex [antennas, 2D+1, window]
    const float* scale;     // [antennas]: what gives each antenna's noise the same variance
    const int32_t* delays;  // those that have a tap at any antenna, rising
    int delay_count;
    float noise_variance;  // of the scaled samples
    int iterations;
    const float* roots;  // complex [N], e^{-j2πi/N}
    float* equalized;    // complex [N, M]; the guard strip is not written
    float* bias;         // [N]
};

struct Demap {
    Link link;
    const float* equalized;  // complex [N, M]
    int axis_bits;           // bits of one axis of the constellation
    const float* levels;     // [2^axis_bits]
    const float* roots;      // complex [N], e^{-j2πi/N}
    float mu, variance;
    float* symbols;  // complex [D]
    float* llr;      // [D, 2 axis_bits]
    uint8_t* bits;
};

// Components of samples as they come, little-endian.
enum class SampleFormat { FLOAT32, INT16, INT8, UINT8 };

struct Intake {
    SampleFormat format;
    const void* from;
    int64_t count;  // of components
    float limit;
    bool is_streamed;
    float* to;
};

// The place with the largest share of the energy, -1 where there is none.
struct Match {
    int64_t place;
    double share;
};

struct Kernels {
    int lanes;
    size_t (*columns_scratch)(int doppler_bins);
    // X[k, l] at out[(l · count + k - first)], complex.
    void (*columns)(const Columns&, float* scratch, float* out);
    size_t (*equalize_shared)(const Equalize&);
    size_t (*equalize_scratch)(const Equalize&);
    void (*equalize_prepare)(const Equalize&, float* shared);
    void (*equalize_period)(const Equalize&, const float* shared, float* scratch, int period);
    int (*demap_groups)(const Demap&);
    size_t (*demap_scratch)(const Demap&);
    void (*demap_group)(const Demap&, float* scratch, int group);
    // A sequence of `size` samples is looked for in blocks of places, best where there are about `places`;
    // the floats of tables and of scratch memory.
    int64_t (*correlation_block)(int64_t size, int64_t places);
    size_t (*correlation_floats)(int64_t size, int64_t places);
    size_t (*correlation_scratch)(int64_t size, int64_t places);
    void (*correlation_prepare)(const float* sequence, int64_t size, int64_t places, float* tables,
                                float* scratch);
    // The largest energy of `size` samples from one of the places on.
    double (*correlation_most)(int64_t size, const float* samples, int64_t actual);
    // A block's correlation is made in rounds, in the same scratch memory, which may be side by side.
    int (*correlation_rounds)(int64_t size, int64_t places);
    void (*correlation_round)(int64_t size, int64_t places, const float* tables, float* scratch,
                              const float* samples, int64_t actual, int round);
    // Then the best of a block's places, or fewer; `most` is the largest energy elsewhere.
    Match (*correlation_find)(int64_t size, int64_t places, const float* tables, float* scratch,
                              const float* samples, int64_t actual, double most);
    // Components to float32, integers to -1 to 1; whether all are less than the limit.
    bool (*intake)(const Intake&);
};

// The kernels with so many lanes; the widest that this processor has for 0; null where it has none.
const Kernels* kernels_of(int lanes);

extern const Kernels KERNELS_4;
#ifdef __x86_64__
extern const Kernels KERNELS_8, KERNELS_16;
#endif

}  // namespace foundry::zak
