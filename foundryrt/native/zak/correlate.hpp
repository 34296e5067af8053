// Where a known sequence lies among samples: normalized correlation with it at every place.
//
// Lane p of row m holds sample W m + p, for W lanes. The correlation at lag W e + f is the sum over s
// of those of the template's lane s with lane s + f of the samples, each over rows; lane p + W is lane p
// a row later. So the DFTs are over rows, all lanes at once, and short.
#pragma once

#include "zak/fourier.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

// Rows whose products are made together: what was stored is read at other offsets, which takes time.
constexpr int TOGETHER = 8;

inline int power_from(int64_t least) {
    int power = 1;
    while (power < least) power *= 2;
    return power;
}

// How a template of `size` samples is correlated with: `lags` rows of places at once, by DFTs of `length`
// rows, `taps` rows of the template each. Short blocks for few places, long ones for many.
struct CorrelationPlan {
    int lags, length, taps, rounds;

    CorrelationPlan(int64_t size, int64_t places) {
        const int rows = int((size + LANES - 1) / LANES);
        lags = power_from((places + LANES - 1) / LANES);
        if (lags > power_from(rows)) lags = power_from(rows);
        const int whole = power_from(int64_t(lags) + rows);
        length = 4 * lags < whole ? 4 * lags : whole;
        taps = length - lags;
        rounds = (rows + taps - 1) / taps;
    }
};

struct CorrelationTables {
    Scalar *roots, *turns;  // e^{-j2πi/length}, and e^{j2πk/length} in the order of the DFT
    Scalar* spectra;        // [rounds, length, LANES]: the template's, conjugate

    CorrelationTables(Parts& parts, const CorrelationPlan& plan)
        : roots(parts.take<Scalar>(plan.length)),
          turns(parts.take<Scalar>(plan.length)),
          spectra(parts.take<Scalar>(size_t(plan.rounds) * plan.length * LANES)) {}
};

struct CorrelationMemory {
    Complex *rows, *sums;  // [rounds, length]
    float* doubled;        // [rounds, TOGETHER, 4 LANES]
    double* energies;      // [LANES lags]: of the samples at each place

    CorrelationMemory(Parts& parts, const CorrelationPlan& plan)
        : rows(parts.take<Complex>(size_t(plan.rounds) * plan.length)),
          sums(parts.take<Complex>(size_t(plan.rounds) * plan.length)),
          doubled(parts.take<float>(size_t(plan.rounds) * TOGETHER * 4 * LANES)),
          energies(parts.take<double>(size_t(LANES) * plan.lags)) {}
};

inline int64_t correlation_block(int64_t size, int64_t places) {
    return int64_t(LANES) * CorrelationPlan(size, places).lags;
}

inline size_t correlation_floats(int64_t size, int64_t places) {
    Parts parts(nullptr);
    const CorrelationTables tables(parts, CorrelationPlan(size, places));
    return parts.floats();
}

inline size_t correlation_scratch(int64_t size, int64_t places) {
    Parts parts(nullptr);
    const CorrelationMemory memory(parts, CorrelationPlan(size, places));
    return parts.floats();
}

// LANES samples from `begin` on, zeros from `end` on.
inline Complex read_row(const float* samples, int64_t begin, int64_t end) {
    float re[LANES] = {}, im[LANES] = {};
    const float* from = samples + 2 * begin;
    if (begin + LANES <= end) {
        for (int lane = 0; lane < LANES; lane++) {
            re[lane] = from[2 * lane];
            im[lane] = from[2 * lane + 1];
        }
    } else {
        for (int lane = 0; begin + lane < end; lane++) {
            re[lane] = from[2 * lane];
            im[lane] = from[2 * lane + 1];
        }
    }
    return {load(re), load(im)};
}

inline void correlation_prepare(const float* sequence, int64_t size, int64_t places, float* block,
                                float* scratch) {
    const CorrelationPlan plan(size, places);
    Parts parts(block), own(scratch);
    const CorrelationTables tables(parts, plan);
    const CorrelationMemory memory(own, plan);
    const int n = plan.length;
    for (int i = 0; i < n; i++) {
        tables.roots[i] = conjugate(root(i, n));
        tables.turns[i] = root(reversed(i, n), n);
    }
    for (int round = 0; round < plan.rounds; round++) {
        for (int row = 0; row < n; row++) {
            const int64_t at = LANES * (int64_t(round) * plan.taps + row);
            memory.rows[row] = row < plan.taps ? read_row(sequence, at, size) : zero();
        }
        forward_in_place(memory.rows, n, tables.roots);
        for (int row = 0; row < n; row++)
            for (int lane = 0; lane < LANES; lane++)
                tables.spectra[(size_t(round) * n + row) * LANES + lane] = {
                    memory.rows[row].re[lane] / float(n), -memory.rows[row].im[lane] / float(n)};
    }
}

// sums[row] gets the products of the template's lanes with `count` rows of the samples' spectrum.
inline void make_products(const Complex* rows, Complex* sums, float* doubled, const Scalar* turns,
                          const Scalar* spectra, int from, int count) {
    for (int i = 0; i < count; i++) {
        const Complex here = rows[from + i], later = turns[from + i] * here;
        float* to = doubled + i * 4 * LANES;
        store(to, here.re);
        store(to + LANES, later.re);
        store(to + 2 * LANES, here.im);
        store(to + 3 * LANES, later.im);
    }
    for (int i = 0; i < count; i++) {
        const float* given = doubled + i * 4 * LANES;
        Complex even = zero(), odd = zero();
        for (int lane = 0; lane < LANES; lane += 2) {
            const Scalar* tap = spectra + size_t(from + i) * LANES + lane;
            even = even + tap[0] * Complex{load(given + lane), load(given + 2 * LANES + lane)};
            odd = odd + tap[1] * Complex{load(given + lane + 1), load(given + 2 * LANES + lane + 1)};
        }
        sums[from + i] = even + odd;
    }
}

inline int correlation_rounds(int64_t size, int64_t places) { return CorrelationPlan(size, places).rounds; }

// What taps of one round add to the spectrum of the correlation. Rounds have nothing in common in scratch,
// and may be made side by side.
inline void correlation_round(int64_t size, int64_t planned, const float* block, float* scratch,
                              const float* samples, int64_t places, int round) {
    const CorrelationPlan plan(size, planned);
    Parts parts(const_cast<float*>(block)), own(scratch);
    const CorrelationTables tables(parts, plan);
    const CorrelationMemory memory(own, plan);
    const int n = plan.length;
    const int64_t begin = LANES * int64_t(round) * plan.taps, end = places + size - 1;
    Complex *rows = memory.rows + size_t(round) * n, *sums = memory.sums + size_t(round) * n;
    float* doubled = memory.doubled + size_t(round) * TOGETHER * 4 * LANES;
    for (int row = 0; row < n; row++) rows[row] = read_row(samples, begin + LANES * row, end);
    forward_in_place(rows, n, tables.roots);
    const Scalar* spectra = tables.spectra + size_t(round) * n * LANES;
    for (int row = 0; row < n; row += TOGETHER)
        make_products(rows, sums, doubled, tables.turns, spectra, row,
                      n - row < TOGETHER ? n - row : TOGETHER);
}

inline double power_of(const float* z) { return double(z[0]) * z[0] + double(z[1]) * z[1]; }

// The energy of `size` samples.
inline double energy_of(const float* samples, int64_t size) {
    // So many sums that none waits for itself.
    constexpr int SUMS = 4 * LANES;
    double parts[SUMS] = {}, total = 0;
    const int64_t floats = 2 * size, whole = floats / SUMS * SUMS;
    for (int64_t i = 0; i < whole; i += SUMS)
        for (int k = 0; k < SUMS; k++) parts[k] += double(samples[i + k]) * samples[i + k];
    for (int64_t i = whole; i < floats; i++) parts[0] += double(samples[i]) * samples[i];
    for (int k = 0; k < SUMS; k++) total += parts[k];
    return total;
}

// Passes the energy of `size` samples from each place on to `take`; gives the largest.
template <class Take>
inline double each_energy(int64_t size, const float* samples, int64_t places, const Take& take) {
    double now = energy_of(samples, size), most = 0;
    for (int64_t place = 0; place < places; place++) {
        if (place) now += power_of(samples + 2 * (place + size - 1)) - power_of(samples + 2 * (place - 1));
        if (now > most) most = now;
        take(place, now);
    }
    return most;
}

inline double correlation_most(int64_t size, const float* samples, int64_t places) {
    return each_energy(size, samples, places, [](int64_t, double) {});
}

// Once all rounds have been made.
inline Match correlation_find(int64_t size, int64_t planned, const float* block, float* scratch,
                              const float* samples, int64_t places, double most) {
    const CorrelationPlan plan(size, planned);
    Parts parts(const_cast<float*>(block)), own(scratch);
    const CorrelationTables tables(parts, plan);
    const CorrelationMemory memory(own, plan);
    const double here =
        each_energy(size, samples, places, [&](int64_t place, double now) { memory.energies[place] = now; });
    if (here > most) most = here;
    // Rounding leaves more than nothing where samples are zero.
    const double floor = 1e-6 * (most > 1e-30 ? most : 1e-30);
    for (int round = 1; round < plan.rounds; round++)
        for (int row = 0; row < plan.length; row++)
            memory.sums[row] = memory.sums[row] + memory.sums[size_t(round) * plan.length + row];
    // Row e gets the correlation at lags LANES e on.
    inverse_in_place(memory.sums, plan.length, tables.roots);
    Match best{-1, 0};
    for (int64_t row = 0; LANES * row < places; row++) {
        float found[LANES];
        store(found, energy(memory.sums[row]));
        for (int64_t lane = 0; lane < LANES && LANES * row + lane < places; lane++) {
            const double now = memory.energies[LANES * row + lane];
            // The largest share of the energy, compared without a division.
            if (now > floor && found[lane] > best.share * now) best = {LANES * row + lane, found[lane] / now};
        }
    }
    return best;
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
