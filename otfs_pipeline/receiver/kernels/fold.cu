// The matched filter in delay and Doppler, from a burst to the frame: see front/matched.py. The carrier is taken off
// each sample before the filter; its phase is counted in turns times 2^64, which wraps as it should.

constexpr int OUTPUTS = 256;
constexpr int ROWS = OUTPUTS + CHUNK / 2 + 1;

// W2 at sample `at` of the burst, 0 to 2 HALF.
__device__ __forceinline__ float burst_window(int at) {
    if (!TAPERED) return 1;
    const double edge = fabs(double(at - HALF)) * EDGE_SCALE - EDGE_START;
    float sine, cosine;
    if (edge >= 1) return 0;
    sincospif(edge > 0 ? 0.5f * float(edge) : 0, &sine, &cosine);
    return cosine;
}

// `samples` [ANTENNAS][Q]: sample n is the sum of the burst's at n, n-Q and n+Q, as far as it goes; of a frame with a prefix it is
// sample n behind that. Zeros where no frame is given on. A block has neighbouring samples, a thread each.
extern "C" __global__ void __launch_bounds__(OUTPUTS)
fold(const Sample* waveform, const float* correction, const float* pulse_taps, const long long* plan,
     Sample* samples) {
    __shared__ Sample even[ROWS], odd[ROWS];
    __shared__ float taps[CHUNK];
    const int antenna = ANTENNAS > 1 ? blockIdx.x / FOLD_BLOCKS : 0, block = blockIdx.x - antenna * FOLD_BLOCKS;
    const int n = OUTPUTS * block + threadIdx.x;
    Sample total = {0, 0};
    if (plan[0]) {
        const int begin = int(plan[1]);
        const float* own = pulse_taps + plan[2] * TAPS;
        const unsigned long long step = (unsigned long long)plan[3];
        const Correction given(correction, antenna);
        for (int turn = -TURNS; turn <= TURNS; turn++) {
            const int tile = OUTPUTS * block + turn * Q + HALF - FRAME_CENTRE;
            if (tile > 2 * HALF || tile + OUTPUTS <= 0) continue;
            Sample sum = {0, 0};
            for (int tap = 0; tap < TAPS; tap += CHUNK) {
                const int count = min(CHUNK, TAPS - tap), first = begin + 2 * tile - REACH + tap;
                __syncthreads();
                for (int i = threadIdx.x; i < 2 * OUTPUTS + count; i += OUTPUTS) {
                    const Sample y = given.of(waveform, first + i);
                    const unsigned long long turns = step * (unsigned long long)(long long)(first + i - begin);
                    Sample w;
                    sincospif(-float(int(turns >> 32)) * 4.656612873e-10f, &w.im, &w.re);
                    Sample x = {0, 0};
                    add_product(x, y, w);
                    (i % 2 ? odd : even)[i / 2] = x;
                }
                for (int i = threadIdx.x; i < count; i += OUTPUTS) taps[i] = own[tap + i];
                __syncthreads();
                for (int i = 0; i < count; i += 2) {
                    sum = sum + taps[i] * even[threadIdx.x + i / 2];
                    if (i + 1 < count) sum = sum + taps[i + 1] * odd[threadIdx.x + i / 2];
                }
            }
            const int at = tile + int(threadIdx.x);
            if (at >= 0 && at <= 2 * HALF) total = total + burst_window(at) * sum;
        }
    }
    if (n < Q) samples[antenna * Q + n] = total;
}
