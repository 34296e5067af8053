// The Zak transform of the equalized samples, unbiased symbols, max-log LLRs (see qam.py), bits.
//
// One block a 32 data delays, one lane a delay; a warp takes four Dopplers at a time.

constexpr int WARPS = 8, COLUMNS = 4, LEVELS = 1 << AXIS_BITS;

// Amplitude of a level; its index is its bits, the first highest.
__device__ constexpr float amplitude(int index) {
    float level = 0;
    for (int position = AXIS_BITS - 1; position >= 0; position--) {
        int bit = index >> (AXIS_BITS - 1 - position) & 1;
        level = (bit ? -1 : 1) * (float(1 << (AXIS_BITS - 1 - position)) - level);
    }
    return level * LEVEL_SCALE;
}

struct alignas(AXIS_BITS == 2 ? 16 : 8) SymbolLlr {
    float of[2 * AXIS_BITS];
};

struct alignas(AXIS_BITS == 2 ? 4 : 2) SymbolBits {
    unsigned char of[2 * AXIS_BITS];
};

__device__ __forceinline__ void axis_llr(float value, float scale, float* llr) {
    float distance[LEVELS];
#pragma unroll
    for (int i = 0; i < LEVELS; i++) {
        distance[i] = (value - amplitude(i)) * (value - amplitude(i)) * scale;
    }
#pragma unroll
    for (int position = 0; position < AXIS_BITS; position++) {
        float best[2] = {__int_as_float(0x7f800000), __int_as_float(0x7f800000)};
#pragma unroll
        for (int i = 0; i < LEVELS; i++) {
            int bit = i >> (AXIS_BITS - 1 - position) & 1;
            best[bit] = fminf(best[bit], distance[i]);
        }
        llr[2 * position] = best[1] - best[0];
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
demap(const Sample* equalized, const Sample* moments, Sample* symbols, SymbolLlr* llr,
      SymbolBits* bits, float* mu_out, float* variance_out) {
    __shared__ Sample tile[N][32];
    __shared__ Sample roots[N];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int delay = blockIdx.x * 32 + lane;
    bool here = delay < M - GUARD;
    int k = delay < PILOT_DELAY - GUARD / 2 ? delay : delay + GUARD;
    for (int n = warp; n < N; n += WARPS) tile[n][lane] = here ? equalized[k + n * M] : Sample{0, 0};
    for (int i = threadIdx.x; i < N; i += 32 * WARPS) roots[i] = rsqrtf(float(N)) * root(-i, N);
    Sample moment = {0, 0};
    for (int n = lane; n < N; n += 32) moment = moment + moments[n];
    float mu = warp_sum(moment.re) / (float(N) * EIGENVALUES);
    float power = warp_sum(moment.im) / (float(N) * EIGENVALUES);
    float variance = power / (mu * mu) - 1;
    if (blockIdx.x == 0 && threadIdx.x == 0) *mu_out = mu, *variance_out = variance;
    __syncthreads();
    for (int first = warp * COLUMNS; first < N; first += WARPS * COLUMNS) {
        Sample sum[COLUMNS] = {};
        int turn[COLUMNS] = {};
        for (int n = 0; n < N; n++) {
            Sample x = tile[n][lane];
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) {
                add_product(sum[i], roots[turn[i]], x);
                turn[i] += min(first + i, N - 1);
                turn[i] -= turn[i] >= N ? N : 0;
            }
        }
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            if (!here || first + i >= N) continue;
            int at = delay * N + first + i;  // below 2N: columns beyond N are not kept
            Sample symbol = {sum[i].re / mu, sum[i].im / mu};
            SymbolLlr out;
            axis_llr(symbol.re, 1 / variance, out.of);
            axis_llr(symbol.im, 1 / variance, out.of + 1);
            SymbolBits decided;
#pragma unroll
            for (int bit = 0; bit < 2 * AXIS_BITS; bit++) decided.of[bit] = out.of[bit] < 0;
            symbols[at] = symbol;
            llr[at] = out;
            bits[at] = decided;
        }
    }
}
