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

inline Complex conjugate(Complex z) { return {z.re, -z.im}; }
inline Scalar conjugate(Scalar z) { return {z.re, -z.im}; }
// j z
inline Complex turned(Complex z) { return {-z.im, z.re}; }

// The narrowest stage: sums and differences of neighbours.
inline void pairs(Complex* x, int n) {
    for (int i = 0; i < n; i += 2) {
        const Complex a = x[i], b = x[i + 1];
        x[i] = a + b;
        x[i + 1] = a - b;
    }
}

// Up to so many rows a transform goes stage by stage; a longer one ends each part of itself first, for
// rows that are a power of two apart share few lines of a cache.
constexpr int LONG = 64;

// Two stages of radix 2 of a block that `width` rows have, with every `step`th root.
inline void forward_stage(Complex* x, int width, int from, int blocks, const Scalar* roots, int step) {
    const int quarter = width / 4;
    const Scalar w = roots[from * step], w2 = roots[2 * from * step], w3 = roots[3 * from * step];
    for (Complex* at = x + from; at < x + blocks * width; at += width) {
        const Complex a = at[0], b = at[quarter], c = at[2 * quarter], d = at[3 * quarter];
        const Complex even = a + c, odd = b + d, left = a - c, right = turned(b - d);
        at[0] = even + odd;
        at[quarter] = w2 * (even - odd);
        at[2 * quarter] = w * (left - right);
        at[3 * quarter] = w3 * (left + right);
    }
}

inline void inverse_stage(Complex* x, int width, int from, int blocks, const Scalar* roots, int step) {
    const int quarter = width / 4;
    const Scalar w = conjugate(roots[from * step]), w2 = conjugate(roots[2 * from * step]);
    const Scalar w3 = conjugate(roots[3 * from * step]);
    for (Complex* at = x + from; at < x + blocks * width; at += width) {
        const Complex a = at[0], b = w2 * at[quarter], c = w * at[2 * quarter], d = w3 * at[3 * quarter];
        const Complex even = a + b, odd = a - b, sum = c + d, difference = turned(c - d);
        at[0] = even + sum;
        at[quarter] = odd + difference;
        at[2 * quarter] = even - sum;
        at[3 * quarter] = odd - difference;
    }
}

// Decimation in frequency: natural order to bit-reversed. n is a power of two; every `step`th of `roots`
// is e^{-j2πi/n}.
inline void forward_in_place(Complex* x, int n, const Scalar* roots, int step = 1) {
    if (n > LONG) {
        for (int j = 0; j < n / 4; j++) forward_stage(x, n, j, 1, roots, step);
        for (int part = 0; part < 4; part++) forward_in_place(x + part * (n / 4), n / 4, roots, 4 * step);
        return;
    }
    int width = n;
    for (; width >= 4; width /= 4)
        for (int j = 0; j < width / 4; j++) forward_stage(x, width, j, n / width, roots, step * (n / width));
    if (width == 2) pairs(x, n);
}

// The inverse, n times as large: bit-reversed order to natural.
inline void inverse_in_place(Complex* x, int n, const Scalar* roots, int step = 1) {
    if (n > LONG) {
        for (int part = 0; part < 4; part++) inverse_in_place(x + part * (n / 4), n / 4, roots, 4 * step);
        for (int j = 0; j < n / 4; j++) inverse_stage(x, n, j, 1, roots, step);
        return;
    }
    // Where the number of stages is odd, the narrowest is one of its own.
    const bool is_odd = (__builtin_ctz(n) & 1) == 1;
    if (is_odd) pairs(x, n);
    for (int width = is_odd ? 8 : 4; width <= n; width *= 4)
        for (int j = 0; j < width / 4; j++) inverse_stage(x, width, j, n / width, roots, step * (n / width));
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

// The DFT of memory.in, not normalized, in natural order.
inline const Complex* transform(const ColumnsMemory& memory, int n, const Scalar* roots) {
    if (!is_power_of_two(n)) {
        direct(memory.in, n, roots, memory.out);
        return memory.out;
    }
    forward_in_place(memory.in, n, roots);
    for (int l = 0; l < n; l++) memory.out[l] = memory.in[reversed(l, n)];
    return memory.out;
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
        const Complex* spectrum = transform(memory, n, roots);
        for (int l = 0; l < n; l++) {
            const Complex row = scale * spectrum[l];
            float* to = out + 2 * (int64_t(l) * job.count + at);
            for (int lane = 0; lane < lanes; lane++) {
                to[2 * lane] = row.re[lane];
                to[2 * lane + 1] = row.im[lane];
            }
        }
    }
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
