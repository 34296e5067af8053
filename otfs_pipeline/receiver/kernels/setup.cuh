// Before the first step: groups and coefficients, and the samples without the pilot's response.

// What gives the antennas' noise the same variance, the smallest over 0; an antenna without noise stays
// as it is: as a rule it is dead. Returns that variance, a NaN if there is one.
__device__ float whiten(const float* noise_variance, float (&scale)[ANTENNAS]) {
    float least = noise_variance[0];
    scale[0] = 1;
    if (ANTENNAS == 1) return least;
    for (int i = 1; i < ANTENNAS; i++) {
        float variance = noise_variance[i];
        scale[i] = 1;
        if (variance != variance || least == 0 || (variance > 0 && variance < least)) least = variance;
    }
    for (int i = 0; i < ANTENNAS; i++) {
        if (noise_variance[i] > least) scale[i] = sqrtf(least / noise_variance[i]);
    }
    return least;
}

// c_a at sample n of the frame that is solved, which has CYCLE.
__device__ Sample coefficient(const Sample* taps, int a, long long n) {
    Sample sum = {0, 0};
    Sample turn = root(-REACH * (n - a), CYCLE), step = root(n - a, CYCLE);
    for (int b = 0; b < DOPPLERS; b++) {
        add_product(sum, taps[b * WINDOW + a - FIRST_TAP], turn);
        Sample next = {0, 0};
        add_product(next, turn, step);
        turn = next;
    }
    return sum;
}

// The groups and their delays' coefficients, scaled; s.centre has those at sample `centre` of the period.
// Returns how many groups there are.
__device__ int prepare(Shared& s, const Sample* taps, const int* selected, const float (&scale)[ANTENNAS],
                       int rank, int period, int centre) {
    const int groups = selected[0];
    const long long origin = PILOT_DELAY + (long long)period * M;
    for (int i = threadIdx.x; i <= groups; i += THREADS) {
        Group group = {selected[1 + 2 * i], selected[2 + 2 * i]};
        s.group[i] = group;
        if (i == groups) break;
        int length = selected[4 + 2 * i] - group.slot;
        for (int k = 0; k < length; k++) s.delay[group.slot + k] = group.start + k;
    }
    __syncthreads();
    const int delays = s.group[groups].slot;
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        const Sample* own = taps + antenna * DOPPLERS * WINDOW;
        for (int i = threadIdx.x; i < (NODES + 1) * delays; i += THREADS) {
            int slot = i % delays, node = i / delays, a = s.delay[slot];
            if (node == NODES) {
                s.centre[antenna][slot] = scale[antenna] * coefficient(own, a, origin + centre);
            } else {
                int j = rank * SPAN - AHEAD + node * NODE_STEP;
                Sample value = coefficient(own, a, origin + FIRST_SAMPLE + j);
                s.node[antenna][node][slot].value = scale[antenna] * value;
            }
        }
    }
    __syncthreads();
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        for (int i = threadIdx.x; i < (NODES - 1) * delays; i += THREADS) {
            Node& here = s.node[antenna][i / delays][i % delays];
            here.slope = s.node[antenna][i / delays + 1][i % delays].value - here.value;
        }
    }
    __syncthreads();
    return groups;
}

// An antenna's received samples without the pilot's response, scaled, with halo, into s.y.
__device__ void load(Shared& s, const Sample* samples, int antenna, float scale, int groups, int rank,
                     int period) {
    Sample* const y = s.y[antenna];
#pragma unroll 8
    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) {
        int j = rank * SPAN + i - AHEAD;
        int n = (PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q;
        // What comes before a frame with a prefix is of the empty half.
        const int begin = FIRST_PERIOD < 0 && period < 0 ? DATA_FIRST : 0;
        y[i] = begin <= j && j < LENGTH ? scale * samples[antenna * Q + n] : Sample{0, 0};
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < s.group[groups].slot; slot += THREADS) {
        int a = s.delay[slot];
        // A negative delay is reached from the pilot of the next period.
        int j = (a < 0 ? M : 0) + a - FIRST_SAMPLE, sender = a < 0 ? period + 1 : period;
        int i = j - rank * SPAN + AHEAD;
        if (j < 0 || i < 0 || i >= SPAN + HALO || (FIRST_PERIOD < 0 && sender < 0)) continue;
        Node node = s.node[antenna][i / NODE_STEP][slot];
        Sample c = node.value + (float(i % NODE_STEP) / NODE_STEP) * node.slope, response = {0, 0};
        Sample pilot = (PILOT_AMPLITUDE * rsqrtf(float(N))) * root((long long)sender * PILOT_DOPPLER, N);
        add_product(response, c, pilot);
        y[i] = y[i] - response;
    }
    __syncthreads();
}
