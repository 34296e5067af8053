// LMMSE equalization by conjugate gradients in the time domain: one cluster a Doppler period.
//
// In time the channel is y[n] = sum_a c_a[n] x[n-a] with c_a[n] = sum_b h[a,b] e^{j2πb(n-a)/Q}: all
// Doppler taps of a delay are one slowly turning coefficient. The guard strip, silent in every
// period of M samples and longer than the channel, keeps the periods apart: (P HᴴH P + σ²I) x = P Hᴴ y
// is N systems that know nothing of each other, so nothing of the frame's size is ever waited for.
//
// A cluster's blocks own SPAN samples of a period each, and hold x, p in registers and r, y = Hp in
// shared memory. What the taps reach beyond a block is sent into its neighbours' shared memory.
// An index j counts from the first sample that data reaches, FIRST_SAMPLE after the pilot.
//
// Hp is Hr plus β times the one before, so β is not needed until Hr is done, nor α until Hᴴy is:
// sums and edges travel through the cluster while all warps but those at a block's edges multiply.

constexpr int WARPS = THREADS / 32;
constexpr int SPAN = THREADS * EACH;
constexpr int BEHIND = LAST_TAP, AHEAD = -FIRST_TAP, HALO = BEHIND + AHEAD;
constexpr int FIRST_SAMPLE = GUARD / 2 + 1 + FIRST_TAP;
constexpr int LENGTH = M - FIRST_SAMPLE;
constexpr int DATA_FIRST = -FIRST_TAP, DATA_LAST = M - GUARD / 2 - FIRST_SAMPLE;
constexpr int NODES = (SPAN + HALO) / NODE_STEP + 2;
constexpr int BINS = (EIGENVALUES + CLUSTER * THREADS - 1) / (CLUSTER * THREADS);

// A coefficient at a node, and what it gains up to the next one.
struct alignas(16) Node {
    Sample value, slope;
};

// Up to GROUP neighbouring delays; their coefficients are those from `slot` on.
struct alignas(8) Group {
    int start, slot;
};

// r has BEHIND samples before the block's own and AHEAD after them; y = Hp has it the other way.
struct Shared {
    // An odd row: neighbouring nodes of a delay lie in different banks.
    Node node[NODES][MAX_DELAYS | 1];
    Sample r[SPAN + HALO];
    Sample y[SPAN + HALO];
    Sample centre[MAX_DELAYS];
    Group group[MAX_DELAYS + 1];
    int delay[MAX_DELAYS];
    float curvature[CLUSTER * WARPS], energy[CLUSTER * WARPS];
    float alpha[ITERATIONS], beta[ITERATIONS];
    Signal r_here, y_here;
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "Geometry.shared_bytes counts too little");

// An exchange: all that the cluster sends a block in one half of a step. It is over at the cluster's
// barrier or, with SIGNALS, when all bytes have come. What a block read of the one before, all of its
// warps have read before they send their part of the sum, and that is waited for before the next.
template <class Value>
__device__ __forceinline__ void send(Value* address, int rank, Value value, Signal* signal) {
    if (SIGNALS) push(address, rank, value, signal);
    else push(address, rank, value);
}

__device__ __forceinline__ void arrive(Signal* signal, int bytes) {
    if (!SIGNALS) cluster_arrive();
    else if (threadIdx.x == 0) expect(signal, bytes);
}

__device__ __forceinline__ void await(Signal* signal, int step) {
    if (SIGNALS) wait_for(signal, step & 1);
    else cluster_wait();
}

// Sends this warp's part of a sum to all of the cluster.
__device__ __forceinline__ void send_part(float value, float* parts, int rank, Signal* signal) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_sum(value);
    if (lane < CLUSTER) send(&parts[rank * WARPS + warp], lane, value, signal);
}

// Their sum once all have come, the same bits in every thread.
__device__ __forceinline__ float total(const float* parts) {
    float sum = 0;
    for (int i = threadIdx.x % 32; i < CLUSTER * WARPS; i += 32) sum += parts[i];
    return warp_sum(sum);
}

// Sends the block's last `behind` samples to the next block's `below`, its first `ahead` ones to the
// previous block's `above`.
__device__ __forceinline__ void send_edges(Sample* below, Sample* above, int behind, int ahead, int rank,
                                           int first, const Sample (&own)[EACH], Signal* signal) {
    if (rank + 1 < CLUSTER && first + EACH > SPAN - behind) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int at = first + e - (SPAN - behind);
            if (at >= 0) send(below + at, rank + 1, own[e], signal);
        }
    }
    if (rank > 0 && first < ahead) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            if (first + e < ahead) send(above + first + e, rank - 1, own[e], signal);
        }
    }
}

// Whether a sample of this warp, with `before` and `after` samples around it, reaches another block.
__device__ __forceinline__ bool reaches_out(int rank, int before, int after) {
    int first = threadIdx.x / 32 * 32 * EACH, last = first + 32 * EACH;
    return (rank > 0 && first < before) || (rank + 1 < CLUSTER && last + after > SPAN);
}

// Adds the products of a group of `length` <= COUNT delays; r is that of its first delay.
template <int COUNT>
__device__ __forceinline__ void add_forward(int length, const Sample* r, const Node* node, float part,
                                            Sample (&sum)[EACH]) {
    if constexpr (COUNT > 1) {
        if (length < COUNT) return add_forward<COUNT - 1>(length, r, node, part, sum);
    }
    Sample c[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) c[i] = node[i].value + part * node[i].slope;
#pragma unroll
    for (int at = 1 - COUNT; at < EACH; at++) {
        Sample w = r[at];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (0 <= at + i && at + i < EACH) add_product(sum[at + i], c[i], w);
        }
    }
}

// (Hr)[j] for EACH samples from own index `first`. A coefficient is held over them: they are odd
// in number, and it is that of the one in their middle.
__device__ __forceinline__ void forward(const Shared& s, int groups, int first, Sample (&sum)[EACH]) {
#pragma unroll
    for (int e = 0; e < EACH; e++) sum[e] = {0, 0};
    const unsigned x = AHEAD + first + EACH / 2;
    const Node* row = s.node[x / NODE_STEP];
    const float part = float(int(x % NODE_STEP)) * (1.0f / NODE_STEP);
    Group group = s.group[0];
    for (int g = 1; g <= groups; g++) {
        Group next = s.group[g];
        const Sample* r = s.r + BEHIND + first - group.start;
        add_forward<GROUP>(next.slot - group.slot, r, row + group.slot, part, sum);
        group = next;
    }
}

// As add_forward; x is where the coefficient of the first delay is taken, from the first node on.
template <int COUNT>
__device__ __forceinline__ void add_adjoint(int length, const Sample* y, const Node* column, unsigned x,
                                            Sample (&sum)[EACH]) {
    if constexpr (COUNT > 1) {
        if (length < COUNT) return add_adjoint<COUNT - 1>(length, y, column, x, sum);
    }
    constexpr int ROW = MAX_DELAYS | 1;
    const Node* node = column + x / NODE_STEP * ROW;
    const float part = float(int(x % NODE_STEP)) * (1.0f / NODE_STEP);
    Sample c[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        // Where every sample is a node, the next delay's coefficient is the next node's.
        const Node here = NODE_STEP == 1 ? node[i * (ROW + 1)] : node[i];
        c[i] = here.value + (NODE_STEP == 1 ? 0 : part + i * (1.0f / NODE_STEP)) * here.slope;
    }
#pragma unroll
    for (int at = 0; at < EACH + COUNT - 1; at++) {
        Sample w = y[at];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (0 <= at - i && at - i < EACH) add_conjugate_product(sum[at - i], c[i], w);
        }
    }
}

// (Hᴴy)[j], likewise.
__device__ __forceinline__ void adjoint(const Shared& s, int groups, int first, Sample (&sum)[EACH]) {
#pragma unroll
    for (int e = 0; e < EACH; e++) sum[e] = {0, 0};
    Group group = s.group[0];
    for (int g = 1; g <= groups; g++) {
        Group next = s.group[g];
        const int at = AHEAD + first + group.start;
        add_adjoint<GROUP>(next.slot - group.slot, s.y + at, s.node[0] + group.slot, at + EACH / 2, sum);
        group = next;
    }
}

// Nothing is sent where `silent` has a bit.
__device__ __forceinline__ void mask(Sample (&sum)[EACH], unsigned silent) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        if (silent >> e & 1) sum[e] = {0, 0};
    }
}

// c_a at sample n of the frame.
__device__ Sample coefficient(const Sample* taps, int a, long long n) {
    Sample sum = {0, 0};
    Sample turn = root(-REACH * (n - a), Q), step = root(n - a, Q);
    for (int b = 0; b < DOPPLERS; b++) {
        add_product(sum, taps[b * WINDOW + a - FIRST_TAP], turn);
        Sample next = {0, 0};
        add_product(next, turn, step);
        turn = next;
    }
    return sum;
}

// The groups and their delays' coefficients; returns how many groups there are.
__device__ int prepare(Shared& s, const Sample* taps, const int* selected, int rank, int period) {
    const int groups = selected[0];
    const long long origin = PILOT_DELAY + (long long)period * M;
    for (int i = threadIdx.x; i <= groups; i += THREADS) {
        Group group = {selected[1 + 2 * i], selected[2 + 2 * i]};
        s.group[i] = group;
        if (i == groups) break;
        int length = selected[4 + 2 * i] - group.slot;
        for (int k = 0; k < length; k++) s.delay[group.slot + k] = group.start + k;
    }
    __syncthreads();
    const int delays = s.group[groups].slot;
    for (int i = threadIdx.x; i < (NODES + 1) * delays; i += THREADS) {
        int slot = i % delays, node = i / delays, a = s.delay[slot];
        if (node == NODES) {
            s.centre[slot] = coefficient(taps, a, origin + M / 2);
        } else {
            int j = rank * SPAN - AHEAD + node * NODE_STEP;
            s.node[node][slot].value = coefficient(taps, a, origin + FIRST_SAMPLE + j);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < (NODES - 1) * delays; i += THREADS) {
        Node& here = s.node[i / delays][i % delays];
        here.slope = s.node[i / delays + 1][i % delays].value - here.value;
    }
    __syncthreads();
    return groups;
}

// Received samples without the pilot's response, with halo, into s.y.
__device__ void load(Shared& s, const Sample* samples, int groups, int rank, int period) {
#pragma unroll 8
    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) {
        int j = rank * SPAN + i - AHEAD;
        int n = (PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q;
        s.y[i] = 0 <= j && j < LENGTH ? samples[n] : Sample{0, 0};
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < s.group[groups].slot; slot += THREADS) {
        int a = s.delay[slot];
        // A negative delay is reached from the pilot of the next period.
        int j = (a < 0 ? M : 0) + a - FIRST_SAMPLE, sender = a < 0 ? period + 1 : period;
        int i = j - rank * SPAN + AHEAD;
        if (j < 0 || i < 0 || i >= SPAN + HALO) continue;
        Node node = s.node[i / NODE_STEP][slot];
        Sample c = node.value + (float(i % NODE_STEP) / NODE_STEP) * node.slope, response = {0, 0};
        Sample pilot = (PILOT_AMPLITUDE * rsqrtf(float(N))) * root((long long)sender * PILOT_DOPPLER, N);
        add_product(response, c, pilot);
        s.y[i] = s.y[i] - response;
    }
    __syncthreads();
}

// This thread's part of two sums over the frequencies, of λc and (λ+σ²)λc² (equalize.bias), where λ
// is |H(t,f)|² in the middle of the period's data and c the filter that the steps are.
__device__ Sample bias(const Shared& s, int groups, int rank, float sigma2) {
    Sample moments = {0, 0};
#pragma unroll
    for (int i = 0; i < BINS; i++) {
        int bin = (i * CLUSTER + rank) * THREADS + threadIdx.x;
        if (bin >= EIGENVALUES) break;
        Sample response = {0, 0}, step = root(-bin, EIGENVALUES);
        for (int g = 0; g < groups; g++) {
            Sample turn = root(-(long long)bin * s.group[g].start, EIGENVALUES);
            for (int slot = s.group[g].slot; slot < s.group[g + 1].slot; slot++) {
                add_product(response, s.centre[slot], turn);
                Sample next = {0, 0};
                add_product(next, turn, step);
                turn = next;
            }
        }
        float eigenvalue = energy(response), damped = eigenvalue + sigma2, left = 1, steepest = 1;
        for (int k = 0; k < ITERATIONS; k++) {
            steepest = left + s.beta[k] * steepest;
            left -= s.alpha[k] * damped * steepest;
        }
        // Out of bounds means beyond the spectrum (see equalize.bias); a NaN is out of bounds too.
        if (!(fabsf(left) <= 1)) left = 0;
        float c = (1 - left) / damped;
        moments.re += eigenvalue * c;
        moments.im += damped * eigenvalue * c * c;
    }
    return moments;
}

// `moments` [N]: the two sums of `bias`.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, RESIDENT)
equalize(const Sample* samples, const Sample* taps, const int* selected, const float* noise_variance,
         Sample* equalized, Sample* moments) {
    Shared& s = *reinterpret_cast<Shared*>(dynamic_shared());
    const int rank = blockIdx.x % CLUSTER, period = blockIdx.x / CLUSTER;
    const int first = threadIdx.x * EACH;
    const bool forward_waits = reaches_out(rank, BEHIND, AHEAD);
    const bool adjoint_waits = reaches_out(rank, AHEAD, BEHIND);
    const float sigma2 = *noise_variance;

    constexpr int PARTS = CLUSTER * WARPS * sizeof(float);
    const int r_bytes = PARTS + sizeof(Sample) * (rank > 0 ? BEHIND : 0)
                        + sizeof(Sample) * (rank + 1 < CLUSTER ? AHEAD : 0);
    const int y_bytes = PARTS + sizeof(Sample) * (rank > 0 ? AHEAD : 0)
                        + sizeof(Sample) * (rank + 1 < CLUSTER ? BEHIND : 0);

    if (SIGNALS && threadIdx.x == 0) init_signal(&s.r_here), init_signal(&s.y_here);
    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) s.r[i] = {0, 0};
    const int groups = prepare(s, taps, selected, rank, period);
    load(s, samples, groups, rank, period);
    // From here on the neighbours send into this block.
    cluster_barrier();

    unsigned silent = 0;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int j = rank * SPAN + first + e;
        silent |= unsigned(j < DATA_FIRST || DATA_LAST <= j) << e;
    }

    Sample x[EACH], p[EACH], sum[EACH];
    Sample* const r = s.r + BEHIND + first;
    Sample* const y = s.y + AHEAD + first;
    adjoint(s, groups, first, sum);
    if (silent) mask(sum, silent);
    float part = 0, residual = 0;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        x[e] = p[e] = {0, 0};
        r[e] = sum[e];
        part += energy(sum[e]);
    }
    for (int step = 0;; step++) {
        // `sum` is r here.
        send_edges(s.r, s.r + BEHIND + SPAN, BEHIND, AHEAD, rank, first, sum, &s.r_here);
        send_part(part, s.energy, rank, &s.r_here);
        arrive(&s.r_here, r_bytes);
        __syncthreads();
        if (forward_waits) await(&s.r_here, step);
        forward(s, groups, first, sum);
        if (!forward_waits) await(&s.r_here, step);
        const float next = total(s.energy);
        const float beta = step ? next / fmaxf(residual, TINY) : 0;
        residual = next;
        part = 0;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            p[e] = r[e] + beta * p[e];
            sum[e] = sum[e] + beta * y[e];
            y[e] = sum[e];
            part += energy(sum[e]) + sigma2 * energy(p[e]);
        }
        send_edges(s.y, s.y + AHEAD + SPAN, AHEAD, BEHIND, rank, first, sum, &s.y_here);
        send_part(part, s.curvature, rank, &s.y_here);
        arrive(&s.y_here, y_bytes);
        __syncthreads();
        const bool last = step + 1 == ITERATIONS;
        if (adjoint_waits || last) await(&s.y_here, step);
        if (!last) adjoint(s, groups, first, sum);
        if (!adjoint_waits && !last) await(&s.y_here, step);
        const float alpha = residual / fmaxf(total(s.curvature), TINY);
        if (threadIdx.x == 0) s.alpha[step] = alpha, s.beta[step] = beta;
#pragma unroll
        for (int e = 0; e < EACH; e++) x[e] = x[e] + alpha * p[e];
        if (last) break;
        if (silent) mask(sum, silent);
        part = 0;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            sum[e] = r[e] - alpha * (sum[e] + sigma2 * p[e]);
            r[e] = sum[e];
            part += energy(sum[e]);
        }
    }

    // Through shared memory, so that a warp writes neighbouring samples.
#pragma unroll
    for (int e = 0; e < EACH; e++) r[e] = x[e];
    __syncthreads();
    for (int i = threadIdx.x; i < SPAN; i += THREADS) {
        int j = rank * SPAN + i;
        if (j < DATA_FIRST || j >= DATA_LAST) continue;
        equalized[(PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q] = s.r[BEHIND + i];
    }
    Sample moment = bias(s, groups, rank, sigma2);
    // One after the other: `energy` was read before the last exchange, `curvature` after it.
    send_part(moment.re, s.energy, rank, &s.r_here);
    arrive(&s.r_here, PARTS);
    await(&s.r_here, ITERATIONS);
    send_part(moment.im, s.curvature, rank, &s.y_here);
    arrive(&s.y_here, PARTS);
    await(&s.y_here, ITERATIONS);
    moment = {total(s.energy), total(s.curvature)};
    if (rank == 0 && threadIdx.x == 0) moments[period] = moment;
}
