// The Zak transform of the delays that the pilot's response covers, read off as taps h[b, a].
// Empties the equalizer's mailbox, if it has one.
//
// One block a 32 delays of an antenna, one lane a delay. Columns beyond the channel's Dopplers hold noise alone.

extern "C" __global__ void __launch_bounds__(32 * WINDOW_ROWS)
read_window(const Sample* samples, Sample* taps, float* tap_energy, float* noise,
            Slot* mailbox) {
    __shared__ Sample tile[N][32];
    __shared__ Sample roots[N];
    __shared__ float partial[WINDOW_ROWS];
    for (int i = blockIdx.x * 32 * WINDOW_ROWS + threadIdx.x; i < MAILBOX_SLOTS;
         i += ANTENNAS * WINDOW_BLOCKS * 32 * WINDOW_ROWS) {
        mailbox[i] = {0, 0, 0, 0};
    }
    int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    const int antenna = ANTENNAS > 1 ? blockIdx.x / WINDOW_BLOCKS : 0;
    samples += antenna * Q, taps += antenna * DOPPLERS * WINDOW, tap_energy += antenna * DOPPLERS * WINDOW;
    int a = (blockIdx.x - antenna * WINDOW_BLOCKS) * 32 + lane;
    for (int n = row; n < N; n += WINDOW_ROWS) {
        tile[n][lane] = a < WINDOW ? samples[PILOT_DELAY + FIRST_TAP + a + n * M] : Sample{0, 0};
    }
    for (int i = threadIdx.x; i < N; i += 32 * WINDOW_ROWS) {
        roots[i] = rsqrtf(float(N)) * root(-i, N);
    }
    __syncthreads();
    float quiet = 0;
    for (int column = row; column < N; column += WINDOW_ROWS) {
        int b = column - REACH;
        int l = (PILOT_DOPPLER + b + N) % N;
        Sample sum = {0, 0};
        for (int n = 0, turn = 0; n < N; n++) {
            add_product(sum, roots[turn], tile[n][lane]);
            turn = turn + l < N ? turn + l : turn + l - N;
        }
        if (column >= DOPPLERS) {
            quiet += energy(sum);
        } else if (a < WINDOW) {
            Sample tap = {0, 0};
            add_product(tap, (1.0f / PILOT_AMPLITUDE) * root(-(long long)b * PILOT_DELAY, Q), sum);
            taps[column * WINDOW + a] = tap;
            tap_energy[column * WINDOW + a] = energy(tap);
        }
    }
    quiet = warp_sum(quiet);
    if (lane == 0) partial[row] = quiet;
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int i = 0; i < WINDOW_ROWS; i++) sum += partial[i];
        noise[blockIdx.x] = sum;
    }
}
