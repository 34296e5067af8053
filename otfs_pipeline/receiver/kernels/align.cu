// Where a frame's pilot is in a slot's waveform, and what is wrong with the samples: see front/align.py and
// front/balance.py, whose equations these are. The last kernel says how fold.cu takes the frame. Sample n of an antenna is
// `waveform`[n · ANTENNAS + antenna]; energies are those of all antennas together.

// `of_blocks` [ANTENNAS][MEASURE_BLOCKS][6]: sums of |x|² over the burst's middle; of x, x² and |x|² over its data.
extern "C" __global__ void __launch_bounds__(256)
measure_burst(const Sample* waveform, const int* data_samples, float* of_blocks) {
    __shared__ float of_warps[8][6];
    const int antenna = ANTENNAS > 1 ? blockIdx.x / MEASURE_BLOCKS : 0;
    const Sample* core = waveform + CORE * ANTENNAS + antenna;
    const int first = (blockIdx.x - antenna * MEASURE_BLOCKS) * 256 + threadIdx.x;
    float sums[6] = {};
    for (int i = first; i < CORE_SAMPLES; i += 256 * MEASURE_BLOCKS) sums[0] += energy(core[i * ANTENNAS]);
    for (int i = first; i < DATA_SAMPLES; i += 256 * MEASURE_BLOCKS) {
        Sample x = core[data_samples[i] * ANTENNAS];
        sums[1] += x.re, sums[2] += x.im;
        sums[3] += x.re * x.re - x.im * x.im, sums[4] += 2 * x.re * x.im;
        sums[5] += energy(x);
    }
    for (int k = 0; k < 6; k++) {
        float sum = warp_sum(sums[k]);
        if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32][k] = sum;
    }
    __syncthreads();
    if (threadIdx.x >= 6) return;
    float sum = 0;
    for (int warp = 0; warp < 8; warp++) sum += of_warps[warp][threadIdx.x];
    of_blocks[6 * blockIdx.x + threadIdx.x] = sum;
}

// Running means in `tracked` (layout: front.py) to `correction` [ANTENNAS][6]: DC, κ, power of a symbol, rms of the data.
// A block an antenna.
extern "C" __global__ void __launch_bounds__(32)
balance(const float* of_blocks, const unsigned char* doubtful, double* tracked, float* correction) {
    __shared__ double sums[6];
    if (ANTENNAS > 1) {
        of_blocks += 6 * MEASURE_BLOCKS * blockIdx.x, tracked += 8 * blockIdx.x, correction += 6 * blockIdx.x;
    }
    if (threadIdx.x < 6) {
        double sum = 0;
        for (int block = 0; block < MEASURE_BLOCKS; block++) sum += of_blocks[6 * block + threadIdx.x];
        sums[threadIdx.x] = sum;
    }
    __syncwarp();
    if (threadIdx.x != 0) return;
    if (!*doubtful && sums[5] > 0) {
        tracked[0] = tracked[0] * KEEP_BALANCE + DATA_SAMPLES;
        for (int k = 1; k < 6; k++) tracked[k] = tracked[k] * KEEP_BALANCE + sums[k];
    }
    for (int k = 0; k < 4; k++) correction[k] = 0;
    correction[4] = float(2 * sums[0] / CORE_SAMPLES);
    correction[5] = 1;
    const double count = tracked[0];
    if (count == 0) return;
    const double re = tracked[1] / count, im = tracked[2] / count, mean = re * re + im * im;
    const double power = tracked[5] / count - mean;
    if (power <= 0) return;
    correction[5] = float(sqrt(power));
    // Neighbours at two samples a symbol are not independent.
    const double independent = count / 2;
    if (mean > SIGMAS * SIGMAS * power / independent) correction[0] = float(re), correction[1] = float(im);
    const double square_re = tracked[3] / count - (re * re - im * im), square_im = tracked[4] / count - 2 * re * im;
    const double square = square_re * square_re + square_im * square_im;
    if (square <= SIGMAS * SIGMAS * power * power * 2 / independent) return;
    const double rest = power * power > square ? sqrt(power * power - square) : 0;
    correction[2] = float(square_re / (power + rest)), correction[3] = float(square_im / (power + rest));
}

// `pulses` [ANTENNAS][PERIODS][FILTERED]: what a matched filter gives around each pulse of the pilot, at four samples a symbol,
// tapered again. A block has a part of a period's delays.
extern "C" __global__ void __launch_bounds__(256)
read_pulses(const Sample* waveform, const float* correction, const float* pulse_taps, const float* taper,
            Sample* pulses) {
    __shared__ Sample samples[128 + CHUNK];
    __shared__ float taps[2][CHUNK];
    const int row = blockIdx.x / PULSE_TILES, tile = 256 * (blockIdx.x % PULSE_TILES);
    const int antenna = ANTENNAS > 1 ? row / PERIODS : 0, period = row - antenna * PERIODS;
    // Neighbouring delays are half a sample apart.
    const int first = PULSE_CENTRE + 2 * M * period - 2 * FILTER_REACH + tile / 2 - REACH;
    const Correction given(correction, antenna);
    Sample sum = {0, 0};
    for (int tap = 0; tap < TAPS; tap += CHUNK) {
        const int count = min(CHUNK, TAPS - tap);
        __syncthreads();
        for (int i = threadIdx.x; i < 128 + count; i += 256) samples[i] = given.of(waveform, first + tap + i);
        for (int i = threadIdx.x; i < 2 * count; i += 256) {
            int half = i >= count, at = i - half * count;
            taps[half][at] = pulse_taps[2 * half * TAPS + tap + at];
        }
        __syncthreads();
        const Sample* mine = samples + threadIdx.x / 2;
        const float* weight = taps[threadIdx.x % 2];
        for (int i = 0; i < count; i++) sum = sum + weight[i] * mine[i];
    }
    const int delay = tile + threadIdx.x;
    if (delay < FILTERED) pulses[row * FILTERED + delay] = taper[period] * sum;
}

// Of each delay, a thread each: `pilot` [DELAYS] its energy over the data's, 0 where there is none; `parts`
// [PARTS][DELAYS] its energy in parts of the burst. Of a spread pilot keep_paths gives `of_tiles`.
extern "C" __global__ void __launch_bounds__(64)
profile(const Sample* pulses, const float* correction, const int* part_of, float* pilot, float* parts,
        float* of_tiles) {
    const int delay = 64 * blockIdx.x + threadIdx.x;
    const bool inside = delay < DELAYS;
    const Sample* own = pulses + (inside ? delay : 0);
    float total = 0, of_part[PARTS] = {};
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        for (int period = 0; period < PERIODS; period++) {
            float power = energy(own[(antenna * PERIODS + period) * DELAYS]);
            int part = part_of[period];
            total += power;
            for (int k = 0; k < PARTS; k++) of_part[k] += k == part ? power : 0;
        }
    }
    const float excess = total * (1 / TAPER4) - FLOOR * symbol_power(correction);
    const bool heard = inside && excess > 0;
    if (inside) {
        pilot[delay] = heard ? excess : 0;
        for (int k = 0; k < PARTS; k++) parts[k * DELAYS + delay] = of_part[k];
    }
    if (!SPREAD) sum_paths(own, heard ? excess : 0, of_tiles);
}

// Sum k of `sum_paths`, the same in every warp.
__device__ __forceinline__ float of_profile(const float* of_tiles, int k) {
    float sum = 0;
    for (int tile = threadIdx.x % 32; tile < PROFILE_TILES; tile += 32) sum += of_tiles[7 * tile + k];
    return warp_sum(sum);
}

// The timing of candidate c in eighths of a symbol: those that have the phase of the line.
__device__ __forceinline__ int timing_of(const float* of_tiles, int c) {
    const float re = of_profile(of_tiles, 1), im = of_profile(of_tiles, 2);
    return int(rintf(4 * atan2f(im, re) * INVERSE_PI)) + 8 * (c - SEEN);
}

// `cost` [CANDIDATES]: energy of data that reach the pilot's window at each timing; a warp each.
extern "C" __global__ void __launch_bounds__(256)
weigh_timings(const float* pilot, const float* of_tiles, const float* spill, float* cost) {
    const int c = 8 * blockIdx.x + threadIdx.x / 32;
    const int timing = timing_of(of_tiles, c);
    const bool allowed = c < CANDIDATES && timing >= -8 * SEEN && timing <= 8 * SEEN;
    // Of delay 0; neighbouring delays are two eighths apart.
    const float* own = spill + (allowed ? 8 * SEEN - timing : 0);
    float sum = 0;
    for (int delay = threadIdx.x % 32; delay < DELAYS; delay += 32) {
        const float here = pilot[delay];
        if (here > 0) sum += here * own[2 * delay];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0 && c < CANDIDATES) cost[c] = allowed ? sum : LARGEST;
}

struct Plus {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Least {
    __device__ float operator()(float a, float b) const { return fminf(a, b); }
};
struct Most {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over a block of 1024 threads, for all of them.
template <class Join>
__device__ __forceinline__ float joined(float value, Join join) {
    __shared__ float of_warps[32];
    for (int offset = 16; offset; offset /= 2) value = join(value, __shfl_xor_sync(~0u, value, offset));
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warps[0];
    for (int warp = 1; warp < 32; warp++) value = join(value, of_warps[warp]);
    return value;
}

// Whether delay `i` is where the pilot's paths may be, with this timing.
__device__ __forceinline__ bool in_place(int i, int timing) {
    const int eighths = 2 * (i - 4 * SEEN) - timing;
    return eighths >= -8 * NEAR && eighths <= 8 * (DELAY_TAPS + NEAR);
}

__device__ __forceinline__ bool is_silent(int i, int timing) {
    const int eighths = 2 * (i - 4 * SEEN) - timing;
    return eighths >= 8 * (DELAY_TAPS - STRIP + NEAR) && eighths <= 8 * (STRIP - NEAR) && !in_place(i, timing);
}

// How many means of WIDTH neighbours, beyond the ends too, are too loud where the strip is silent.
__device__ __forceinline__ float loud_parts(const float* parts, const float* part_floor, float level, int timing) {
    float loud = 0;
    for (int i = threadIdx.x; i < DELAYS + WIDTH - 1; i += 1024) {
        float sums[PARTS] = {};
        for (int k = max(i - WIDTH + 1, 0); k <= min(i, DELAYS - 1); k++) {
            if (!is_silent(k, timing)) continue;
            for (int part = 0; part < PARTS; part++) sums[part] += parts[part * DELAYS + k];
        }
        for (int part = 0; part < PARTS; part++) loud += sums[part] > SILENT * WIDTH * level * part_floor[part];
    }
    return joined(loud, Plus());
}

// Of a spread pilot, beside which data are everywhere: how many parts have energy astray, or none.
__device__ __forceinline__ float astray_parts(const float* parts, const float* part_floor, float level, int timing) {
    float count = 0;
    for (int part = 0; part < PARTS; part++) {
        float total = 0, main = 0;
        for (int i = threadIdx.x; i < DELAYS; i += 1024) {
            const float here = fmaxf(parts[part * DELAYS + i] - LOUD * level * part_floor[part], 0);
            total += here;
            main += in_place(i, timing) ? here : 0;
        }
        total = joined(total, Plus()), main = joined(main, Plus());
        count += total >= MOST_ASTRAY * main;
    }
    return count;
}

// Whether the pilot is in its place, and the strip as it should be beside it, all through the burst.
__device__ __forceinline__ bool is_whole(const float* pilot, const float* parts, const float* part_floor,
                                         const float* correction, int timing, float total) {
    float astray = 0;
    for (int i = threadIdx.x; i < DELAYS; i += 1024) astray += in_place(i, timing) ? 0 : pilot[i];
    astray = joined(astray, Plus());
    auto bad_parts = SPREAD ? astray_parts : loud_parts;
    return astray <= ASTRAY * total && bad_parts(parts, part_floor, symbol_power(correction), timing) == 0;
}

// `plan`: whether the frame is given on, sample of the waveform where the burst begins, part of a sample, and turns
// of the carrier a sample times 2^64. `front`: front/signature.py, FRONT. One block.
extern "C" __global__ void __launch_bounds__(1024)
decide(const float* pilot, const float* parts, const float* of_tiles, const float* cost, const float* part_floor,
       const float* correction, const unsigned char* doubtful, double* tracked, long long* plan, float* front) {
    float cheapest = LARGEST;
    for (int c = threadIdx.x; c < CANDIDATES; c += 1024) cheapest = fminf(cheapest, cost[c]);
    cheapest = joined(cheapest, Least());
    const float total = of_profile(of_tiles, 0);
    const float allowed = cheapest + REACHES * total;
    // The latest: late paths are weak.
    float latest = -1;
    for (int c = threadIdx.x; c < CANDIDATES; c += 1024) {
        if (cost[c] <= allowed && cost[c] < LARGEST) latest = fmaxf(latest, float(c));
    }
    const int timing = timing_of(of_tiles, int(joined(latest, Most())));
    const bool whole = is_whole(pilot, parts, part_floor, correction, timing, total);
    float turns[4];
    for (int k = 0; k < 4; k++) turns[k] = of_profile(of_tiles, 3 + k);
    if (threadIdx.x != 0) return;
    const bool found = total > 0, given = found && (whole || !*doubtful);
    // The pilot's own Doppler turns it from period to period.
    const double re = turns[0] * PILOT_RE - turns[1] * PILOT_IM, im = turns[0] * PILOT_IM + turns[1] * PILOT_RE;
    if (given) {
        const double length = fmax(sqrt(re * re + im * im), 1e-30);
        tracked[6] = tracked[6] * KEEP_CARRIER + re / length;
        tracked[7] = tracked[7] * KEEP_CARRIER + im / length;
    }
    const double periods = atan2(tracked[7], tracked[6]) * (0.5 * INVERSE_PI);
    const double fraction = atan2(double(turns[3]), double(turns[2])) * (0.5 * INVERSE_PI);
    // Of a frame with a prefix nothing is folded that would have to be in phase.
    const double carrier = TAPERED ? rint(periods * N - fraction) + fraction : periods * N;
    plan[0] = given;
    plan[1] = ORIGIN + 2 * (CENTRE - HALF) + (timing >> 2);
    plan[2] = timing & 3;
    plan[3] = llrint(carrier / (2.0 * Q) * 18446744073709551616.0);
    // A doubtful preamble without a pilot has no frame: that is no damage.
    for (int antenna = 0; antenna < ANTENNAS; antenna++, front += 9, correction += 6) {
        front[0] = given ? 1 : found || !*doubtful ? 0 : 2;
        front[1] = 0.25f * float(timing);
        front[2] = float(carrier * HZ / N);
        front[3] = float(periods * HZ);
        for (int k = 0; k < 4; k++) front[4 + k] = correction[k];
        front[8] = correction[5];
    }
}
