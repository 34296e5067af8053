// Keeps the taps that stand out of the noise, MOST an antenna at most, and lists the delays that
// any antenna has one of. One block.

// The taps of one antenna: 0 for those that are not kept; `active` gets the delays of the others.
__device__ void select(Sample* taps, const float* tap_energy, const float* noise, unsigned* active,
                       int* histogram, float* noise_variance, long long* kept) {
    __shared__ int count;
    float sum = 0;
    for (int i = 0; i < WINDOW_BLOCKS; i++) sum += noise[i];
    const float sigma2 = sum / (float(WINDOW) * (N - DOPPLERS));
    unsigned value[VALUES];
    load_energies(tap_energy, value);
    if (threadIdx.x == 0) count = 0;
    const float least = sigma2 * (TAP_SIGMAS * TAP_SIGMAS / (PILOT_AMPLITUDE * PILOT_AMPLITUDE));
    const float threshold = kept_from(least, value, histogram);
    for (int i = 0; i < VALUES; i++) {
        int index = threadIdx.x + 1024 * i;
        if (index >= RANKED) break;
        float here = __uint_as_float(value[i]);
        if (here >= threshold && here > 0) {
            int a = index % WINDOW;
            atomicOr(&active[a / 32], 1u << a % 32);
            atomicAdd(&count, 1);
        } else {
            taps[index] = {0, 0};
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) *noise_variance = sigma2, *kept = count;
}

extern "C" __global__ void __launch_bounds__(1024)
select_taps(Sample* taps, const float* tap_energy, const float* noise, int* groups,
            float* noise_variance, long long* kept) {
    __shared__ int histogram[256];
    __shared__ unsigned active[WORDS];
    for (int i = threadIdx.x; i < WORDS; i += 1024) active[i] = 0;
    for (int i = 0; i < ANTENNAS; i++) {
        select(taps + i * DOPPLERS * WINDOW, tap_energy + i * DOPPLERS * WINDOW,
               noise + i * WINDOW_BLOCKS, active, histogram, noise_variance + i, kept + i);
    }
    if (threadIdx.x == 0) list_groups(active, groups);
}
