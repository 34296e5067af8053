// What the blocks of a period send one another.

// An exchange: all that the cluster sends a block in one half of a step. It is over when all of its
// bytes have come. What a block read of the exchange before, all of its warps have read before they
// send their part of the sum, and that part is waited for before the next exchange.
__device__ __forceinline__ void arrive(Signal* signal, int bytes) {
    if (threadIdx.x == 0) expect(signal, bytes);
}

__device__ __forceinline__ void await(Signal* signal, int step) { wait_for(signal, step & 1); }

// Sends this warp's part of a sum to all of the cluster.
__device__ __forceinline__ void send_part(float value, float* parts, int rank, Signal* signal) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_sum(value);
    if (lane < CLUSTER) push(&parts[rank * WARPS + warp], lane, value, signal);
}

// Their sum once all have come, the same bits in every thread.
__device__ __forceinline__ float total(const float* parts) {
    float sum = 0;
    for (int i = threadIdx.x % 32; i < CLUSTER * WARPS; i += 32) sum += parts[i];
    return warp_sum(sum);
}

// Sends the block's last `behind` samples to the next block's `below`, its first `ahead` ones to the
// previous block's `above`.
__device__ __forceinline__ void send_edges(Sample* below, Sample* above, int behind, int ahead, int rank,
                                           int first, const Sample (&own)[EACH], Signal* signal) {
    if (rank + 1 < CLUSTER && first + EACH > SPAN - behind) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int at = first + e - (SPAN - behind);
            if (at >= 0) push(below + at, rank + 1, own[e], signal);
        }
    }
    if (rank > 0 && first < ahead) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            if (first + e < ahead) push(above + first + e, rank - 1, own[e], signal);
        }
    }
}

// Whether a sample of this warp, with `before` and `after` samples around it, reaches another block.
__device__ __forceinline__ bool reaches_out(int rank, int before, int after) {
    int first = threadIdx.x / 32 * 32 * EACH, last = first + 32 * EACH;
    return (rank > 0 && first < before) || (rank + 1 < CLUSTER && last + after > SPAN);
}
