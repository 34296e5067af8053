// A Doppler period as it lies in memory: its geometry, its vectors, and the channel's coefficients.
//
// An index j counts from the first sample that data reaches, `first_sample` after the pilot.
#pragma once

#include "zak/circulant.hpp"
#include "zak/strip.hpp"

namespace foundry::zak::FOUNDRY_LANES_NAMESPACE {

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

// What one period of an antenna's samples needs.
struct Antenna {
    Strip y;
    Node *h, *adjoint;  // [nodes, delays]
    Scalar* centre;     // [delays]: coefficients in the period's middle
};

// What one period needs.
struct Period {
    Strip p;
    Complex *x, *r, *z;
    Vector* factor;  // [rows]: 1 / L (Σ |H(t,f)|² + σ²), in the order of `forward`
    Antenna antenna[MOST_ANTENNAS];

    Period(Parts& parts, const Equalize& job, const Geometry& g) : p(parts, g.rows, g.behind, g.ahead) {
        const size_t delays = job.delay_count;
        x = parts.take<Complex>(g.rows);
        r = parts.take<Complex>(g.rows);
        z = parts.take<Complex>(g.rows);
        factor = parts.take<Vector>(g.rows);
        for (int i = 0; i < job.antennas; i++) {
            antenna[i].y = Strip(parts, g.rows, g.ahead, g.behind);
            antenna[i].h = parts.take<Node>(g.nodes * delays);
            antenna[i].adjoint = parts.take<Node>(g.nodes * delays);
            antenna[i].centre = parts.take<Scalar>(delays);
        }
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

// An antenna's coefficients: the nodes' of H and Hᴴ, those in the middle; the pilot's response is taken
// off y.
inline void set_channel(const Equalize& job, const Geometry& g, const Shared& s, const Antenna& v,
                        int antenna, int period) {
    const Link& link = job.link;
    const int reach = link.doppler_reach, b = dopplers(link), delays = job.delay_count;
    const float* taps = job.taps + 2 * int64_t(antenna) * b * link.window_delays;
    const float scale = job.scale[antenna];
    const float amplitude = link.pilot_amplitude / sqrtf(float(link.doppler_bins));
    for (int d = 0; d < delays; d++) {
        const int a = job.delays[d];
        // A negative delay is reached from the pilot of the next period.
        const int sender = a < 0 ? period + 1 : period;
        Scalar centre{}, at_pilot{};
        for (int k = 0; k < g.nodes; k++)
            v.h[k * delays + d].value = v.adjoint[k * delays + d].value = zero();
        for (int i = 0; i < b; i++) {
            const float* from = taps + 2 * (int64_t(i) * link.window_delays + a - link.first_tap);
            if (from[0] == 0 && from[1] == 0) continue;
            const Scalar tap{scale * from[0], scale * from[1]};
            const Scalar here = doppler_root(job, int64_t(i - reach) * period) * tap;
            const Scalar moved = s.advance[d * b + i] * here;
            for (int k = 0; k < g.nodes; k++) {
                Complex &h = v.h[k * delays + d].value, &adjoint = v.adjoint[k * delays + d].value;
                h = h + moved * s.turn[i * g.nodes + k];
                adjoint = adjoint + here * s.turn[i * g.nodes + k];
            }
            const Scalar middle = s.at_pilot[i] * (s.to_middle[i] * moved);
            centre = {centre.re + middle.re, centre.im + middle.im};
            const Scalar sent = doppler_root(job, int64_t(i - reach) * sender) * tap;
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

}  // namespace foundry::zak::FOUNDRY_LANES_NAMESPACE
