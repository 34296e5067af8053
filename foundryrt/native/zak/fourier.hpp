// DFTs of columns: row i of an array holds element i of as many sequences as there are lanes.
#pragma once

#include "zak/simd.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

inline bool is_power_of_two(int n) { return (n & (n - 1)) == 0; }

// Position of element i in the order that `forward_in_place` leaves.
inline int reversed(int i, int n) {
    int result = 0;
    for (int bit = 1; bit < n; bit <<= 1, i >>= 1) result = result << 1 | (i & 1);
    return result;
}

// Radix 2, decimation in frequency: natural order to bit-reversed. n is a power of two, and `roots`
// are e^{-j2πi/n}.
inline void forward_in_place(Complex* x, int n, const Scalar* roots) {
    for (int half = n / 2; half >= 1; half /= 2) {
        const int step = n / (2 * half);
        for (int j = 0; j < half; j++) {
            const Scalar w = roots[j * step];
            for (int i = j; i < n; i += 2 * half) {
                const Complex a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = w * (a - b);
            }
        }
    }
}

// out[l] = Σ_i x[i] e^{-j2πil/n}, for any n.
inline void direct(const Complex* x, int n, const Scalar* roots, Complex* out) {
    for (int l = 0; l < n; l++) {
        Complex sum = zero();
        for (int i = 0, turn = 0; i < n; i++) {
            sum = sum + roots[turn] * x[i];
            turn = turn + l >= n ? turn + l - n : turn + l;
        }
        out[l] = sum;
    }
}

// Columns of a frame, and their DFT.
struct ColumnsMemory {
    Complex *in, *out;

    ColumnsMemory(Parts& parts, int n) : in(parts.take<Complex>(n)), out(parts.take<Complex>(n)) {}
};

// Row n of `in` gets up to LANES delays from `first` on of period n.
inline void read_columns(const float* samples, int delay_bins, int doppler_bins, int first, int count,
                         Complex* in) {
    for (int n = 0; n < doppler_bins; n++) {
        const float* from = samples + 2 * (int64_t(n) * delay_bins + first);
        float re[LANES] = {}, im[LANES] = {};
        for (int lane = 0; lane < count; lane++) {
            re[lane] = from[2 * lane];
            im[lane] = from[2 * lane + 1];
        }
        in[n] = {load(re), load(im)};
    }
}

// The DFT of memory.in, not normalized; row of Doppler l in what it returns: row(l).
struct Spectrum {
    const Complex* rows;
    int n;
    bool is_reversed;
    Complex row(int l) const { return rows[is_reversed ? reversed(l, n) : l]; }
};

inline Spectrum transform(const ColumnsMemory& memory, int n, const Scalar* roots) {
    if (is_power_of_two(n)) {
        forward_in_place(memory.in, n, roots);
        return {memory.in, n, true};
    }
    direct(memory.in, n, roots, memory.out);
    return {memory.out, n, false};
}

inline size_t columns_scratch(int doppler_bins) {
    Parts parts(nullptr);
    const ColumnsMemory memory(parts, doppler_bins);
    return parts.floats();
}

inline void columns(const Columns& job, float* scratch, float* out) {
    const int n = job.doppler_bins;
    Parts parts(scratch);
    const ColumnsMemory memory(parts, n);
    const Scalar* roots = reinterpret_cast<const Scalar*>(job.roots);
    const float scale = 1 / sqrtf(float(n));
    for (int at = 0; at < job.count; at += LANES) {
        const int lanes = job.count - at < LANES ? job.count - at : LANES;
        read_columns(job.samples, job.delay_bins, n, job.first + at, lanes, memory.in);
        const Spectrum spectrum = transform(memory, n, roots);
        for (int l = 0; l < n; l++) {
            const Complex row = scale * spectrum.row(l);
            float* to = out + 2 * (int64_t(l) * job.count + at);
            for (int lane = 0; lane < lanes; lane++) {
                to[2 * lane] = row.re[lane];
                to[2 * lane + 1] = row.im[lane];
            }
        }
    }
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
