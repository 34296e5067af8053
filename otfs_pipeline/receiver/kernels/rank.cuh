// Which of RANKED energies are kept, MOST at most; a block of 1024 threads has VALUES each.

constexpr int VALUES = (RANKED + 1023) / 1024;

// The bits of the MOST-th largest energy, a byte a pass; floats that are not negative are
// ordered as their bits.
__device__ unsigned largest(const unsigned (&value)[VALUES], int* histogram) {
    __shared__ unsigned prefix;
    __shared__ int rank;
    if (threadIdx.x == 0) prefix = 0, rank = MOST;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
        __syncthreads();
        unsigned above = shift == 24 ? 0 : ~0u << (shift + 8);
        for (int i = 0; i < VALUES; i++) {
            int index = threadIdx.x + 1024 * i;
            if (index < RANKED && (value[i] & above) == prefix) {
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

// This thread's energies, as bits: entries threadIdx.x + 1024 i.
__device__ void load_energies(const float* energy, unsigned (&value)[VALUES]) {
    for (int i = 0; i < VALUES; i++) {
        int index = threadIdx.x + 1024 * i;
        value[i] = index < RANKED ? __float_as_uint(energy[index]) : 0;
    }
}

// The energy from which on one is kept: `threshold`, or a larger one where too many reach it.
__device__ float kept_from(float threshold, const unsigned (&value)[VALUES], int* histogram) {
    __shared__ int candidates;
    float loud = 0;
    for (int i = 0; i < VALUES; i++) loud += __uint_as_float(value[i]) >= threshold;
    if (threadIdx.x == 0) candidates = 0;
    __syncthreads();
    loud = warp_sum(loud);
    if (threadIdx.x % 32 == 0) atomicAdd(&candidates, int(loud));
    __syncthreads();
    return candidates > MOST ? fmaxf(threshold, __uint_as_float(largest(value, histogram))) : threshold;
}
