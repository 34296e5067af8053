// The delays that the pilot's response covers, each of N samples a Doppler period apart, as Slepian sequences:
// link/prefix.py. Empties the equalizer's mailbox, if it has one.
//
// One block a 32 delays of an antenna, one lane a delay. Sequences from NOISE_ROW on hold noise alone, those
// between hardly any of either and are left out.

extern "C" __global__ void __launch_bounds__(32 * WINDOW_ROWS)
read_window(const Sample* samples, const Sample* reading, Sample* sequences, float* noise, Slot* mailbox) {
    __shared__ Sample tile[N][32];
    __shared__ float partial[WINDOW_ROWS];
    for (int i = blockIdx.x * 32 * WINDOW_ROWS + threadIdx.x; i < MAILBOX_SLOTS;
         i += ANTENNAS * WINDOW_BLOCKS * 32 * WINDOW_ROWS) {
        mailbox[i] = {0, 0, 0, 0};
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int antenna = blockIdx.x / WINDOW_BLOCKS, a = blockIdx.x % WINDOW_BLOCKS * 32 + lane;
    samples += antenna * Q, sequences += antenna * SEQUENCES * WINDOW;
    for (int n = warp; n < N; n += WINDOW_ROWS) {
        tile[n][lane] = a < WINDOW ? samples[PILOT_DELAY + FIRST_TAP + a + n * M] : Sample{0, 0};
    }
    __syncthreads();
    float quiet = 0;
    for (int row = warp; row < N; row += WINDOW_ROWS) {
        if (SEQUENCES <= row && row < NOISE_ROW) continue;
        Sample sum = {0, 0};
        for (int n = 0; n < N; n++) add_product(sum, reading[row * N + n], tile[n][lane]);
        if (row >= SEQUENCES) {
            quiet += energy(sum);
        } else if (a < WINDOW) {
            sequences[row * WINDOW + a] = sum;
        }
    }
    quiet = warp_sum(quiet);
    if (lane == 0) partial[warp] = quiet;
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int i = 0; i < WINDOW_ROWS; i++) sum += partial[i];
        noise[blockIdx.x] = sum;
    }
}
