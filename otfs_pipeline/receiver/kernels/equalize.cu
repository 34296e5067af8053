// LMMSE equalization by conjugate gradients in the time domain: CLUSTER blocks a Doppler period.
//
// In time the channel is y[n] = sum_a c_a[n] x[n-a] with c_a[n] = sum_b h[a,b] e^{j2πb(n-a)/Q}: all
// Doppler taps of a delay are one slowly turning coefficient. The guard strip, silent in every
// period of M samples and longer than the channel, keeps the periods apart: (P HᴴH P + σ²I) x = P Hᴴ y
// is N systems that know nothing of each other, so nothing of the frame's size is ever waited for.
//
// A period's blocks own SPAN samples each, and hold x, p in registers and r, y = Hp in shared memory.
// What the taps reach beyond a block is sent to its neighbours: in a cluster into their shared memory,
// elsewhere through a mailbox.
// An index j counts from the first sample that data reaches, FIRST_SAMPLE after the pilot.
//
// A frame with a prefix is solved as the first half of one twice as long, whose other half is empty: of its periods,
// counted from pilot to pilot, data is in -1 to N-2 (link/prefix.py).
//
// Of several antennas HᴴH and Hᴴy are sums over them, each scaled to the same noise variance
// (maximum-ratio combining): y is there once for each, all else once.
//
// Hp is Hr plus β times the one before, so β is not needed until Hr is done, nor α until Hᴴy is:
// sums and edges travel while all warps but those at a block's edges multiply.

constexpr int BINS = (EIGENVALUES + CLUSTER * THREADS - 1) / (CLUSTER * THREADS);

// This thread's part of two sums over the frequencies, of λc and (λ+σ²)λc² (equalize.bias), where λ
// is Σ |H(t,f)|² over the antennas, in the middle of the period's data, and c the filter that the steps
// are.
__device__ Sample bias(const Shared& s, int groups, int rank, float sigma2) {
    Sample moments = {0, 0};
#pragma unroll
    for (int i = 0; i < BINS; i++) {
        int bin = (i * CLUSTER + rank) * THREADS + threadIdx.x;
        if (bin >= EIGENVALUES) break;
        Sample step = root(-bin, EIGENVALUES);
        float eigenvalue = 0;
        for (int antenna = 0; antenna < ANTENNAS; antenna++) {
            Sample response = {0, 0};
            for (int g = 0; g < groups; g++) {
                Sample turn = root(-(long long)bin * s.group[g].start, EIGENVALUES);
                for (int slot = s.group[g].slot; slot < s.group[g + 1].slot; slot++) {
                    add_product(response, s.centre[antenna][slot], turn);
                    Sample next = {0, 0};
                    add_product(next, turn, step);
                    turn = next;
                }
            }
            eigenvalue = ANTENNAS == 1 ? energy(response) : eigenvalue + energy(response);
        }
        float damped = eigenvalue + sigma2, left = 1, steepest = 1;
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
extern "C" __global__ void PLACED __launch_bounds__(THREADS, RESIDENT)
equalize(const Sample* samples, const Sample* taps, const int* selected, const float* noise_variance,
         Sample* equalized, Sample* moments, Slot* mailbox) {
    Shared& s = *reinterpret_cast<Shared*>(dynamic_shared());
    const Place at = place(s, mailbox);
    const int rank = at.rank, period = FIRST_PERIOD + at.period;
    const int first = threadIdx.x * EACH;
    auto of_r = exchange_r(s, mailbox, at);
    auto of_y = exchange_y(s, mailbox, at);
    const bool forward_waits = of_r.waits(), adjoint_waits = of_y.waits();
    float scale[ANTENNAS];
    const float sigma2 = whiten(noise_variance, scale);

    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) s.r[i] = {0, 0};
    const int groups = prepare(s, taps, selected, scale, rank, period, M / 2);
#pragma unroll
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        load(s, samples, antenna, scale[antenna], groups, rank, period);
    }
    begin_exchanges();

    const unsigned silent = silent_samples(rank, first);
    Sample x[EACH], p[EACH], sum[EACH];
    Sample* const r = s.r + OWN + first;
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
        of_r.send_edges(0, first, sum, step);
        of_r.send_part(part, step);
        __syncthreads();
        if (forward_waits) of_r.receive(step);
        forward(s, 0, groups, first, sum);
        const float next = of_r.total(step);
        const float beta = step ? next / fmaxf(residual, TINY) : 0;
        residual = next;
        part = advance(s, of_y, groups, first, r, beta, sigma2, step, p, sum);
        of_y.send_part(part, step);
        __syncthreads();
        const bool last = step + 1 == ITERATIONS;
        if (adjoint_waits && !last) of_y.receive(step);
        if (!last) adjoint(s, groups, first, sum);
        const float alpha = residual / fmaxf(of_y.total(step), TINY);
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

#pragma unroll
    for (int e = 0; e < EACH; e++) r[e] = x[e];
    __syncthreads();
    write_equalized(s, rank, period, equalized);
    Sample moment = bias(s, groups, rank, sigma2);
    // One after the other: all had read the last step's sum of `of_r` before they sent a part of that
    // of `of_y`, which others may still read.
    of_r.send_part(moment.re, ITERATIONS, false);
    __syncthreads();
    moment.re = of_r.total(ITERATIONS);
    of_y.send_part(moment.im, ITERATIONS, false);
    __syncthreads();
    moment.im = of_y.total(ITERATIONS);
    if (rank == 0 && threadIdx.x == 0) moments[at.period] = moment;
}
