// `of_tiles` [PROFILE_TILES][7]: sums over the delays with a pilot, whose energy over the data's is `excess`, else 0. A
// thread has a delay, whose pulses [ANTENNAS][PERIODS][DELAYS] begin at `own`, a block 64.
__device__ __forceinline__ void sum_paths(const Sample* own, float excess, float* of_tiles) {
    __shared__ float of_warps[2][7];
    const bool heard = excess > 0;
    // The line at the symbol rate turns by a quarter from a delay to the next.
    const int quarter = (64 * blockIdx.x + threadIdx.x) % 4;
    Sample turn = {0, 0}, frame_turn = {0, 0};
    for (int antenna = 0; heard && antenna < ANTENNAS; antenna++, own += PERIODS * DELAYS) {
        for (int period = 0; period + 1 < PERIODS; period++) {
            const Sample now = own[period * DELAYS];
            add_conjugate_product(turn, now, own[(period + 1) * DELAYS]);
            if (period + N < PERIODS) add_conjugate_product(frame_turn, now, own[(period + N) * DELAYS]);
        }
    }
    const float sums[7] = {
        excess,
        heard && quarter % 2 == 0 ? (quarter == 0 ? excess : -excess) : 0,
        heard && quarter % 2 == 1 ? (quarter == 1 ? excess : -excess) : 0,
        turn.re, turn.im, frame_turn.re, frame_turn.im,
    };
    for (int k = 0; k < 7; k++) {
        float sum = warp_sum(sums[k]);
        if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32][k] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 7) of_tiles[7 * blockIdx.x + threadIdx.x] = of_warps[0][threadIdx.x] + of_warps[1][threadIdx.x];
}
