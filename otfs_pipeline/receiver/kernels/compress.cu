// A spread pilot's pulses, and which of them are its paths': see front/compress.py.

// Neighbouring outputs of a thread, whose loads are shared; an odd number, so that a warp's stride has no bank conflict.
constexpr int EACH = 5, COMPRESSED = 128 * EACH;
// Bins of the strip that a block holds at once, and that share a thread's loads.
constexpr int PIECE = 64, SHARED = 8;

// `pulses` [ANTENNAS][PERIODS][DELAYS]: `filtered` [..][FILTERED] correlated with the strip, as a point's would be. A block
// has some delays of an antenna's period, whole symbols apart.
extern "C" __global__ void __launch_bounds__(128)
compress(const Sample* filtered, Sample* pulses) {
    __shared__ Sample seen[COMPRESSED + PIECE], strip[PIECE];
    const int period = blockIdx.x / (4 * COMPRESS_TILES), quarter = blockIdx.x / COMPRESS_TILES % 4;
    const int first = blockIdx.x % COMPRESS_TILES * COMPRESSED, mine = EACH * threadIdx.x;
    Sample sum[EACH] = {};
    for (int bin = 0; bin < STRIP_BINS; bin += PIECE) {
        __syncthreads();
        for (int i = threadIdx.x; i < COMPRESSED + PIECE; i += 128) {
            const int at = 4 * (first + bin + i) + quarter;
            seen[i] = at < FILTERED ? filtered[period * FILTERED + at] : Sample{0, 0};
        }
        for (int i = threadIdx.x; i < PIECE; i += 128) {
            strip[i] = bin + i < STRIP_BINS ? rsqrtf(float(STRIP_BINS)) * chirp(bin + i) : Sample{0, 0};
        }
        __syncthreads();
        for (int i = 0; i < PIECE; i += SHARED) {
            Sample here[EACH + SHARED - 1];
#pragma unroll
            for (int k = 0; k < EACH + SHARED - 1; k++) here[k] = seen[mine + i + k];
#pragma unroll
            for (int k = 0; k < SHARED; k++) {
                const Sample sent = strip[i + k];
#pragma unroll
                for (int e = 0; e < EACH; e++) add_conjugate_product(sum[e], sent, here[k + e]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int delay = 4 * (first + mine + e) + quarter;
        if (delay < DELAYS) pulses[period * DELAYS + delay] = sum[e];
    }
}

// `inside` [DELAYS]: energy in the window of a channel's delays that begins at each; a warp each.
extern "C" __global__ void __launch_bounds__(256)
weigh_windows(const float* pilot, float* inside) {
    const int first = 8 * blockIdx.x + threadIdx.x / 32, end = min(first + PATHS, DELAYS);
    float sum = 0;
    for (int i = first + threadIdx.x % 32; i < end; i += 32) sum += pilot[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0 && first < DELAYS) inside[first] = sum;
}

// `pilot` without the peaks beside the paths': 0 but in their strongest window. Then as `profile`, a thread a delay.
extern "C" __global__ void __launch_bounds__(64)
keep_paths(const Sample* pulses, const float* inside, float* pilot, float* of_tiles) {
    __shared__ float most[64];
    __shared__ int begins[64];
    int first = min(int(threadIdx.x), DELAYS - 1);
    for (int i = threadIdx.x; i < DELAYS; i += 64) first = inside[i] > inside[first] ? i : first;
    most[threadIdx.x] = inside[first], begins[threadIdx.x] = first;
    __syncthreads();
    float largest = most[0];
    first = begins[0];
    for (int k = 1; k < 64; k++) {
        if (most[k] > largest || (most[k] == largest && begins[k] < first)) largest = most[k], first = begins[k];
    }
    const int delay = 64 * blockIdx.x + threadIdx.x;
    const bool kept = first <= delay && delay < min(first + PATHS, DELAYS);
    if (!kept && delay < DELAYS) pilot[delay] = 0;
    sum_paths(pulses + (delay < DELAYS ? delay : 0), kept ? pilot[delay] : 0, of_tiles);
}
