// The equalizer of equalize.cu with a preconditioner (precondition.cuh), for blocks in clusters: a sixth
// of the iterations find as much.
//
// z, what the preconditioner makes of the residual, takes r's place in shared memory and comes with the
// samples that the taps reach beyond the block; the residual itself is in registers. Few iterations leave
// so little of it that x̂ counts as LMMSE's, of bias E[λ/(λ+σ²)] over λ = Σ |H(t,f)|² of the antennas, in
// the middle of each block. Threads beyond a block's samples take part in the DFTs alone.

// `moments` [N]: twice the sum over EIGENVALUES bins of λ/(λ+σ²), as equalize.cu has its two.
extern "C" __global__ void PLACED __launch_bounds__(THREADS, RESIDENT)
equalize(const Sample* samples, const Sample* taps, const int* selected, const float* noise_variance,
         Sample* equalized, Sample* moments, Slot* mailbox) {
    Shared& s = *reinterpret_cast<Shared*>(dynamic_shared());
    const Place at = place(s, mailbox);
    const int rank = at.rank, period = FIRST_PERIOD + at.period;
    const int first = threadIdx.x * EACH;
    const bool owns = THREADS * EACH == SPAN || first < SPAN;
    const Overlap overlap{s, rank};
    if (threadIdx.x == 0) overlap.init();
    Exchange<0, 0, 1> of_z{s.r, s.energy, &s.waiting.r_here, rank};
    auto of_y = exchange_y(s, mailbox, at);
    const bool adjoint_waits = of_y.waits();
    float scale[ANTENNAS];
    const float sigma2 = whiten(noise_variance, scale);

    const int centre = FIRST_SAMPLE + min(rank * SPAN + SPAN / 2, LENGTH - 1);
    const int groups = prepare(s, taps, selected, scale, rank, period, centre);
#pragma unroll
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        load(s, samples, antenna, scale[antenna], groups, rank, period);
    }
    prepare_turns(s);
    const float mean = prepare_factor(s, s.group[groups].slot, sigma2) / (CLUSTER * ORDER);
    begin_exchanges();

    const unsigned silent = silent_samples(rank, first);
    Sample x[EACH], p[EACH], r[EACH], sum[EACH];
    Sample* const z = s.r + OWN + first;
    if (owns) adjoint(s, groups, first, sum);
    if (silent) mask(sum, silent);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        x[e] = p[e] = {0, 0};
        r[e] = sum[e];
    }
    float residual = 0;
    for (int step = 0;; step++) {
        precondition(s, overlap, r, first, owns, rank, step);
        float part = 0;
        if (owns) {
#pragma unroll
            for (int e = 0; e < EACH; e++) part += r[e].re * z[e].re + r[e].im * z[e].im;
        }
        of_z.send_part(part, step, false);
        if (owns) forward(s, 0, groups, first, sum);
        const float next = of_z.total(step);
        const float beta = step ? next / fmaxf(residual, TINY) : 0;
        residual = next;
        part = owns ? advance(s, of_y, groups, first, z, beta, sigma2, step, p, sum) : 0;
        of_y.send_part(part, step);
        __syncthreads();
        const bool last = step + 1 == ITERATIONS;
        if (adjoint_waits && !last) of_y.receive(step);
        if (owns && !last) adjoint(s, groups, first, sum);
        const float alpha = residual / fmaxf(of_y.total(step), TINY);
#pragma unroll
        for (int e = 0; e < EACH; e++) x[e] = x[e] + alpha * p[e];
        if (last) break;
        if (silent) mask(sum, silent);
#pragma unroll
        for (int e = 0; e < EACH; e++) r[e] = r[e] - alpha * (sum[e] + sigma2 * p[e]);
    }

    if (owns) {
#pragma unroll
        for (int e = 0; e < EACH; e++) z[e] = x[e];
    }
    of_z.send_part(mean, ITERATIONS, false);
    __syncthreads();
    write_equalized(s, rank, period, equalized);
    const float moment = EIGENVALUES * of_z.total(ITERATIONS);
    if (rank == 0 && threadIdx.x == 0) moments[at.period] = {moment, moment};
}
