// The C interface of what the receiver's source does to samples: taken in, and searched for a preamble.
#include <cstdint>

#include "zak/kernels.hpp"

#define FOUNDRY_EXPORT extern "C" __attribute__((visibility("default")))

using namespace foundry::zak;

namespace {

// A correlation has products of every lane with every other: more lanes than 8 gain nothing.
const Kernels* correlating(int lanes) {
    const Kernels* few = lanes ? nullptr : kernels_of(8);
    return few ? few : kernels_of(lanes);
}

}  // namespace

// `lanes` chooses an instruction set by its vectors' floats, one that this processor has, 0 the best.

// Floats of memory, aligned to 64 bytes, with which a sequence is looked for at about `places` places; 0 for
// lanes that there are none of, or no sequence.
FOUNDRY_EXPORT int64_t foundry_zak_correlation_floats(int lanes, int64_t size, int64_t places) {
    const Kernels* kernels = correlating(lanes);
    const bool is_valid = kernels && size > 0 && size <= 1 << 24 && places > 0;
    return is_valid ? int64_t(kernels->correlation_floats(size, places)) : 0;
}

FOUNDRY_EXPORT void foundry_zak_correlation_prepare(int lanes, const float* sequence, int64_t size,
                                                    int64_t places, float* memory) {
    correlating(lanes)->correlation_prepare(sequence, size, places, memory);
}

// Searches `actual` + size - 1 samples; `size` and `places` are those with which `memory` was prepared.
FOUNDRY_EXPORT int64_t foundry_zak_correlation_find(int lanes, int64_t size, int64_t places, float* memory,
                                                    const float* samples, int64_t actual, double threshold) {
    return correlating(lanes)->correlation_find(size, places, memory, samples, actual, threshold);
}

// `count` components in one of the formats to float32: 1 where all are less than `limit`, else 0;
// -1 for lanes that there are none of.
FOUNDRY_EXPORT int foundry_zak_intake(int lanes, int format, const void* from, int64_t count, float limit,
                                      int is_streamed, float* to) {
    const Kernels* kernels = kernels_of(lanes);
    if (!kernels) return -1;
    return kernels->intake({SampleFormat(format), from, count, limit, is_streamed != 0, to});
}
