// Before the first step: groups and coefficients, and the samples without the pilot's response.

// c_a at sample n of the frame.
__device__ Sample coefficient(const Sample* taps, int a, long long n) {
    Sample sum = {0, 0};
    Sample turn = root(-REACH * (n - a), Q), step = root(n - a, Q);
    for (int b = 0; b < DOPPLERS; b++) {
        add_product(sum, taps[b * WINDOW + a - FIRST_TAP], turn);
        Sample next = {0, 0};
        add_product(next, turn, step);
        turn = next;
    }
    return sum;
}

// The groups and their delays' coefficients; returns how many groups there are.
__device__ int prepare(Shared& s, const Sample* taps, const int* selected, int rank, int period) {
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
    for (int i = threadIdx.x; i < (NODES + 1) * delays; i += THREADS) {
        int slot = i % delays, node = i / delays, a = s.delay[slot];
        if (node == NODES) {
            s.centre[slot] = coefficient(taps, a, origin + M / 2);
        } else {
            int j = rank * SPAN - AHEAD + node * NODE_STEP;
            s.node[node][slot].value = coefficient(taps, a, origin + FIRST_SAMPLE + j);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < (NODES - 1) * delays; i += THREADS) {
        Node& here = s.node[i / delays][i % delays];
        here.slope = s.node[i / delays + 1][i % delays].value - here.value;
    }
    __syncthreads();
    return groups;
}

// Received samples without the pilot's response, with halo, into s.y.
__device__ void load(Shared& s, const Sample* samples, int groups, int rank, int period) {
#pragma unroll 8
    for (int i = threadIdx.x; i < SPAN + HALO; i += THREADS) {
        int j = rank * SPAN + i - AHEAD;
        int n = (PILOT_DELAY + period * M + FIRST_SAMPLE + j) % Q;
        s.y[i] = 0 <= j && j < LENGTH ? samples[n] : Sample{0, 0};
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < s.group[groups].slot; slot += THREADS) {
        int a = s.delay[slot];
        // A negative delay is reached from the pilot of the next period.
        int j = (a < 0 ? M : 0) + a - FIRST_SAMPLE, sender = a < 0 ? period + 1 : period;
        int i = j - rank * SPAN + AHEAD;
        if (j < 0 || i < 0 || i >= SPAN + HALO) continue;
        Node node = s.node[i / NODE_STEP][slot];
        Sample c = node.value + (float(i % NODE_STEP) / NODE_STEP) * node.slope, response = {0, 0};
        Sample pilot = (PILOT_AMPLITUDE * rsqrtf(float(N))) * root((long long)sender * PILOT_DOPPLER, N);
        add_product(response, c, pilot);
        s.y[i] = s.y[i] - response;
    }
    __syncthreads();
}
