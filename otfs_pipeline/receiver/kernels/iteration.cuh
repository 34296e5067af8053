// What an iteration of conjugate gradients does with and without a preconditioner.

// A bit for each of this thread's samples at which nothing is sent.
__device__ __forceinline__ unsigned silent_samples(int rank, int first) {
    unsigned silent = 0;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int j = rank * SPAN + first + e;
        silent |= unsigned(j < DATA_FIRST || DATA_LAST <= j) << e;
    }
    return silent;
}

// p = v + βp and y = Hv + βy at every antenna, whose edges are sent; `sum` is Hv at the first one, and y then.
// Returns this thread's part of |Hp|² + σ²|p|².
template <class Edges>
__device__ __forceinline__ float advance(Shared& s, Edges& of_y, int groups, int first, const Sample* v, float beta,
                                         float sigma2, int step, Sample (&p)[EACH], Sample (&sum)[EACH]) {
    Sample* const y = s.y[0] + AHEAD + first;
    float part = 0;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        p[e] = v[e] + beta * p[e];
        sum[e] = sum[e] + beta * y[e];
        y[e] = sum[e];
        part += energy(sum[e]) + sigma2 * energy(p[e]);
    }
    of_y.send_edges(0, first, sum, step);
    // Of the antennas, the first one's products alone have a wait to hide.
    for (int antenna = 1; antenna < ANTENNAS; antenna++) {
        Sample* const other = s.y[antenna];
        forward(s, antenna, groups, first, sum);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            sum[e] = sum[e] + beta * other[AHEAD + first + e];
            other[AHEAD + first + e] = sum[e];
            part += energy(sum[e]);
        }
        of_y.send_edges(antenna, first, sum, step);
    }
    return part;
}

// x̂, which is in s.r: through shared memory, so that a warp writes neighbouring samples.
__device__ __forceinline__ void write_equalized(const Shared& s, int rank, int period, Sample* equalized) {
    for (int i = threadIdx.x; i < SPAN; i += THREADS) {
        int j = rank * SPAN + i;
        if (j < DATA_FIRST || j >= DATA_LAST) continue;
        equalized[(PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q] = s.r[OWN + i];
    }
}
