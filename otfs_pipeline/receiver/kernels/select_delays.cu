// Keeps the delays of frames with a prefix that stand out of the noise, weights their sequences and writes them
// as Dopplers half a bin apart (link/prefix.py); lists the delays that any antenna has. One block. What smoothing
// has left of a delay's noise is `left` (smooth.cu), 1 without.

// The taps of one antenna: 0 for the delays that are not kept; `active` gets the others.
__device__ void select(const Sample* sequences, const float* noise, const Sample* mixing, const float* share,
                       const float* left, float* delay_energy, Sample* taps, unsigned* active, int* histogram,
                       float* noise_variance, long long* kept) {
    __shared__ unsigned own[WORDS];
    __shared__ int count;
    float sum = 0;
    for (int i = 0; i < WINDOW_BLOCKS; i++) sum += noise[i];
    const float sigma2 = sum / (float(WINDOW) * (N - NOISE_ROW));
    for (int a = threadIdx.x; a < WINDOW; a += 1024) {
        float here = 0;
        for (int row = 0; row < SEQUENCES; row++) here += energy(sequences[row * WINDOW + a]);
        delay_energy[a] = here >= sigma2 * left[a] * LEAST_ENERGY ? here : 0;
    }
    unsigned value[VALUES];
    load_energies(delay_energy, value);
    for (int i = threadIdx.x; i < WORDS; i += 1024) own[i] = 0;
    if (threadIdx.x == 0) count = 0;
    const float threshold = kept_from(TINY, value, histogram);
    for (int i = 0; i < VALUES; i++) {
        int a = threadIdx.x + 1024 * i;
        float here = __uint_as_float(value[i]);
        if (a >= WINDOW || !(here >= threshold && here > SEQUENCES * sigma2 * left[a])) continue;
        atomicOr(&own[a / 32], 1u << a % 32);
        atomicOr(&active[a / 32], 1u << a % 32);
        atomicAdd(&count, 1);
    }
    __syncthreads();
    for (int index = threadIdx.x; index < DOPPLERS * WINDOW; index += 1024) {
        const int b = index / WINDOW, a = index % WINDOW;
        Sample tap = {0, 0};
        if (own[a / 32] >> a % 32 & 1) {
            const float rest = sigma2 * left[a], power = delay_energy[a] - SEQUENCES * rest;
            for (int row = 0; row < SEQUENCES; row++) {
                const float signal = power * share[row], weight = signal / fmaxf(signal + rest, TINY);
                add_product(tap, mixing[b * SEQUENCES + row], weight * sequences[row * WINDOW + a]);
            }
        }
        taps[index] = tap;
    }
    if (threadIdx.x == 0) *noise_variance = sigma2, *kept = count * DOPPLERS;
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(1024)
select_taps(const Sample* sequences, const float* noise, const Sample* mixing, const float* share,
            const float* left, float* delay_energy, Sample* taps, int* groups, float* noise_variance,
            long long* kept) {
    __shared__ int histogram[256];
    __shared__ unsigned active[WORDS];
    for (int i = threadIdx.x; i < WORDS; i += 1024) active[i] = 0;
    __syncthreads();
    for (int i = 0; i < ANTENNAS; i++) {
        select(sequences + i * SEQUENCES * WINDOW, noise + i * WINDOW_BLOCKS, mixing, share, left,
               delay_energy + i * WINDOW, taps + i * DOPPLERS * WINDOW, active, histogram, noise_variance + i,
               kept + i);
    }
    if (threadIdx.x == 0) list_groups(active, groups);
}
