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
// An index j counts from the first sample that data reaches, `first_sample` after the pilot.
#pragma once

#include "zak/circulant.hpp"
#include "zak/strip.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

// Keeps 0/0 out of a period of zeros; far below the energy of any other.
constexpr float TINY = 1e-30f;
// Rows that a product makes at once: their sums stay in registers.
constexpr int TILE = LANES == 16 ? 8 : 4;
// Where neighbouring nodes would be too far apart, each row has coefficients of its own.
constexpr int FINE_TILE = 2;
// How far the fastest Doppler tap may turn between nodes, in radians: an error of at most 5e-5.
constexpr double NODE_TURN = 0.02;

// The circulant matrix's order is a power of two from this on: a tile's rows in every lane.
constexpr int LEAST_CIRCULANT = 128;

struct Geometry {
    int q, behind, ahead, first_sample, length, data_first, data_last, circulant, rows, tile, step, nodes;

    explicit Geometry(const Equalize& job) {
        const Link& link = job.link;
        const int last = job.delay_count ? job.delays[job.delay_count - 1] : 0;
        const int first = job.delay_count ? job.delays[0] : 0;
        q = int(samples(link));
        behind = last > 0 ? last : 0;
        ahead = first < 0 ? -first : 0;
        first_sample = half_guard(link) + 1 - ahead;
        length = data_delays(link) + ahead + behind;
        data_first = ahead;
        data_last = ahead + data_delays(link);
        const double turn = TURN * (link.doppler_reach ? link.doppler_reach : 1) / q;
        const double wide = NODE_TURN / turn;
        tile = wide >= TILE ? TILE : FINE_TILE;
        // Of the link alone, so that all instruction sets and taps have the same.
        circulant = LEAST_CIRCULANT;
        while (circulant < data_delays(link) + link.window_delays - 1) circulant *= 2;
        rows = circulant / LANES;
        step = tile == TILE ? int(wide < rows ? wide : rows) / TILE * TILE : FINE_TILE;
        nodes = (rows + step - 1) / step + 1;
    }
};

// What all periods share.
struct Shared {
    Complex* turn;      // [2D+1, nodes]: e^{j2πbn/Q} at the nodes of period 0
    Scalar* advance;    // [delays, 2D+1]: e^{-j2πba/Q}
    Scalar* at_pilot;   // [2D+1]: e^{j2πb kp/Q}
    Scalar* to_middle;  // [2D+1]: e^{j2πb M/2Q}
    Vector* mask;       // [rows]: 1 on data, else 0
    int *back, *forth;  // [delays]: shifts of H and of Hᴴ
    Turns turns;

    Shared(Parts& parts, const Equalize& job, const Geometry& g) : turns(parts, g.rows) {
        const size_t delays = job.delay_count, b = dopplers(job.link);
        turn = parts.take<Complex>(b * g.nodes);
        advance = parts.take<Scalar>(delays * b);
        at_pilot = parts.take<Scalar>(b);
        to_middle = parts.take<Scalar>(b);
        mask = parts.take<Vector>(g.rows);
        back = parts.take<int>(delays);
        forth = parts.take<int>(delays);
    }
};

// What one period needs.
struct Period {
    Strip p, y;
    Complex *x, *r, *z;
    Vector* factor;     // [rows]: 1 / L (|H(t,f)|² + σ²), in the order of `forward`
    Node *h, *adjoint;  // [nodes, delays]
    Scalar* centre;     // [delays]: coefficients in the period's middle

    Period(Parts& parts, const Equalize& job, const Geometry& g)
        : p(parts, g.rows, g.behind, g.ahead), y(parts, g.rows, g.ahead, g.behind) {
        const size_t delays = job.delay_count;
        x = parts.take<Complex>(g.rows);
        r = parts.take<Complex>(g.rows);
        z = parts.take<Complex>(g.rows);
        factor = parts.take<Vector>(g.rows);
        h = parts.take<Node>(g.nodes * delays);
        adjoint = parts.take<Node>(g.nodes * delays);
        centre = parts.take<Scalar>(delays);
    }
};

inline size_t equalize_shared(const Equalize& job) {
    Parts parts(nullptr);
    const Shared shared(parts, job, Geometry(job));
    return parts.floats();
}

inline size_t equalize_scratch(const Equalize& job) {
    Parts parts(nullptr);
    const Period period(parts, job, Geometry(job));
    return parts.floats();
}

inline void equalize_prepare(const Equalize& job, float* memory) {
    const Geometry g(job);
    Parts parts(memory);
    const Shared s(parts, job, g);
    const Link& link = job.link;
    const int reach = link.doppler_reach, b = dopplers(link);
    const int64_t origin = link.pilot_delay + g.first_sample;
    s.turns.fill();
    for (int i = 0; i < b; i++) {
        s.at_pilot[i] = root(int64_t(i - reach) * link.pilot_delay, g.q);
        s.to_middle[i] = root(int64_t(i - reach) * (link.delay_bins / 2), g.q);
    }
    for (int node = 0; node < g.nodes; node++)
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t n = origin + int64_t(lane) * g.rows + int64_t(node) * g.step;
            const double angle = TURN * double(n % g.q) / g.q;
            const double re = cos(angle), im = sin(angle);
            double turn_re = 1, turn_im = 0;
            for (int power = 0; power <= reach; power++) {
                Complex& plus = s.turn[(reach + power) * g.nodes + node];
                Complex& minus = s.turn[(reach - power) * g.nodes + node];
                plus.re[lane] = minus.re[lane] = float(turn_re);
                plus.im[lane] = float(turn_im);
                minus.im[lane] = -float(turn_im);
                const double next = turn_re * re - turn_im * im;
                turn_im = turn_re * im + turn_im * re;
                turn_re = next;
            }
        }
    for (int d = 0; d < job.delay_count; d++) {
        const int a = job.delays[d];
        for (int i = 0; i < b; i++) s.advance[d * b + i] = root(-int64_t(i - reach) * a, g.q);
        s.back[d] = -a;
        s.forth[d] = a;
    }
    for (int i = 0; i < g.rows; i++) {
        const Integers j = lane_numbers() * g.rows + i;
        s.mask[i] = where((j >= g.data_first) & (j < g.data_last), all(1));
    }
}

// e^{j2π turns/N}.
inline Scalar doppler_root(const Equalize& job, int64_t turns) {
    const int64_t n = job.link.doppler_bins, index = (turns % n + n) % n;
    return {job.roots[2 * index], -job.roots[2 * index + 1]};
}

// The nodes' coefficients of H and Hᴴ, those in the middle, and the pilot's response taken off y.
inline void set_channel(const Equalize& job, const Geometry& g, const Shared& s, const Period& v,
                        int period) {
    const Link& link = job.link;
    const int reach = link.doppler_reach, b = dopplers(link), delays = job.delay_count;
    const float amplitude = link.pilot_amplitude / sqrtf(float(link.doppler_bins));
    for (int d = 0; d < delays; d++) {
        const int a = job.delays[d];
        // A negative delay is reached from the pilot of the next period.
        const int sender = a < 0 ? period + 1 : period;
        Scalar centre{}, at_pilot{};
        for (int k = 0; k < g.nodes; k++)
            v.h[k * delays + d].value = v.adjoint[k * delays + d].value = zero();
        for (int i = 0; i < b; i++) {
            const float* tap = job.taps + 2 * (int64_t(i) * link.window_delays + a - link.first_tap);
            if (tap[0] == 0 && tap[1] == 0) continue;
            const Scalar here = doppler_root(job, int64_t(i - reach) * period) * Scalar{tap[0], tap[1]};
            const Scalar moved = s.advance[d * b + i] * here;
            for (int k = 0; k < g.nodes; k++) {
                Complex &h = v.h[k * delays + d].value, &adjoint = v.adjoint[k * delays + d].value;
                h = h + moved * s.turn[i * g.nodes + k];
                adjoint = adjoint + here * s.turn[i * g.nodes + k];
            }
            const Scalar middle = s.at_pilot[i] * (s.to_middle[i] * moved);
            centre = {centre.re + middle.re, centre.im + middle.im};
            const Scalar sent = doppler_root(job, int64_t(i - reach) * sender) * Scalar{tap[0], tap[1]};
            const Scalar response = s.at_pilot[i] * sent;
            at_pilot = {at_pilot.re + response.re, at_pilot.im + response.im};
        }
        v.centre[d] = centre;
        for (int k = 0; k < g.nodes; k++) {
            const int next = k + 1 < g.nodes ? k + 1 : k;
            const float per_row = 1 / float(g.step);
            Node &h = v.h[k * delays + d], &adjoint = v.adjoint[k * delays + d];
            h.slope = per_row * (v.h[next * delays + d].value - h.value);
            adjoint.slope = per_row * (v.adjoint[next * delays + d].value - adjoint.value);
        }
        const int j = (a < 0 ? link.delay_bins : 0) + a - g.first_sample;
        if (j < 0 || j >= g.length) continue;
        const Scalar turn = doppler_root(job, int64_t(sender) * link.pilot_doppler);
        const Scalar pilot = Scalar{amplitude * turn.re, amplitude * turn.im} * at_pilot;
        Complex& row = v.y.row[j % g.rows];
        row.re[j / g.rows] -= pilot.re;
        row.im[j / g.rows] -= pilot.im;
    }
}

// Sample j of a period in the frame, counted from the pilot of period 0.
inline int64_t frame_sample(const Equalize& job, const Geometry& g, int period, int j) {
    const int64_t n = job.link.pilot_delay + int64_t(period) * job.link.delay_bins + g.first_sample + j;
    return n < g.q ? n : n - g.q;
}

// The received samples of a period to v.y.
inline void read_period(const Equalize& job, const Geometry& g, const Period& v, int period) {
    for (int i = 0; i < g.rows; i++) v.y.row[i] = zero();
    float* lane = reinterpret_cast<float*>(v.y.row);
    for (int j = 0; j < g.length; lane++)
        for (int i = 0; i < g.rows && j < g.length; i++, j++) {
            const float* from = job.samples + 2 * frame_sample(job, g, period, j);
            lane[2 * LANES * i] = from[0];
            lane[2 * LANES * i + LANES] = from[1];
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
    for (int i = 0; i < g.rows; i++) v.r[i] = zero();
    for (int d = 0; d < job.delay_count; d++) {
        const int a = job.delays[d] < 0 ? job.delays[d] + g.circulant : job.delays[d];
        v.r[a % g.rows].re[a / g.rows] = v.centre[d].re;
        v.r[a % g.rows].im[a / g.rows] = v.centre[d].im;
    }
    forward(v.r, v.z, s.turns);
    Vector bias{};
    for (int i = 0; i < g.rows; i++) {
        const Vector eigenvalue = energy(v.z[i]), damped = eigenvalue + job.noise_variance;
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

// x / y, and x / TINY for a y below that; a NaN stays one.
inline float quotient(float x, float y) { return x / (y < TINY ? TINY : y); }

template <int ROWS>
inline void solve(const Equalize& job, const Geometry& g, const Shared& s, const Period& v) {
    const Coefficients h{v.h, s.back, job.delay_count, g.step};
    const Coefficients adjoint{v.adjoint, s.forth, job.delay_count, g.step};
    const float sigma2 = job.noise_variance;
    Complex out[ROWS];
    v.y.fill_halo();
    for (int i = 0; i < g.rows; i += ROWS) {
        product<ROWS, true>(adjoint, v.y, i, out);
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
        for (int i = 0; i < g.rows; i += ROWS) {
            product<ROWS, false>(h, v.p, i, v.y.row + i);
            for (int t = 0; t < ROWS; t++) part += energy(v.y.row[i + t]);
        }
        const float alpha = quotient(residual, sum(part));
        if (step + 1 == job.iterations) {
            // What is left needs no Hᴴ.
            for (int i = 0; i < g.rows; i++) v.x[i] = v.x[i] + alpha * v.p.row[i];
            return;
        }
        v.y.fill_halo();
        for (int i = 0; i < g.rows; i += ROWS) {
            product<ROWS, true>(adjoint, v.y, i, out);
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
    read_period(job, g, v, period);
    set_channel(job, g, s, v, period);
    job.bias[period] = set_preconditioner(job, g, s, v);
    if (g.tile == TILE) solve<TILE>(job, g, s, v);
    else solve<FINE_TILE>(job, g, s, v);
    write_period(job, g, v, period);
}

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
