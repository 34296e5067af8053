// Samples as they would be had the frame a point pilot in place of a spread one: the channel's response to
// their difference is taken off.
//
// One block a 32 delays of an antenna, one lane a delay.

constexpr int WARPS = 8, TILES = (M + 31) / 32, STRIP = PILOT_DELAY - GUARD / 2;

extern "C" __global__ void __launch_bounds__(32 * WARPS)
exchange_pilot(const Sample* samples, const Sample* taps, const int* groups, Sample* with_point) {
    // Along the strip; by Doppler and delay.
    __shared__ Sample difference[GUARD];
    __shared__ Sample response[DOPPLERS][32];
    __shared__ Sample roots[N];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int antenna = blockIdx.x / TILES, first = blockIdx.x % TILES * 32, k = first + lane;
    const bool reached = first + 31 >= STRIP + FIRST_TAP && first < STRIP + GUARD + LAST_TAP;
    samples += antenna * Q, with_point += antenna * Q, taps += antenna * DOPPLERS * WINDOW;
    if (reached) {
        for (int i = threadIdx.x; i < GUARD; i += 32 * WARPS) {
            difference[i] = STRIP_AMPLITUDE * chirp(i);
            if (i == GUARD / 2) difference[i].re -= PILOT_AMPLITUDE;
        }
        for (int i = threadIdx.x; i < N; i += 32 * WARPS) roots[i] = rsqrtf(float(N)) * root(i, N);
        __syncthreads();
        for (int row = warp; row < DOPPLERS; row += WARPS) {
            const long long b = row - REACH;
            Sample sum = {0, 0};
            for (int g = 0; g < groups[0]; g++) {
                const int start = groups[1 + 2 * g], length = groups[4 + 2 * g] - groups[2 + 2 * g];
                for (int a = start; a < start + length; a++) {
                    const int at = k - a - STRIP;
                    if (at < 0 || at >= GUARD) continue;
                    Sample tap = {0, 0};
                    add_product(tap, taps[row * WINDOW + a - FIRST_TAP], root(b * (k - a), Q));
                    add_product(sum, tap, difference[at]);
                }
            }
            response[row][lane] = sum;
        }
        __syncthreads();
    }
    if (k >= M) return;
    for (int n = warp; n < N; n += WARPS) {
        Sample sample = samples[k + n * M];
        for (int row = 0; reached && row < DOPPLERS; row++) {
            const int turn = n * (PILOT_DOPPLER + row - REACH + N) % N;
            Sample gone = {0, 0};
            add_product(gone, roots[turn], response[row][lane]);
            sample = sample - gone;
        }
        with_point[k + n * M] = sample;
    }
}
