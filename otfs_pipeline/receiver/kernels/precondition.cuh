// z = P Σ Wᵀ C⁻¹ W r over the blocks: a circulant matrix of its own for each, on what it holds and
// OVERLAP samples beyond.
//
// Within a block the channel hardly turns, so HᴴH + σ² is nearly the circulant matrix of |H(t,f)|² + σ²
// in the block's middle, but for the ends. W fades blocks into one another: of the 2 OVERLAP samples
// at an end its square is a ramp, and the neighbour's is the rest to 1. Matrices in between are hermitian
// and positive, so that conjugate gradients may use z.

// W² about a sample: at either edge a line that the neighbour's is the rest of, to 1.
struct Share {
    static constexpr float SLOPE = 0.5f / OVERLAP, NO_EDGE = 1e6f;
    float below, above;

    // `at` counts from the block's own first sample.
    __device__ __forceinline__ Share(const Overlap& overlap, int at) {
        below = overlap.has_below() ? SLOPE * (float(at + OVERLAP) + 0.5f) : NO_EDGE;
        above = overlap.has_above() ? SLOPE * (float(SPAN + OVERLAP - at) - 0.5f) : NO_EDGE;
    }
    // So many samples later; which edges may be near.
    __device__ __forceinline__ float own(int later, bool near_below, bool near_above) const {
        float share = 1;
        if (near_below) share = fminf(share, below + later * SLOPE);
        if (near_above) share = fminf(share, above - later * SLOPE);
        return share;
    }
};

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
        if (works) {
            pass_b(s.r, s.turn, item);
            __syncwarp();
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
            const Share share(overlap, first);
            Sample other[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                const float here = share.own(e, true, true);
                own[e] = approximate_root(here) * r[e];
                other[e] = approximate_root(1 - here) * r[e];
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
    if (works) {
        pass_b(s.r, s.turn, item);
        __syncwarp();
        pass_c(s.r, v, item);
#pragma unroll
        for (int i = 0; i < POINTS; i += 2) {
            const unsigned both = s.factor[i / 2][item];
            v[i] = __uint_as_float(both << 16) * v[i];
            v[i + 1] = __uint_as_float(both & 0xffff0000u) * v[i + 1];
        }
        pass_c_back(s.r, v, item);
        __syncwarp();
        pass_b_back(s.r, s.turn, item);
    }
    overlap.expect_products();
    __syncthreads();
    if (works) {
        pass_a_back(s.r, s.turn, item, v);
        // The warp's threads put their samples where others of them took theirs.
        __syncwarp();
        const Share share(overlap, item - OVERLAP);
        const unsigned from_first = rank * SPAN + item - OVERLAP - DATA_FIRST;
        // Neighbours have a share of samples at the edges alone, whatever the thread is.
#pragma unroll
        for (int i = 0; i < FILLED; i++) {
            const int later = i * STRIDE_A;
            const bool near_below = CLUSTER > 1 && later < 2 * OVERLAP;
            const bool near_above = CLUSTER > 1 && later + STRIDE_A > SPAN;
            const bool has_data = from_first + later < unsigned(DATA_LAST - DATA_FIRST) &&
                                  (later + STRIDE_A <= SPAN + 2 * OVERLAP || item + later < SPAN + 2 * OVERLAP);
            if (near_below || near_above) {
                v[i] = approximate_root(share.own(later, near_below, near_above)) * v[i];
            }
            if (!has_data) v[i] = {0, 0};
            overlap.send_product(item + later, near_below, near_above, v[i]);
            if (!near_below && !near_above) s.r[item + later] = v[i];
        }
        if (CLUSTER > 1) overlap.receive_products(step);
#pragma unroll
        for (int i = 0; i < FILLED; i++) {
            const int later = i * STRIDE_A;
            const bool near_below = CLUSTER > 1 && later < 2 * OVERLAP;
            const bool near_above = CLUSTER > 1 && later + STRIDE_A > SPAN;
            if (!near_below && !near_above) continue;
            s.r[item + later] = overlap.with_product(item + later, near_below, near_above, v[i]);
        }
    }
    __syncthreads();
}
