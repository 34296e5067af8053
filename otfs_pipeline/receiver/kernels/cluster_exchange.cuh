// What the blocks of a period send one another where they are a cluster: into their shared memory.

#define PLACED __cluster_dims__(CLUSTER, 1, 1)

struct Place {
    int rank, period;
};

__device__ __forceinline__ Place place(Shared& s, Slot*) {
    if (threadIdx.x == 0) init_signal(&s.waiting.r_here), init_signal(&s.waiting.y_here);
    return {int(blockIdx.x % CLUSTER), int(blockIdx.x / CLUSTER)};
}

// From here on the neighbours send into this block.
__device__ __forceinline__ void begin_exchanges() { cluster_barrier(); }

// Half of a step: the edges of COUNT vectors, of which a block reads BEFORE samples of the previous
// block and AFTER of the next one, and a sum. It is over when all bytes that a block is sent have come.
// What a block read of the exchange before, all of its warps have read before they send their part of
// the sum, and that part is waited for before the next exchange.
template <int BEFORE, int AFTER, int COUNT>
struct Exchange {
    // Own samples lie from BEFORE on, vectors SPAN + HALO apart.
    Sample* vectors;
    // Each warp's part of the sum.
    float* parts;
    Signal* here;
    int rank;

    __device__ __forceinline__ void send_edges(int vector, int first, const Sample (&own)[EACH], int) {
        Sample* below = vectors + vector * (SPAN + HALO);
        Sample* above = below + BEFORE + SPAN;
        if (rank + 1 < CLUSTER && first + EACH > SPAN - BEFORE) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                int at = first + e - (SPAN - BEFORE);
                if (at >= 0) push(below + at, rank + 1, own[e], here);
            }
        }
        if (rank > 0 && first < AFTER) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                if (first + e < AFTER) push(above + first + e, rank - 1, own[e], here);
            }
        }
    }

    // This warp's part of the sum; `edges` says whether they were sent too.
    __device__ __forceinline__ void send_part(float value, int, bool edges = true) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        value = warp_sum(value);
        if (lane < CLUSTER) push(&parts[rank * WARPS + warp], lane, value, here);
        const int samples = edges ? (rank > 0 ? BEFORE : 0) + (rank + 1 < CLUSTER ? AFTER : 0) : 0;
        if (threadIdx.x == 0) {
            expect(here, CLUSTER * WARPS * int(sizeof(float)) + COUNT * samples * int(sizeof(Sample)));
        }
    }

    // Until the edges are here; for the warps that `waits` is true of.
    __device__ __forceinline__ void receive(int step) { wait_for(here, step & 1); }

    // The sum of all parts, the same bits in every thread; behind the block's barrier.
    __device__ __forceinline__ float total(int step) {
        wait_for(here, step & 1);
        float sum = 0;
        for (int i = threadIdx.x % 32; i < CLUSTER * WARPS; i += 32) sum += parts[i];
        return warp_sum(sum);
    }

    // Whether a sample of this warp reaches another block.
    __device__ __forceinline__ bool waits() const {
        int first = threadIdx.x / 32 * 32 * EACH, last = first + 32 * EACH;
        return (rank > 0 && first < BEFORE) || (rank + 1 < CLUSTER && last + AFTER > SPAN);
    }
};

__device__ __forceinline__ Exchange<BEHIND, AHEAD, 1> exchange_r(Shared& s, Slot*, Place at) {
    return {s.r, s.energy, &s.waiting.r_here, at.rank};
}

__device__ __forceinline__ Exchange<AHEAD, BEHIND, ANTENNAS> exchange_y(Shared& s, Slot*, Place at) {
    return {s.y[0], s.curvature, &s.waiting.y_here, at.rank};
}
