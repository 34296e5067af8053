// Keeps the taps that stand out of the noise, MAX_TAPS an antenna at most, and lists the delays that
// any antenna has one of in groups of up to GROUP neighbours. One block.

constexpr int VALUES = (DOPPLERS * WINDOW + 1023) / 1024;

// The bits of the MAX_TAPS-th largest energy, a byte a pass; floats that are not negative are
// ordered as their bits.
__device__ unsigned largest(const unsigned (&value)[VALUES], int* histogram) {
    __shared__ unsigned prefix;
    __shared__ int rank;
    if (threadIdx.x == 0) prefix = 0, rank = MAX_TAPS;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
        __syncthreads();
        unsigned above = shift == 24 ? 0 : ~0u << (shift + 8);
        for (int i = 0; i < VALUES; i++) {
            int index = threadIdx.x + 1024 * i;
            if (index < DOPPLERS * WINDOW && (value[i] & above) == prefix) {
                atomicAdd(&histogram[value[i] >> shift & 255], 1);
            }
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            // A lane sums 8 bins, highest first, then finds the one that holds the rank.
            int count[8], sum = 0;
            for (int i = 0; i < 8; i++) sum += count[i] = histogram[255 - 8 * threadIdx.x - i];
            int before = sum;
            for (int offset = 1; offset < 32; offset *= 2) {
                int other = __shfl_up_sync(~0u, before, offset);
                if (threadIdx.x >= offset) before += other;
            }
            before -= sum;
            int wanted = rank;
            unsigned known = prefix;
            __syncwarp();
            for (int i = 0; i < 8; i++) {
                if (before < wanted && wanted <= before + count[i]) {
                    prefix = known | unsigned(255 - 8 * threadIdx.x - i) << shift;
                    rank = wanted - before;
                }
                before += count[i];
            }
        }
        __syncthreads();
    }
    return prefix;
}

// The taps of one antenna: 0 for those that are not kept; `active` gets the delays of the others.
__device__ void select(Sample* taps, const float* tap_energy, const float* noise, unsigned* active,
                       int* histogram, float* noise_variance, long long* kept) {
    __shared__ int count, candidates;
    float sum = 0;
    for (int i = 0; i < (WINDOW + 31) / 32; i++) sum += noise[i];
    float sigma2 = sum / (float(WINDOW) * (N - DOPPLERS));
    float threshold = sigma2 * (TAP_SIGMAS * TAP_SIGMAS / (PILOT_AMPLITUDE * PILOT_AMPLITUDE));
    unsigned value[VALUES];
    float loud = 0;
    for (int i = 0; i < VALUES; i++) {
        int index = threadIdx.x + 1024 * i;
        value[i] = index < DOPPLERS * WINDOW ? __float_as_uint(tap_energy[index]) : 0;
        loud += __uint_as_float(value[i]) >= threshold;
    }
    if (threadIdx.x == 0) count = candidates = 0;
    __syncthreads();
    loud = warp_sum(loud);
    if (threadIdx.x % 32 == 0) atomicAdd(&candidates, int(loud));
    __syncthreads();
    if (candidates > MAX_TAPS) {
        threshold = fmaxf(threshold, __uint_as_float(largest(value, histogram)));
    }
    for (int i = 0; i < VALUES; i++) {
        int index = threadIdx.x + 1024 * i;
        if (index >= DOPPLERS * WINDOW) break;
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
    __shared__ unsigned active[(WINDOW + 31) / 32 + 1];
    for (int i = threadIdx.x; i <= (WINDOW + 31) / 32; i += 1024) active[i] = 0;
    for (int i = 0; i < ANTENNAS; i++) {
        select(taps + i * DOPPLERS * WINDOW, tap_energy + i * DOPPLERS * WINDOW,
               noise + i * WINDOW_BLOCKS, active, histogram, noise_variance + i, kept + i);
    }
    if (threadIdx.x == 0) {
        int found = 0, delays = 0;
        for (int a = 0; a < WINDOW && delays < MAX_DELAYS;) {
            // GROUP delays from a on lie within two words.
            unsigned long long both = (unsigned long long)active[a / 32 + 1] << 32 | active[a / 32];
            unsigned rest = unsigned(both >> a % 32);
            if (rest & 1) {
                int length = min(min(__ffs(~rest | 1u << 31) - 1, GROUP), MAX_DELAYS - delays);
                groups[1 + 2 * found] = a + FIRST_TAP;
                groups[2 + 2 * found++] = delays;
                delays += length;
                a += length;
            } else {
                a += rest ? __ffs(rest) - 1 : 32;
            }
        }
        groups[2 + 2 * found] = delays;
        groups[0] = found;
    }
}
