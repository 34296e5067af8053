// z = P Σ Wᵀ C⁻¹ W r over the blocks: a circulant matrix of its own for each, on what it holds and
// OVERLAP samples beyond.
//
// Within a block the channel hardly turns, so HᴴH + σ² is nearly the circulant matrix of |H(t,f)|² + σ²
// in the block's middle, but for the ends. W fades blocks into one another: of the 2 OVERLAP samples
// at an end its square is a ramp, and the neighbour's is the rest to 1. Matrices in between are hermitian
// and positive, so that conjugate gradients may use z.

// The square of W at sample `at`, counted from the block's first.
__device__ __forceinline__ float own_share(int at, int rank) {
    constexpr float slope = 0.5f / OVERLAP;
    float share = 1;
    if (rank > 0) share = fminf(share, slope * (float(at + OVERLAP) + 0.5f));
    if (rank + 1 < CLUSTER) share = fminf(share, slope * (float(SPAN + OVERLAP - at) - 0.5f));
    return share;
}

// Of a share of 0 to 1; both W and its transpose have it from here, so it need not be exact.
__device__ __forceinline__ float weight(float share) { return share * rsqrtf(fmaxf(share, TINY)); }

// The same number, of which the compiler knows nothing.
__device__ __forceinline__ int reckoned_anew(int number) {
    asm volatile("" : "+r"(number));
    return number;
}

// Roots of the DFT's passes.
__device__ void prepare_turns(Shared& s) {
    const int item = threadIdx.x;
    if (item >= ITEMS) return;
    s.turn.a[item] = root(-item, ORDER);
    if (item < STRIDE_B) s.turn.b[item] = root(-item, STRIDE_A);
}

// Sets s.factor, with what the DFTs there and back multiply by; leaves s.r empty. Returns this
// thread's part of the sum of λ/(λ+σ²) over the frequencies.
__device__ float prepare_factor(Shared& s, int delays, float sigma2) {
    const int item = threadIdx.x;
    const bool works = item < ITEMS;
    float eigenvalue[POINTS];
#pragma unroll
    for (int i = 0; i < POINTS; i++) eigenvalue[i] = 0;
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        for (int i = threadIdx.x; i < ORDER; i += THREADS) s.r[i] = {0, 0};
        __syncthreads();
        for (int i = threadIdx.x; i < delays; i += THREADS) {
            s.r[(s.delay[i] + ORDER) % ORDER] = s.centre[antenna][i];
        }
        __syncthreads();
        if (works) pass_a<POINTS>(s.r, s.turn, item);
        __syncthreads();
        if (works) pass_b(s.r, s.turn, item);
        __syncthreads();
        if (works) {
            Sample v[POINTS];
            pass_c(s.r, v, item);
#pragma unroll
            for (int i = 0; i < POINTS; i++) eigenvalue[i] += energy(v[i]);
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < ORDER; i += THREADS) s.r[i] = {0, 0};
    // The mean of λ is the energy of the coefficients.
    float sum = 0, mean = 0;
    for (int i = 0; i < ANTENNAS * delays; i++) mean += energy(s.centre[i / delays][i % delays]);
    const float damping = fmaxf(sigma2, LEAST_DAMPING * mean);
    if (works) {
#pragma unroll
        for (int i = 0; i < POINTS; i += 2) {
            const float a = eigenvalue[i], b = eigenvalue[i + 1];
            // The upper halves of floats are precise enough: whatever they are, both ways are alike.
            const unsigned low = __float_as_uint(1 / (ORDER * (a + damping)));
            const unsigned high = __float_as_uint(1 / (ORDER * (b + damping)));
            s.factor[i / 2][item] = low >> 16 | (high & 0xffff0000u);
            sum += a / (a + sigma2) + b / (b + sigma2);
        }
    }
    return sum;
}

// s.r becomes z, with the OVERLAP samples on either side; r is this thread's own.
__device__ __forceinline__ void precondition(Shared& s, const Overlap& overlap, const Sample (&r)[EACH],
                                             int first, bool owns, int rank, int step) {
    if (owns) {
        Sample* const own = s.r + OVERLAP + first;
        if (CLUSTER > 1 && (first < OVERLAP || first + EACH > SPAN - OVERLAP)) {
            Sample other[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                const float share = own_share(first + e, rank);
                own[e] = weight(share) * r[e];
                other[e] = weight(1 - share) * r[e];
            }
            overlap.send(first, other);
        } else {
#pragma unroll
            for (int e = 0; e < EACH; e++) own[e] = r[e];
        }
    }
    overlap.expect_samples();
    __syncthreads();
    overlap.receive_samples(step);
    // Addresses that are the same each step would take the registers of x and p.
    const int item = reckoned_anew(threadIdx.x);
    const bool works = item < ITEMS;
    Sample v[POINTS];
    if (works) pass_a<FILLED>(s.r, s.turn, item);
    __syncthreads();
    if (works) pass_b(s.r, s.turn, item);
    __syncthreads();
    if (works) {
        pass_c(s.r, v, item);
#pragma unroll
        for (int i = 0; i < POINTS; i += 2) {
            const unsigned both = s.factor[i / 2][item];
            v[i] = __uint_as_float(both << 16) * v[i];
            v[i + 1] = __uint_as_float(both & 0xffff0000u) * v[i + 1];
        }
        pass_c_back(s.r, v, item);
    }
    __syncthreads();
    if (works) pass_b_back(s.r, s.turn, item);
    __syncthreads();
    if (works) {
        pass_a_back(s.r, s.turn, item, v);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < FILLED; i++) {
            const int at = item + i * STRIDE_A - OVERLAP, j = rank * SPAN + at;
            // Whatever the thread is, no neighbour has a share of it.
            const bool inner = CLUSTER == 1 || (i * STRIDE_A >= 2 * OVERLAP && (i + 1) * STRIDE_A <= SPAN);
            if (j < DATA_FIRST || DATA_LAST <= j || at >= SPAN + OVERLAP) {
                v[i] = {0, 0};
            } else if (!inner) {
                v[i] = weight(own_share(at, rank)) * v[i];
            }
            s.r[at + OVERLAP] = v[i];
            if (!inner) overlap.send_product(at, v[i]);
        }
    }
    overlap.expect_products();
    if (CLUSTER == 1) return __syncthreads();
    __syncthreads();
    overlap.receive_products(step);
    for (int i = threadIdx.x; i < 2 * OVERLAP; i += THREADS) {
        if (rank > 0) s.r[i] = s.r[i] + s.inbox[0][i];
        if (rank + 1 < CLUSTER) s.r[SPAN + i] = s.r[SPAN + i] + s.inbox[1][i];
    }
    __syncthreads();
}
