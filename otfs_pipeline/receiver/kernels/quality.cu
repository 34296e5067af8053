// How a received frame was (see quality.py, whose numbers these are): partial sums, then one warp.

constexpr int CELL = 32;
constexpr int LEVELS = 1 << AXIS_BITS;

__device__ __forceinline__ float warp_max(float value) {
    for (int offset = 16; offset; offset /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
    return value;
}

// `of_cells` [ANTENNAS][CELLS][5]: energy, largest part of a sample, how many samples have it, largest energy of a
// period over the median one, samples of periods without energy. A block a cell of an antenna's 32 delays.
extern "C" __global__ void __launch_bounds__(32 * QUALITY_WARPS)
measure_samples(const Sample* samples, float* of_cells) {
    __shared__ float energies[N], warp_peak[QUALITY_WARPS], warp_clipped[QUALITY_WARPS];
    __shared__ float middle;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int antenna = ANTENNAS > 1 ? blockIdx.x / CELLS : 0, cell = int(blockIdx.x) - antenna * CELLS;
    const int delay = cell * CELL + lane, width = min(CELL, M - cell * CELL);
    samples += antenna * Q;
    float peak = 0, clipped = 0;
    for (int n = warp; n < N; n += QUALITY_WARPS) {
        Sample sample = lane < width ? samples[n * M + delay] : Sample{0, 0};
        float sum = warp_sum(energy(sample));
        if (lane == 0) energies[n] = sum;
        float part = fmaxf(fabsf(sample.re), fabsf(sample.im));
        clipped = part > peak ? 1 : clipped + float(part == peak && lane < width);
        peak = fmaxf(peak, part);
    }
    float most = warp_max(peak);
    clipped = warp_sum(peak == most ? clipped : 0);
    if (lane == 0) warp_peak[warp] = most, warp_clipped[warp] = clipped;
    __syncthreads();
    for (int n = threadIdx.x; n < N; n += 32 * QUALITY_WARPS) {
        int before = 0;
        for (int i = 0; i < N; i++) before += energies[i] < energies[n] || (energies[i] == energies[n] && i < n);
        if (before == (N - 1) / 2) middle = energies[n];
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    float total = 0, largest = 0, missing = 0, many = 0;
    most = 0;
    for (int n = 0; n < N; n++) {
        total += energies[n], largest = fmaxf(largest, energies[n]);
        if (energies[n] == 0) missing += width;
    }
    for (int i = 0; i < QUALITY_WARPS; i++) most = fmaxf(most, warp_peak[i]);
    for (int i = 0; i < QUALITY_WARPS; i++) many += warp_peak[i] == most ? warp_clipped[i] : 0;
    float* out = of_cells + 5 * blockIdx.x;
    out[0] = total, out[1] = most, out[2] = many, out[3] = largest / fmaxf(middle, TINY), out[4] = missing;
}

// The distance of `value` from the nearest level, squared.
__device__ __forceinline__ float off(float value) {
    float level = 2 * floorf(value / (2 * LEVEL_SCALE)) + 1;
    level = fminf(fmaxf(level, 1 - LEVELS), LEVELS - 1);
    return (value - level * LEVEL_SCALE) * (value - level * LEVEL_SCALE);
}

// `of_blocks` [SYMBOL_BLOCKS]: sums over symbols.
extern "C" __global__ void __launch_bounds__(256)
measure_symbols(const Sample* symbols, float* of_blocks) {
    __shared__ float of_warps[8];
    float sum = 0;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < SYMBOLS; i += 256 * SYMBOL_BLOCKS) {
        sum += off(symbols[i].re) + off(symbols[i].im);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < 8; warp++) sum += of_warps[warp];
    of_blocks[blockIdx.x] = sum;
}

// A block an antenna.
extern "C" __global__ void __launch_bounds__(32)
summarize(const float* of_cells, const float* of_blocks, float* power, float* peak, float* clipped,
          float* burst, float* missing, float* evm) {
    const int lane = threadIdx.x;
    const int antenna = ANTENNAS > 1 ? blockIdx.x : 0;
    of_cells += 5 * antenna * CELLS;
    float total = 0, most = 0, many = 0, largest = 0, gone = 0, error = 0;
    for (int i = lane; i < CELLS; i += 32) {
        const float* cell = of_cells + 5 * i;
        total += cell[0], largest = fmaxf(largest, cell[3]), gone += cell[4];
        most = fmaxf(most, cell[1]);
    }
    for (int i = lane; i < SYMBOL_BLOCKS; i += 32) error += of_blocks[i];
    most = warp_max(most);
    for (int i = lane; i < CELLS; i += 32) many += of_cells[5 * i + 1] == most ? of_cells[5 * i + 2] : 0;
    total = warp_sum(total), many = warp_sum(many), gone = warp_sum(gone), error = warp_sum(error);
    largest = warp_max(largest);
    if (lane != 0) return;
    power[antenna] = total / Q, peak[antenna] = most, clipped[antenna] = many;
    burst[antenna] = largest, missing[antenna] = gone;
    if (antenna == 0) *evm = sqrtf(error / SYMBOLS);
}
