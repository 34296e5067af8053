// Vectors of FOUNDRY_LANES floats. The kernels are compiled once for each instruction set; each has
// a namespace of its own, and nothing here comes from the C++ library, of which the linker keeps one
// copy for all.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#if FOUNDRY_LANES == 16
#define FOUNDRY_LANES_NAMESPACE lanes16
#define FOUNDRY_LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#elif FOUNDRY_LANES == 8
#define FOUNDRY_LANES_NAMESPACE lanes8
#define FOUNDRY_LANE_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7}
#else
#define FOUNDRY_LANES_NAMESPACE lanes4
#define FOUNDRY_LANE_NUMBERS {0, 1, 2, 3}
#endif

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

constexpr int LANES = FOUNDRY_LANES;
constexpr double TURN = 6.283185307179586;

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

// Complex numbers, one a lane.
struct Complex {
    Vector re, im;
};

inline Complex zero() { return {Vector{}, Vector{}}; }

struct Scalar {
    float re, im;
};

inline Vector load(const float* from) {
    Vector loaded;
    __builtin_memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

inline void store(float* to, Vector value) { __builtin_memcpy(to, &value, sizeof value); }

inline Vector all(float value) { return Vector{} + value; }

inline float sum(Vector value) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += value[lane];
    return total;
}

inline Vector energy(Complex z) { return z.re * z.re + z.im * z.im; }

inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
inline Complex operator*(float a, Complex b) { return {a * b.re, a * b.im}; }
inline Complex operator*(Vector a, Complex b) { return {a * b.re, a * b.im}; }
inline Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
inline Complex operator*(Scalar a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
inline Scalar operator*(Scalar a, Scalar b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }

// e^{j2π turns/of}, in double before it is rounded.
inline Scalar root(int64_t turns, int64_t of) {
    const double angle = TURN * double(turns % of) / double(of);
    return {float(cos(angle)), float(sin(angle))};
}

// The integers from 0 on, one a lane.
inline Integers lane_numbers() { return Integers FOUNDRY_LANE_NUMBERS; }

// `a` where `chosen` is all ones, 0 where it is 0.
inline Vector where(Integers chosen, Vector a) { return (Vector)((Integers)a & chosen); }

// Hands out parts of one block of memory; from no block, it counts what they need.
class Parts {
  public:
    explicit Parts(float* block) : block_(block) {}
    template <class T>
    T* take(size_t count) {
        T* part = block_ ? reinterpret_cast<T*>(block_ + used_) : nullptr;
        const size_t floats = (count * sizeof(T) + 3) / 4;
        used_ += (floats + 15) / 16 * 16;
        return part;
    }
    size_t floats() const { return used_; }

  private:
    float* block_;
    size_t used_ = 0;
};

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
