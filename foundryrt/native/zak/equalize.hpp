// LMMSE equalization by preconditioned conjugate gradients in time, one Doppler period at a time.
//
// In time the channel is y[n] = Σ_a c_a[n] x[n-a] with c_a[n] = Σ_b h[a,b] e^{j2πb(n-a)/Q}: all Doppler
// taps of a delay are one slowly turning coefficient, which is interpolated between nodes. The guard
// strip is silent in every period and longer than the channel, so (P HᴴH P + σ²I) x = P Hᴴ y is N
// systems that know nothing of each other, and a period's vectors and nodes stay in a core's cache.
//
// Within a period the channel hardly turns: the preconditioner is the circulant matrix of |H(t,f)|² + σ²
// in the period's middle. What few iterations leave of the residual is small, so that x̂ counts as
// LMMSE's, of bias E[λ/(λ+σ²)] over λ = |H(t,f)|².
//
// Of several antennas HᴴH, Hᴴy and |H(t,f)|² are sums over them, each scaled to the same noise variance:
// maximum-ratio combining.
#pragma once

#include "zak/channel.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

// Keeps 0/0 out of a period of zeros; far below the energy of any other.
constexpr float TINY = 1e-30f;

// The received samples of a period to v.y.
inline void read_period(const Equalize& job, const Geometry& g, const Antenna& v, int antenna, int period) {
    for (int i = 0; i < g.rows; i++) v.y.row[i] = zero();
    const float* samples = job.samples + 2 * antenna * int64_t(g.q);
    const float scale = job.scale[antenna];
    float* lane = reinterpret_cast<float*>(v.y.row);
    for (int j = 0; j < g.length; lane++)
        for (int i = 0; i < g.rows && j < g.length; i++, j++) {
            const float* from = samples + 2 * frame_sample(job, g, period, j);
            lane[2 * LANES * i] = scale * from[0];
            lane[2 * LANES * i + LANES] = scale * from[1];
        }
}

inline void write_period(const Equalize& job, const Geometry& g, const Period& v, int period) {
    const float* lane = reinterpret_cast<const float*>(v.x);
    for (int j = 0; j < g.data_last; lane++)
        for (int i = 0; i < g.rows && j < g.data_last; i++, j++) {
            if (j < g.data_first) continue;
            float* to = job.equalized + 2 * frame_sample(job, g, period, j);
            to[0] = lane[2 * LANES * i];
            to[1] = lane[2 * LANES * i + LANES];
        }
}

// Sets v.factor; the mean over the frequencies of λ/(λ+σ²).
inline float set_preconditioner(const Equalize& job, const Geometry& g, const Shared& s, const Period& v) {
    for (int i = 0; i < g.rows; i++) {
        v.r[i] = zero();
        v.factor[i] = Vector{};
    }
    for (int antenna = 0; antenna < job.antennas; antenna++) {
        for (int d = 0; d < job.delay_count; d++) {
            const int a = job.delays[d] < 0 ? job.delays[d] + g.circulant : job.delays[d];
            v.r[a % g.rows].re[a / g.rows] = v.antenna[antenna].centre[d].re;
            v.r[a % g.rows].im[a / g.rows] = v.antenna[antenna].centre[d].im;
        }
        forward(v.r, v.z, s.turns);
        for (int i = 0; i < g.rows; i++) v.factor[i] += energy(v.z[i]);
    }
    Vector bias{};
    for (int i = 0; i < g.rows; i++) {
        const Vector eigenvalue = v.factor[i], damped = eigenvalue + job.noise_variance;
        v.factor[i] = 1 / (damped * float(g.circulant));
        bias += eigenvalue / damped;
    }
    return sum(bias) / float(g.circulant);
}

// z = P C⁻¹ r; the inner product of r and z.
inline float precondition(const Geometry& g, const Shared& s, const Period& v) {
    forward(v.r, v.z, s.turns);
    for (int i = 0; i < g.rows; i++) v.z[i] = v.factor[i] * v.z[i];
    inverse(v.z, s.turns);
    Vector product{};
    for (int i = 0; i < g.rows; i++) {
        v.z[i] = s.mask[i] * v.z[i];
        product += v.r[i].re * v.z[i].re + v.r[i].im * v.z[i].im;
    }
    return sum(product);
}

// Σ Hᴴy over the antennas, ROWS rows from `first` on, to `out`.
template <int ROWS>
inline void adjoints(const Equalize& job, const Geometry& g, const Shared& s, const Period& v, int first,
                     Complex* out) {
    Sums<ROWS> sum;
    for (int i = 0; i < job.antennas; i++) {
        const Antenna antenna = v.antenna[i];
        add_product<ROWS, true>({antenna.adjoint, s.forth, job.delay_count, g.step}, antenna.y, first, sum);
    }
#pragma GCC unroll 8
    for (int t = 0; t < ROWS; t++) out[t] = {sum.re[t], sum.im[t]};
}

// x / y, and x / TINY for a y below that; a NaN stays one.
inline float quotient(float x, float y) { return x / (y < TINY ? TINY : y); }

template <int ROWS>
inline void solve(const Equalize& job, const Geometry& g, const Shared& s, const Period& v) {
    const float sigma2 = job.noise_variance;
    Complex out[ROWS];
    for (int a = 0; a < job.antennas; a++) v.antenna[a].y.fill_halo();
    for (int i = 0; i < g.rows; i += ROWS) {
        adjoints<ROWS>(job, g, s, v, i, out);
        for (int t = 0; t < ROWS; t++) {
            v.x[i + t] = v.p.row[i + t] = zero();
            v.r[i + t] = s.mask[i + t] * out[t];
        }
    }
    float beta = 0, before = 0;
    for (int step = 0;; step++) {
        const float residual = precondition(g, s, v);
        if (step > 0) beta = quotient(residual, before);
        before = residual;
        Vector part{};
        for (int i = 0; i < g.rows; i++) {
            v.p.row[i] = v.z[i] + beta * v.p.row[i];
            part += energy(v.p.row[i]);
        }
        v.p.fill_halo();
        // pᴴ(HᴴH+σ²)p without a product of its own.
        part *= sigma2;
        for (int a = 0; a < job.antennas; a++) {
            const Antenna antenna = v.antenna[a];
            const Coefficients h{antenna.h, s.back, job.delay_count, g.step};
            for (int i = 0; i < g.rows; i += ROWS) {
                Sums<ROWS> sum;
                add_product<ROWS, false>(h, v.p, i, sum);
#pragma GCC unroll 8
                for (int t = 0; t < ROWS; t++) antenna.y.row[i + t] = {sum.re[t], sum.im[t]};
                for (int t = 0; t < ROWS; t++) part += energy(antenna.y.row[i + t]);
            }
        }
        const float alpha = quotient(residual, sum(part));
        if (step + 1 == job.iterations) {
            // What is left needs no Hᴴ.
            for (int i = 0; i < g.rows; i++) v.x[i] = v.x[i] + alpha * v.p.row[i];
            return;
        }
        for (int a = 0; a < job.antennas; a++) v.antenna[a].y.fill_halo();
        for (int i = 0; i < g.rows; i += ROWS) {
            adjoints<ROWS>(job, g, s, v, i, out);
            for (int t = 0; t < ROWS; t++) {
                const Complex p = v.p.row[i + t];
                v.x[i + t] = v.x[i + t] + alpha * p;
                v.r[i + t] = v.r[i + t] - alpha * (s.mask[i + t] * out[t] + sigma2 * p);
            }
        }
    }
}

inline void equalize_period(const Equalize& job, const float* shared, float* scratch, int period) {
    const Geometry g(job);
    Parts shared_parts(const_cast<float*>(shared)), parts(scratch);
    const Shared s(shared_parts, job, g);
    const Period v(parts, job, g);
    for (int i = 0; i < job.antennas; i++) {
        read_period(job, g, v.antenna[i], i, period);
        set_channel(job, g, s, v.antenna[i], i, period);
    }
    job.bias[period] = set_preconditioner(job, g, s, v);
    if (g.tile == TILE) solve<TILE>(job, g, s, v);
    else solve<FINE_TILE>(job, g, s, v);
    write_period(job, g, v, period);
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
