// Hr at an antenna and the antennas' sum of Hᴴy, of a block's samples, delays in groups.

// Adds the products of a group of `length` <= COUNT delays; r is that of its first delay.
template <int COUNT>
__device__ __forceinline__ void add_forward(int length, const Sample* r, const Node* node, float part,
                                            Sample (&sum)[EACH]) {
    if constexpr (COUNT > 1) {
        if (length < COUNT) return add_forward<COUNT - 1>(length, r, node, part, sum);
    }
    Sample c[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) c[i] = node[i].value + part * node[i].slope;
#pragma unroll
    for (int at = 1 - COUNT; at < EACH; at++) {
        Sample w = r[at];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (0 <= at + i && at + i < EACH) add_product(sum[at + i], c[i], w);
        }
    }
}

// (Hr)[j] for EACH samples from own index `first`. A coefficient is held over them: they are odd
// in number, and it is that of the one in their middle.
__device__ __forceinline__ void forward(const Shared& s, int antenna, int groups, int first,
                                        Sample (&sum)[EACH]) {
#pragma unroll
    for (int e = 0; e < EACH; e++) sum[e] = {0, 0};
    const unsigned x = AHEAD + first + EACH / 2;
    const Node* row = s.node[antenna][x / NODE_STEP];
    const float part = float(int(x % NODE_STEP)) * (1.0f / NODE_STEP);
    Group group = s.group[0];
    for (int g = 1; g <= groups; g++) {
        Group next = s.group[g];
        const Sample* r = s.r + OWN + first - group.start;
        add_forward<GROUP>(next.slot - group.slot, r, row + group.slot, part, sum);
        group = next;
    }
}

// As add_forward; x is where the coefficient of the first delay is taken, from the first node on. The
// next delays' are on the same line, up to COUNT - 2 samples beyond the next node.
template <int COUNT>
__device__ __forceinline__ void add_adjoint(int length, const Sample* y, const Node* column, unsigned x,
                                            Sample (&sum)[EACH]) {
    if constexpr (COUNT > 1) {
        if (length < COUNT) return add_adjoint<COUNT - 1>(length, y, column, x, sum);
    }
    constexpr int ROW = MAX_DELAYS | 1;
    const Node* node = column + x / NODE_STEP * ROW;
    const float part = float(int(x % NODE_STEP)) * (1.0f / NODE_STEP);
    Sample c[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        // Where every sample is a node, the next delay's coefficient is the next node's.
        const Node here = NODE_STEP == 1 ? node[i * (ROW + 1)] : node[i];
        c[i] = here.value + (NODE_STEP == 1 ? 0 : part + i * (1.0f / NODE_STEP)) * here.slope;
    }
#pragma unroll
    for (int at = 0; at < EACH + COUNT - 1; at++) {
        Sample w = y[at];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (0 <= at - i && at - i < EACH) add_conjugate_product(sum[at - i], c[i], w);
        }
    }
}

// (Hᴴy)[j], likewise.
__device__ __forceinline__ void adjoint(const Shared& s, int groups, int first, Sample (&sum)[EACH]) {
#pragma unroll
    for (int e = 0; e < EACH; e++) sum[e] = {0, 0};
    for (int antenna = 0; antenna < ANTENNAS; antenna++) {
        const Sample* y = s.y[antenna];
        const Node* column = s.node[antenna][0];
        Group group = s.group[0];
        for (int g = 1; g <= groups; g++) {
            Group next = s.group[g];
            const int at = AHEAD + first + group.start;
            add_adjoint<GROUP>(next.slot - group.slot, y + at, column + group.slot, at + EACH / 2, sum);
            group = next;
        }
    }
}

// Nothing is sent where `silent` has a bit.
__device__ __forceinline__ void mask(Sample (&sum)[EACH], unsigned silent) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        if (silent >> e & 1) sum[e] = {0, 0};
    }
}
