// Products with the inverse of a circulant matrix, on samples that lie as a Strip's do.
//
// The DFT is radix 2, decimation in frequency; its first stages are between lanes, the others between
// rows. Its result stays in the order that this leaves, which the inverse begins with.
#pragma once

#include "zak/fourier.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

// Lane l of the result is lane l ^ BY.
template <int BY>
inline Vector exchange(Vector x) {
#ifdef __clang__
    Vector result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = x[lane ^ BY];
    return result;
#else
    return __builtin_shuffle(x, lane_numbers() ^ BY);
#endif
}

// What a length's DFTs share: `rows` · LANES samples.
struct Turns {
    Complex* row;   // [rows]: e^{-j2πik/L}, k the frequency that a lane has after the stages between lanes
    Complex* lane;  // by stage between lanes, the widest first
    Scalar* roots;  // [rows]: e^{-j2πi/rows}
    int rows;

    Turns(Parts& parts, int rows_)
        : row(parts.take<Complex>(rows_)),
          lane(parts.take<Complex>(4)),
          roots(parts.take<Scalar>(rows_)),
          rows(rows_) {}

    void fill() const {
        const double length = double(rows) * LANES;
        for (int i = 0; i < rows; i++) roots[i] = root(-i, rows);
        for (int l = 0; l < LANES; l++) {
            const double angle = -TURN * reversed(l, LANES) / length, re = cos(angle), im = sin(angle);
            double turn_re = 1, turn_im = 0;
            for (int i = 0; i < rows; i++) {
                row[i].re[l] = float(turn_re);
                row[i].im[l] = float(turn_im);
                const double next = turn_re * re - turn_im * im;
                turn_im = turn_re * im + turn_im * re;
                turn_re = next;
            }
        }
        for (int stage = 0, width = LANES / 2; width >= 1; stage++, width /= 2)
            for (int l = 0; l < LANES; l++) {
                const Scalar turn = l & width ? root(-(l % width), 2 * width) : Scalar{1, 0};
                lane[stage].re[l] = turn.re;
                lane[stage].im[l] = turn.im;
            }
    }
};

// Sums in the lanes where the bit WIDTH is 0, differences in the others.
template <int WIDTH>
inline Complex butterfly(Complex x) {
    const Vector sign = where((lane_numbers() & WIDTH) == 0, all(2)) - 1;
    return {exchange<WIDTH>(x.re) + sign * x.re, exchange<WIDTH>(x.im) + sign * x.im};
}

inline Complex forward_lanes(Complex x, const Complex* turn) {
    if constexpr (LANES >= 16) x = turn[0] * butterfly<8>(x);
    if constexpr (LANES >= 8) x = turn[LANES == 16 ? 1 : 0] * butterfly<4>(x);
    x = turn[LANES == 16 ? 2 : LANES == 8 ? 1 : 0] * butterfly<2>(x);
    return butterfly<1>(x);
}

inline Complex inverse_lanes(Complex x, const Complex* turn) {
    x = butterfly<1>(x);
    x = butterfly<2>(conjugate(turn[LANES == 16 ? 2 : LANES == 8 ? 1 : 0]) * x);
    if constexpr (LANES >= 8) x = butterfly<4>(conjugate(turn[LANES == 16 ? 1 : 0]) * x);
    if constexpr (LANES >= 16) x = butterfly<8>(conjugate(turn[0]) * x);
    return x;
}

// The DFT of `from`, [rows], into `to`.
inline void forward(const Complex* from, Complex* to, const Turns& turns) {
    for (int i = 0; i < turns.rows; i++) to[i] = turns.row[i] * forward_lanes(from[i], turns.lane);
    forward_in_place(to, turns.rows, turns.roots);
}

// The inverse, rows · LANES times as large, in place.
inline void inverse(Complex* x, const Turns& turns) {
    inverse_in_place(x, turns.rows, turns.roots);
    for (int i = 0; i < turns.rows; i++) x[i] = inverse_lanes(conjugate(turns.row[i]) * x[i], turns.lane);
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
