// The Slepian sequences of all delays, smoothed along delay: link/smoothing.py.
//
// One block a 32 delays of an antenna, one lane a delay, one warp a sequence at a time.

extern "C" __global__ void __launch_bounds__(256)
smooth_delays(const Sample* sequences, const Sample* smoothing, Sample* smoothed) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int antenna = blockIdx.x / WINDOW_BLOCKS, a = blockIdx.x % WINDOW_BLOCKS * 32 + lane;
    if (a >= WINDOW) return;
    for (int row = antenna * SEQUENCES + warp; row < (antenna + 1) * SEQUENCES; row += 8) {
        Sample sum = {0, 0};
        for (int from = 0; from < WINDOW; from++) {
            add_product(sum, smoothing[from * WINDOW + a], sequences[row * WINDOW + from]);
        }
        smoothed[row * WINDOW + a] = sum;
    }
}
