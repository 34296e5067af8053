// The Zak transform of the equalized samples, unbiased symbols, max-log LLRs (see qam.py), bits.
//
// One block a 32 data delays. One lane a delay in the transform: a warp takes the Dopplers l, l + N/4,
// l + N/2, l + 3N/4 together, which differ only in how they add up the sums over n mod 4. Then one
// lane a symbol, in the order of the results, so that a warp writes neighbours.

constexpr int WARPS = 8, LEVELS = 1 << AXIS_BITS;
constexpr int RADIX = N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1;
constexpr int COLUMNS = (N / RADIX + WARPS - 1) / WARPS;

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

// The RADIX-point transform, in place.
__device__ __forceinline__ void transform(Sample (&x)[RADIX]) {
    if constexpr (RADIX == 2) {
        Sample even = x[0] + x[1], odd = x[0] - x[1];
        x[0] = even, x[1] = odd;
    }
    if constexpr (RADIX == 4) {
        Sample even = x[0] + x[2], odd = x[0] - x[2];
        Sample sum = x[1] + x[3], difference = x[1] - x[3];
        Sample turned = {difference.im, -difference.re};
        x[0] = even + sum, x[1] = odd + turned, x[2] = even - sum, x[3] = odd - turned;
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
demap(const Sample* equalized, const Sample* moments, Sample* symbols, SymbolLlr* llr,
      SymbolBits* bits, float* mu_out, float* variance_out) {
    // Samples [N][32], then symbols [32][ROW]; an odd row, so that lanes do not meet in a bank.
    constexpr int ROW = N | 1;
    __shared__ Sample tile[32 * ROW];
    __shared__ Sample roots[N];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = blockIdx.x * 32, delay = first + lane;
    const bool here = delay < M - GUARD;
    const int k = delay < PILOT_DELAY - GUARD / 2 ? delay : delay + GUARD;
#pragma unroll 4
    for (int n = warp; n < N; n += WARPS) {
        tile[n * 32 + lane] = here ? equalized[k + n * M] : Sample{0, 0};
    }
    Sample moment = {0, 0};
    for (int n = lane; n < N; n += 32) moment = moment + moments[n];
    for (int i = threadIdx.x; i < N; i += 32 * WARPS) roots[i] = rsqrtf(float(N)) * root(-i, N);
    const float mu = warp_sum(moment.re) / (float(N) * EIGENVALUES);
    const float power = warp_sum(moment.im) / (float(N) * EIGENVALUES);
    const float variance = power / (mu * mu) - 1;
    if (blockIdx.x == 0 && threadIdx.x == 0) *mu_out = mu;
    const float unbiased = 1 / mu, scale = 1 / variance;
    __syncthreads();
    Sample sum[COLUMNS][RADIX] = {};
    unsigned turn[COLUMNS] = {};
    for (int n = 0; n < N; n += RADIX) {
#pragma unroll
        for (int i = 0; i < RADIX; i++) {
            Sample x = tile[(n + i) * 32 + lane];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                add_product(sum[c][i], roots[turn[c]], x);
                turn[c] = (turn[c] + warp + c * WARPS) % N;
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const int l = warp + c * WARPS;
        if (l >= N / RADIX) break;
        transform(sum[c]);
#pragma unroll
        for (int i = 0; i < RADIX; i++) tile[lane * ROW + l + i * (N / RADIX)] = unbiased * sum[c][i];
    }
    __syncthreads();
    const int count = min(32, M - GUARD - first) * N;
    for (int i = threadIdx.x; i < count; i += 32 * WARPS) {
        Sample symbol = tile[i / N * ROW + i % N];
        SymbolLlr out;
        axis_llr(symbol.re, scale, out.of);
        axis_llr(symbol.im, scale, out.of + 1);
        SymbolBits decided;
#pragma unroll
        for (int bit = 0; bit < 2 * AXIS_BITS; bit++) decided.of[bit] = out.of[bit] < 0;
        const int at = first * N + i;
        // Every symbol sums over all periods, so one shows whether all are finite: NaN unless it is.
        if (at == 0) *variance_out = variance + 0 * symbol.re;
        symbols[at] = symbol;
        llr[at] = out;
        bits[at] = decided;
    }
}
