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

struct CorrelationMemory {
    Scalar *roots, *turns;  // e^{-j2πi/length}, and e^{j2πk/length} in the order of the DFT
    Scalar* spectra;        // [rounds, length, LANES]: the template's, conjugate
    Complex *rows, *sums;   // [length]
    float* doubled;         // [TOGETHER, 4 LANES]

    CorrelationMemory(Parts& parts, const CorrelationPlan& plan)
        : roots(parts.take<Scalar>(plan.length)),
          turns(parts.take<Scalar>(plan.length)),
          spectra(parts.take<Scalar>(size_t(plan.rounds) * plan.length * LANES)),
          rows(parts.take<Complex>(plan.length)),
          sums(parts.take<Complex>(plan.length)),
          doubled(parts.take<float>(TOGETHER * 4 * LANES)) {}
};

inline size_t correlation_floats(int64_t size, int64_t places) {
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

inline void correlation_prepare(const float* sequence, int64_t size, int64_t places, float* block) {
    const CorrelationPlan plan(size, places);
    Parts parts(block);
    const CorrelationMemory memory(parts, plan);
    const int n = plan.length;
    for (int i = 0; i < n; i++) {
        memory.roots[i] = conjugate(root(i, n));
        memory.turns[i] = root(reversed(i, n), n);
    }
    for (int round = 0; round < plan.rounds; round++) {
        for (int row = 0; row < n; row++) {
            const int64_t at = LANES * (int64_t(round) * plan.taps + row);
            memory.rows[row] = row < plan.taps ? read_row(sequence, at, size) : zero();
        }
        forward_in_place(memory.rows, n, memory.roots);
        for (int row = 0; row < n; row++)
            for (int lane = 0; lane < LANES; lane++)
                memory.spectra[(size_t(round) * n + row) * LANES + lane] = {
                    memory.rows[row].re[lane] / float(n), -memory.rows[row].im[lane] / float(n)};
    }
}

// Adds to sums[row] the products of the template's lanes with `count` rows of the samples' spectrum.
inline void add_products(const CorrelationMemory& memory, const Scalar* spectra, int from, int count) {
    for (int i = 0; i < count; i++) {
        const Complex here = memory.rows[from + i], later = memory.turns[from + i] * here;
        float* to = memory.doubled + i * 4 * LANES;
        store(to, here.re);
        store(to + LANES, later.re);
        store(to + 2 * LANES, here.im);
        store(to + 3 * LANES, later.im);
    }
    for (int i = 0; i < count; i++) {
        const float* given = memory.doubled + i * 4 * LANES;
        Complex even = memory.sums[from + i], odd = zero();
        for (int lane = 0; lane < LANES; lane += 2) {
            const Scalar* tap = spectra + size_t(from + i) * LANES + lane;
            even = even + tap[0] * Complex{load(given + lane), load(given + 2 * LANES + lane)};
            odd = odd + tap[1] * Complex{load(given + lane + 1), load(given + 2 * LANES + lane + 1)};
        }
        memory.sums[from + i] = even + odd;
    }
}

// Row e of memory.sums gets the correlation at lags `first` + LANES e on.
inline void correlate(const CorrelationPlan& plan, const CorrelationMemory& memory, const float* samples,
                      int64_t first, int64_t end) {
    const int n = plan.length;
    for (int row = 0; row < n; row++) memory.sums[row] = zero();
    for (int round = 0; round < plan.rounds; round++) {
        const int64_t begin = first + LANES * int64_t(round) * plan.taps;
        for (int row = 0; row < n; row++) memory.rows[row] = read_row(samples, begin + LANES * row, end);
        forward_in_place(memory.rows, n, memory.roots);
        const Scalar* spectra = memory.spectra + size_t(round) * n * LANES;
        for (int row = 0; row < n; row += TOGETHER)
            add_products(memory, spectra, row, n - row < TOGETHER ? n - row : TOGETHER);
    }
    inverse_in_place(memory.sums, n, memory.roots);
}

// The energy of `size` samples, from the first place on.
class Energy {
  public:
    Energy(const float* samples, int64_t size) : samples_(samples), size_(size) {
        double parts[LANES] = {};
        const int64_t floats = 2 * size, whole = floats / LANES * LANES;
        for (int64_t i = 0; i < whole; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                parts[lane] += double(samples[i + lane]) * samples[i + lane];
        for (int64_t i = whole; i < floats; i++) parts[0] += double(samples[i]) * samples[i];
        for (int lane = 0; lane < LANES; lane++) now_ += parts[lane];
    }
    double now() const { return now_; }
    // On to the next place, which there must be.
    void advance() {
        now_ += power(samples_ + 2 * size_) - power(samples_);
        samples_ += 2;
    }

  private:
    static double power(const float* z) { return double(z[0]) * z[0] + double(z[1]) * z[1]; }

    const float* samples_;
    int64_t size_;
    double now_ = 0;
};

inline int64_t correlation_find(int64_t size, int64_t planned, float* block, const float* samples,
                                int64_t places, double threshold) {
    const CorrelationPlan plan(size, planned);
    Parts parts(block);
    const CorrelationMemory memory(parts, plan);
    const Energy begin(samples, size);
    double most = 1e-30;
    Energy all = begin;
    for (int64_t place = 0; place < places; place++) {
        if (place) all.advance();
        if (all.now() > most) most = all.now();
    }
    // Rounding leaves more than nothing where samples are zero.
    const double floor = 1e-6 * most;
    double best = 0;
    int64_t found = -1;
    Energy here = begin;
    for (int64_t first = 0; first < places; first += int64_t(LANES) * plan.lags) {
        correlate(plan, memory, samples, first, places + size - 1);
        for (int row = 0; row < plan.lags; row++) {
            const Vector energy = zak::FOUNDRY_LANES_NAMESPACE::energy(memory.sums[row]);
            for (int lane = 0; lane < LANES; lane++) {
                const int64_t place = first + LANES * int64_t(row) + lane;
                if (place >= places) break;
                if (place) here.advance();
                // The largest share of the energy, compared without a division.
                if (here.now() > floor && energy[lane] > best * here.now()) {
                    best = energy[lane] / here.now();
                    found = place;
                }
            }
        }
    }
    return best >= threshold ? found : -1;
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
