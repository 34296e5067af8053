// The Zak transform of the delays in which a spread pilot is seen, correlated with its chirp and read off as
// taps h[b, a]: link/pilot.py. Empties the equalizer's mailbox, if it has one.
//
// One block a Doppler of an antenna and 256 delays, one thread a delay. Dopplers beyond the channel's hold
// noise alone.

constexpr int THREADS_A_BLOCK = 256, TILES = WINDOW_BLOCKS / N;

extern "C" __global__ void __launch_bounds__(THREADS_A_BLOCK)
read_window(const Sample* samples, Sample* taps, float* tap_energy, float* noise, Slot* mailbox) {
    __shared__ Sample seen[CHIRP], sent[CHIRP];
    __shared__ Sample roots[N];
    __shared__ float partial[THREADS_A_BLOCK / 32];
    for (int i = blockIdx.x * THREADS_A_BLOCK + threadIdx.x; i < MAILBOX_SLOTS;
         i += ANTENNAS * WINDOW_BLOCKS * THREADS_A_BLOCK) {
        mailbox[i] = {0, 0, 0, 0};
    }
    const int antenna = blockIdx.x / WINDOW_BLOCKS, block = blockIdx.x % WINDOW_BLOCKS;
    const int column = block / TILES, a = block % TILES * THREADS_A_BLOCK + threadIdx.x;
    const int b = column - REACH, l = (PILOT_DOPPLER + b + N) % N;
    samples += antenna * Q, taps += antenna * DOPPLERS * WINDOW, tap_energy += antenna * DOPPLERS * WINDOW;
    for (int i = threadIdx.x; i < N; i += THREADS_A_BLOCK) roots[i] = rsqrtf(float(N)) * root(-i, N);
    __syncthreads();
    for (int i = threadIdx.x; i < CHIRP; i += THREADS_A_BLOCK) {
        const int k = SEEN + i;
        Sample sum = {0, 0}, straight = {0, 0};
        for (int n = 0, turn = 0; n < N; n++) {
            add_product(sum, roots[turn], samples[k + n * M]);
            turn = turn + l < N ? turn + l : turn + l - N;
        }
        add_product(straight, root(-(long long)b * k, Q), sum);
        seen[i] = straight;
        sent[i] = rsqrtf(float(CHIRP)) * chirp(i + WINDOW - 1);
    }
    __syncthreads();
    Sample sum = {0, 0};
    if (a < WINDOW) {
        for (int i = 0, at = a; i < CHIRP; i++) {
            add_conjugate_product(sum, sent[i], seen[at]);
            at = at + 1 < CHIRP ? at + 1 : 0;
        }
    }
    if (column < DOPPLERS && a < WINDOW) {
        Sample tap = {0, 0};
        add_product(tap, (1.0f / PILOT_AMPLITUDE) * root((long long)b * (FIRST_TAP + a), Q), sum);
        taps[column * WINDOW + a] = tap;
        tap_energy[column * WINDOW + a] = energy(tap);
    }
    const float quiet = warp_sum(column < DOPPLERS ? 0 : energy(sum));
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = quiet;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0;
        for (int i = 0; i < THREADS_A_BLOCK / 32; i++) total += partial[i];
        noise[blockIdx.x] = total;
    }
}
