// One Doppler period's samples across the lanes, and the channel as products with them.
//
// A lane holds a segment of neighbouring samples: sample j is row j mod R of lane j / R, so a delay
// is a shift by whole rows. What a delay reaches beyond a segment is the neighbouring lane's: halo
// rows before and behind hold it.
#pragma once

#include "zak/simd.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

struct Strip {
    Complex* row;  // row[0] is the first; row[-before] to row[rows + behind - 1] exist
    int rows, before, behind;

    Strip() = default;
    Strip(Parts& parts, int rows_, int before_, int behind_)
        : row(parts.take<Complex>(rows_ + before_ + behind_) + before_),
          rows(rows_),
          before(before_),
          behind(behind_) {}

    // Copy the rows' samples to the halo, zeros where there are none.
    void fill_halo() const {
        for (int j = 1; j <= before; j++) {
            const int shift = (j - 1) / rows + 1;
            row[-j] = shifted(row[rows - 1 - (j - 1) % rows], -shift);
        }
        for (int j = 0; j < behind; j++) row[rows + j] = shifted(row[j % rows], j / rows + 1);
    }

  private:
    // Lane l of the result is lane l + by of `from`, or 0 where there is none: of the halo's row beside
    // `from`, which is read with it.
    static Complex shifted(const Complex& from, int by) {
        if (by >= LANES || by <= -LANES) return zero();
        const Integers source = lane_numbers() + by;
        const Integers there = (source >= 0) & (source < LANES);
        const float* lanes = reinterpret_cast<const float*>(&from) + by;
        return {where(there, load(lanes)), where(there, load(lanes + LANES))};
    }
};

// The coefficient of a delay at a node's row, and its change from one row to the next.
struct Node {
    Complex value, slope;
};

// A product's coefficients: nodes `step` rows apart, and at each a Node for every delay.
struct Coefficients {
    const Node* nodes;
    const int* shift;  // by delay: the rows from an output's to its input's
    int delays, step;
};

// Some rows of complex sums.
template <int TILE>
struct Sums {
    Vector re[TILE] = {}, im[TILE] = {};
};

// sum[t] += Σ c_d[first + t] · in.row[first + t + shift_d], with the conjugate of c where it is so asked.
template <int TILE, bool CONJUGATE>
inline void add_product(const Coefficients& c, const Strip& in, int first, Sums<TILE>& sum) {
    const Node* node = c.nodes + size_t(first / c.step) * c.delays;
    const float offset = float(first % c.step);
    const Complex* rows = in.row + first;
    for (int d = 0; d < c.delays; d++) {
        const Complex slope = node[d].slope;
        Complex value = node[d].value + offset * slope;
        const Complex* from = rows + c.shift[d];
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t++) {
            const Complex x = from[t];
            sum.re[t] += value.re * x.re;
            sum.im[t] += value.re * x.im;
            if (CONJUGATE) {
                sum.re[t] += value.im * x.im;
                sum.im[t] -= value.im * x.re;
            } else {
                sum.re[t] -= value.im * x.im;
                sum.im[t] += value.im * x.re;
            }
            value = value + slope;
        }
    }
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
