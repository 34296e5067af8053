// LMMSE equalization by conjugate gradients in the time domain: one cluster a Doppler period.
//
// In time the channel is y[n] = sum_a c_a[n] x[n-a] with c_a[n] = sum_b h[a,b] e^{j2πb(n-a)/Q}: all
// Doppler taps of a delay are one slowly turning coefficient. The guard strip, silent in every
// period of M samples and longer than the channel, keeps the periods apart: (P HᴴH P + σ²I) x = P Hᴴ y
// is N systems that know nothing of each other, so nothing of the frame's size is ever waited for.
//
// A cluster's blocks own SPAN samples of a period each, and hold x, r in registers and p, Hp in
// shared memory. What the taps reach beyond a block is pushed into its neighbours' shared memory.
// An index j counts from the first sample that data reaches, FIRST_SAMPLE after the pilot.

constexpr int WARPS = THREADS / 32;
constexpr int SPAN = THREADS * EACH;
constexpr int BEHIND = LAST_TAP + GROUP - 1, AHEAD = -FIRST_TAP, HALO = BEHIND + AHEAD;
constexpr int FIRST_SAMPLE = GUARD / 2 + 1 + FIRST_TAP;
constexpr int LENGTH = M - FIRST_SAMPLE;
constexpr int DATA_FIRST = -FIRST_TAP, DATA_LAST = M - GUARD / 2 - FIRST_SAMPLE;
constexpr int SLOTS = MAX_GROUPS * GROUP;
constexpr int NODES = (SPAN + HALO) / NODE_STEP + 2;
constexpr int BINS = (EIGENVALUES + CLUSTER * THREADS - 1) / (CLUSTER * THREADS);

// p has BEHIND samples before the block's own and AHEAD after them; y = Hp has it the other way.
struct Shared {
    Sample p[SPAN + HALO];
    Sample y[SPAN + HALO];
    Sample halo[HALO];
    alignas(16) Sample node[NODES][SLOTS];
    Sample centre[SLOTS];
    float curvature[CLUSTER * WARPS], energy[CLUSTER * WARPS];
    int start[MAX_GROUPS];
};

// The sum over the cluster, the same bits in every thread; a cluster barrier.
__device__ float cluster_sum(float value, float* parts, int rank) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_sum(value);
    if (lane < CLUSTER) push(&parts[rank * WARPS + warp], lane, value);
    cluster_barrier();
    float sum = 0;
    for (int i = lane; i < CLUSTER * WARPS; i += 32) sum += parts[i];
    return warp_sum(sum);
}

// Sends the block's last `behind` samples to the next block's `below`, its first `ahead` ones to the
// previous block's `above`.
__device__ __forceinline__ void push_edges(Sample* below, Sample* above, int behind, int ahead,
                                           int rank, int first, const Sample (&own)[EACH]) {
    if (rank + 1 < CLUSTER && first + EACH > SPAN - behind) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int at = first + e - (SPAN - behind);
            if (at >= 0) push(below + at, rank + 1, own[e]);
        }
    }
    if (rank > 0 && first < ahead) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            if (first + e < ahead) push(above + first + e, rank - 1, own[e]);
        }
    }
}

// The GROUP coefficients of group g, linear between two nodes; x counts from the first node.
__device__ __forceinline__ void coefficients(const Shared& s, int g, unsigned x, int each_step,
                                             Sample (&c)[GROUP]) {
    unsigned node = x / NODE_STEP;
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
        if (NODE_STEP == 1) {
            c[i] = s.node[node + each_step * i][g * GROUP + i];
            continue;
        }
        Sample low = s.node[node][g * GROUP + i], high = s.node[node + 1][g * GROUP + i];
        float part = float(int(x % NODE_STEP) + each_step * i) * (1.0f / NODE_STEP);
        c[i] = low + part * (high - low);
    }
}

// (Hp)[j] for EACH samples from own index `first`. A coefficient is held over them: they are odd
// in number, and it is that of the one in their middle.
__device__ __forceinline__ void forward(const Shared& s, int groups, int first, Sample (&sum)[EACH]) {
#pragma unroll
    for (int e = 0; e < EACH; e++) sum[e] = {0, 0};
    for (int g = 0; g < groups; g++) {
        Sample c[GROUP], w[EACH + GROUP - 1];
        coefficients(s, g, AHEAD + first + EACH / 2, 0, c);
        const Sample* p = s.p + BEHIND + first - s.start[g] - (GROUP - 1);
#pragma unroll
        for (int i = 0; i < EACH + GROUP - 1; i++) w[i] = p[i];
#pragma unroll
        for (int i = 0; i < GROUP; i++)
#pragma unroll
            for (int e = 0; e < EACH; e++) add_product(sum[e], c[i], w[e + GROUP - 1 - i]);
    }
}

// (Hᴴy)[j], likewise.
__device__ __forceinline__ void adjoint(const Shared& s, int groups, int first, Sample (&sum)[EACH]) {
#pragma unroll
    for (int e = 0; e < EACH; e++) sum[e] = {0, 0};
    for (int g = 0; g < groups; g++) {
        Sample c[GROUP], w[EACH + GROUP - 1];
        int start = s.start[g];
        coefficients(s, g, AHEAD + first + EACH / 2 + start, 1, c);
        const Sample* y = s.y + AHEAD + first + start;
#pragma unroll
        for (int i = 0; i < EACH + GROUP - 1; i++) w[i] = y[i];
#pragma unroll
        for (int i = 0; i < GROUP; i++)
#pragma unroll
            for (int e = 0; e < EACH; e++) add_conjugate_product(sum[e], c[i], w[e + i]);
    }
}

// The coefficient of a slot at sample n of the frame.
__device__ Sample coefficient(const Sample* taps, int a, long long n) {
    Sample sum = {0, 0};
    if (a > LAST_TAP) return sum;
    Sample turn = root(-REACH * (n - a), Q), step = root(n - a, Q);
    for (int b = 0; b < DOPPLERS; b++) {
        add_product(sum, taps[b * WINDOW + a - FIRST_TAP], turn);
        Sample next = {0, 0};
        add_product(next, turn, step);
        turn = next;
    }
    return sum;
}

// |H(t,f)|² in the middle of the period's data, at this thread's frequencies (equalize.eigenvalues).
__device__ void eigenvalues(const Shared& s, int groups, int rank, float (&value)[BINS]) {
#pragma unroll
    for (int i = 0; i < BINS; i++) {
        int bin = (i * CLUSTER + rank) * THREADS + threadIdx.x;
        Sample sum = {0, 0}, step = root(-bin, EIGENVALUES);
        for (int g = 0; g < groups; g++) {
            Sample turn = root(-(long long)bin * s.start[g], EIGENVALUES);
            for (int k = 0; k < GROUP; k++) {
                add_product(sum, s.centre[g * GROUP + k], turn);
                Sample next = {0, 0};
                add_product(next, turn, step);
                turn = next;
            }
        }
        value[i] = energy(sum);
    }
}

// Received samples without the pilot's response, with halo, into s.y.
__device__ void load(Shared& s, const Sample* samples, int groups, int rank, int period) {
    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) {
        int j = rank * SPAN + i - AHEAD;
        int n = (PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q;
        s.y[i] = 0 <= j && j < LENGTH ? samples[n] : Sample{0, 0};
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < groups * GROUP; slot += THREADS) {
        int a = s.start[slot / GROUP] + slot % GROUP;
        // A negative delay is reached from the pilot of the next period.
        int j = (a < 0 ? M : 0) + a - FIRST_SAMPLE, sender = a < 0 ? period + 1 : period;
        int i = j - rank * SPAN + AHEAD;
        if (j < 0 || i < 0 || i >= SPAN + HALO) continue;
        Sample low = s.node[i / NODE_STEP][slot], high = s.node[i / NODE_STEP + 1][slot];
        Sample c = low + (float(i % NODE_STEP) / NODE_STEP) * (high - low), response = {0, 0};
        Sample pilot = (PILOT_AMPLITUDE * rsqrtf(float(N))) * root((long long)sender * PILOT_DOPPLER, N);
        add_product(response, c, pilot);
        s.y[i] = s.y[i] - response;
    }
    __syncthreads();
}

// `moments` [N]: sums over the frequencies of λc and (λ+σ²)λc² (equalize.bias).
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
equalize(const Sample* samples, const Sample* taps, const int* selected, const float* noise_variance,
         Sample* equalized, Sample* moments) {
    Shared& s = *reinterpret_cast<Shared*>(dynamic_shared());
    const int rank = blockIdx.x % CLUSTER, period = blockIdx.x / CLUSTER;
    const int first = threadIdx.x * EACH, groups = selected[0];
    const float sigma2 = *noise_variance;
    const long long origin = PILOT_DELAY + (long long)period * M;

    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) s.p[i] = {0, 0};
    for (int i = threadIdx.x; i < HALO; i += THREADS) s.halo[i] = {0, 0};
    for (int i = threadIdx.x; i < groups; i += THREADS) s.start[i] = selected[1 + i];
    __syncthreads();
    for (int i = threadIdx.x; i < (NODES + 1) * groups * GROUP; i += THREADS) {
        int slot = i % (groups * GROUP), node = i / (groups * GROUP);
        int a = s.start[slot / GROUP] + slot % GROUP;
        if (node == NODES) {
            s.centre[slot] = coefficient(taps, a, origin + M / 2);
        } else {
            int j = rank * SPAN - AHEAD + node * NODE_STEP;
            s.node[node][slot] = coefficient(taps, a, origin + FIRST_SAMPLE + j);
        }
    }
    cluster_barrier();
    load(s, samples, groups, rank, period);

    float eigenvalue[BINS], polynomial[BINS], steepest[BINS];
    eigenvalues(s, groups, rank, eigenvalue);
#pragma unroll
    for (int i = 0; i < BINS; i++) polynomial[i] = steepest[i] = 1;

    unsigned data = 0;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int j = rank * SPAN + first + e;
        data |= unsigned(DATA_FIRST <= j && j < DATA_LAST) << e;
    }

    Sample x[EACH], r[EACH], sum[EACH];
    adjoint(s, groups, first, sum);
    float part = 0;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        x[e] = {0, 0};
        r[e] = data >> e & 1 ? sum[e] : Sample{0, 0};
        part += energy(r[e]);
    }
    float beta = 0, residual = 0;
    for (int step = 0; step <= ITERATIONS; step++) {
        // Neighbours need r where their p has its halo; they add β times their own copy of p.
        push_edges(s.halo, s.halo + BEHIND, BEHIND, AHEAD, rank, first, r);
        float next = cluster_sum(part, s.energy, rank);
        if (step) {
            beta = next / fmaxf(residual, TINY);
#pragma unroll
            for (int i = 0; i < BINS; i++) steepest[i] = polynomial[i] + beta * steepest[i];
        }
        residual = next;
        if (step == ITERATIONS) break;
        Sample* p = s.p + BEHIND + first;
#pragma unroll
        for (int e = 0; e < EACH; e++) p[e] = r[e] + beta * p[e];
        for (int i = threadIdx.x; i < HALO; i += THREADS) {
            Sample* beyond = s.p + (i < BEHIND ? i : SPAN + i);
            *beyond = s.halo[i] + beta * *beyond;
        }
        __syncthreads();

        forward(s, groups, first, sum);
        part = 0;
        Sample* y = s.y + AHEAD + first;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            part += energy(sum[e]) + sigma2 * energy(p[e]);
            y[e] = sum[e];
        }
        push_edges(s.y, s.y + AHEAD + SPAN, AHEAD, BEHIND, rank, first, sum);
        float alpha = residual / fmaxf(cluster_sum(part, s.curvature, rank), TINY);

        adjoint(s, groups, first, sum);
        part = 0;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            x[e] = x[e] + alpha * p[e];
            Sample back = data >> e & 1 ? sum[e] : Sample{0, 0};
            r[e] = r[e] - alpha * (back + sigma2 * p[e]);
            part += energy(r[e]);
        }
#pragma unroll
        for (int i = 0; i < BINS; i++) {
            polynomial[i] -= alpha * (eigenvalue[i] + sigma2) * steepest[i];
        }
    }

    float first_moment = 0, second_moment = 0;
#pragma unroll
    for (int i = 0; i < BINS; i++) {
        if ((i * CLUSTER + rank) * THREADS + threadIdx.x >= EIGENVALUES) continue;
        // Out of bounds means beyond the spectrum (see equalize.bias); a NaN is out of bounds too.
        float left = fabsf(polynomial[i]) <= 1 ? polynomial[i] : 0;
        float damped = eigenvalue[i] + sigma2, c = (1 - left) / damped;
        first_moment += eigenvalue[i] * c;
        second_moment += damped * eigenvalue[i] * c * c;
    }
    first_moment = cluster_sum(first_moment, s.curvature, rank);
    second_moment = cluster_sum(second_moment, s.energy, rank);
    if (rank == 0 && threadIdx.x == 0) moments[period] = {first_moment, second_moment};

    // Through shared memory, so that a warp writes neighbouring samples.
#pragma unroll
    for (int e = 0; e < EACH; e++) s.p[BEHIND + first + e] = x[e];
    __syncthreads();
    for (int i = threadIdx.x; i < SPAN; i += THREADS) {
        int j = rank * SPAN + i;
        if (j < DATA_FIRST || j >= DATA_LAST) continue;
        equalized[(PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q] = s.p[BEHIND + i];
    }
}
