// The C interface of what the receiver's source does to samples: taken in, and searched for a preamble.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "zak/crew.hpp"
#include "zak/kernels.hpp"
#include "zak/memory.hpp"
#include "zak/pool.hpp"

#define FOUNDRY_EXPORT extern "C" __attribute__((visibility("default")))

using namespace foundry::zak;

namespace {

// A correlation has products of every lane with every other: more lanes than 8 gain nothing.
const Kernels* correlating(int lanes) {
    const Kernels* few = lanes ? nullptr : kernels_of(8);
    return few ? few : kernels_of(lanes);
}

// A search of `actual` places, block by block.
struct Search {
    const Kernels& kernels;
    int64_t size, places, block;
    const float *tables, *samples;
    int64_t actual;
    double most = 0;
    std::vector<double> energies = {};
    std::vector<Match> matches = {};
    float* scratch = nullptr;

    int blocks() const { return int((actual + block - 1) / block); }
    const float* at(int index) const { return samples + 2 * index * block; }
    int64_t count(int index) const { return std::min(block, actual - index * block); }

    Match run(int threads) {
        if (blocks() == 1) return run_one(threads);
        matches.resize(blocks());
        energies.resize(blocks());
        foundry::zak::run(threads, blocks(), 0, measure, this);
        most = *std::max_element(energies.begin(), energies.end());
        foundry::zak::run(threads, blocks(), kernels.correlation_scratch(size, places), match, this);
        Match best{-1, 0};
        for (int index = 0; index < blocks(); index++)
            if (matches[index].share > best.share)
                best = {index * block + matches[index].place, matches[index].share};
        return best;
    }

  private:
    // Sequences of fewer samples are found before another thread would have woken.
    static constexpr int64_t LONG = 1 << 14;

    // Of few places the threads share the rounds: the radio waits for the answer.
    Match run_one(int threads) {
        static thread_local Memory memory;
        scratch = memory.grow(kernels.correlation_scratch(size, places));
        share(size < LONG ? 1 : threads, kernels.correlation_rounds(size, places), make_round, this);
        return kernels.correlation_find(size, places, tables, scratch, samples, actual, 0);
    }

    static void make_round(void* given, int round) {
        Search& s = *static_cast<Search*>(given);
        s.kernels.correlation_round(s.size, s.places, s.tables, s.scratch, s.samples, s.actual, round);
    }
    static void measure(const void* given, float*, int index) {
        Search& s = *static_cast<Search*>(const_cast<void*>(given));
        s.energies[index] = s.kernels.correlation_most(s.size, s.at(index), s.count(index));
    }
    static void match(const void* given, float* scratch, int index) {
        Search& s = *static_cast<Search*>(const_cast<void*>(given));
        const int rounds = s.kernels.correlation_rounds(s.size, s.places);
        for (int round = 0; round < rounds; round++)
            s.kernels.correlation_round(s.size, s.places, s.tables, scratch, s.at(index), s.count(index),
                                        round);
        s.matches[index] = s.kernels.correlation_find(s.size, s.places, s.tables, scratch, s.at(index),
                                                      s.count(index), s.most);
    }
};

// Components in parts that threads share.
struct SharedIntake {
    // So many that a thread takes some microseconds for them, and has several.
    static constexpr int64_t PART = 1 << 12, EACH = 4;

    const Kernels& kernels;
    Intake whole;
    int64_t width;  // bytes of a component
    std::atomic<bool> is_good{true};

    bool run(int threads) {
        const int64_t parts = (whole.count + PART - 1) / PART;
        share(int(std::min<int64_t>(threads, parts / EACH)), int(parts), take, this);
        return is_good;
    }

  private:
    static void take(void* given, int index) {
        SharedIntake& s = *static_cast<SharedIntake*>(given);
        const int64_t begin = index * PART;
        Intake part = s.whole;
        part.from = static_cast<const char*>(part.from) + begin * s.width;
        part.to += begin;
        part.count = std::min(PART, part.count - begin);
        if (!s.kernels.intake(part)) s.is_good = false;
    }
};

}  // namespace

// `lanes` chooses an instruction set by its vectors' floats, one that this processor has, 0 the best.

// Floats of memory, aligned to 64 bytes, with which a sequence is looked for at about `places` places; 0 for
// lanes that there are none of, or no sequence.
FOUNDRY_EXPORT int64_t foundry_zak_correlation_floats(int lanes, int64_t size, int64_t places) {
    const Kernels* kernels = correlating(lanes);
    const bool is_valid = kernels && size > 0 && size <= 1 << 24 && places > 0;
    return is_valid ? int64_t(kernels->correlation_floats(size, places)) : 0;
}

// 0; -1 where there is no memory.
FOUNDRY_EXPORT int foundry_zak_correlation_prepare(int lanes, const float* sequence, int64_t size,
                                                   int64_t places, float* tables) try {
    const Kernels& kernels = *correlating(lanes);
    Memory scratch;
    float* floats = scratch.grow(kernels.correlation_scratch(size, places));
    kernels.correlation_prepare(sequence, size, places, tables, floats);
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

// Searches `actual` + size - 1 samples, at least `size`, on up to so many threads, of about `places` places
// on `awake`; `size` and `places` are those with which `tables` were prepared. The best place; -1 where its
// share is below `threshold`, -2 where there is no memory.
FOUNDRY_EXPORT int64_t foundry_zak_correlation_find(int lanes, int threads, int awake, int64_t size,
                                                    int64_t places, const float* tables, const float* samples,
                                                    int64_t actual, double threshold) try {
    const Kernels& kernels = *correlating(lanes);
    const int64_t block = kernels.correlation_block(size, places);
    const int used = actual > block ? threads : awake;
    const Match best = Search{kernels, size, places, block, tables, samples, actual}.run(used);
    return best.share >= threshold ? best.place : -1;
} catch (const std::bad_alloc&) {
    return -2;
}

// `count` components, of `width` bytes, in one of the formats to float32, on up to so many threads: 1 where
// all are less than `limit`, else 0; -1 for lanes that there are none of.
FOUNDRY_EXPORT int foundry_zak_intake(int lanes, int threads, int format, int64_t width, const void* from,
                                      int64_t count, float limit, int is_streamed, float* to) {
    const Kernels* kernels = kernels_of(lanes);
    if (!kernels) return -1;
    const Intake whole{SampleFormat(format), from, count, limit, is_streamed != 0, to};
    return SharedIntake{*kernels, whole, width}.run(threads);
}
