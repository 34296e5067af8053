// What a block of the equalizer holds in shared memory (see equalize.cu).

constexpr int WARPS = THREADS / 32;
constexpr int SPAN = THREADS * EACH;
constexpr int BEHIND = LAST_TAP, AHEAD = -FIRST_TAP, HALO = BEHIND + AHEAD;
constexpr int FIRST_SAMPLE = GUARD / 2 + 1 + FIRST_TAP;
constexpr int LENGTH = M - GUARD / 2 + LAST_TAP - FIRST_SAMPLE;
constexpr int DATA_FIRST = -FIRST_TAP, DATA_LAST = M - GUARD / 2 - FIRST_SAMPLE;
constexpr int NODES = (SPAN + HALO) / NODE_STEP + 2;
constexpr int BINS = (EIGENVALUES + CLUSTER * THREADS - 1) / (CLUSTER * THREADS);

// A coefficient at a node, and what it gains up to the next one.
struct alignas(16) Node {
    Sample value, slope;
};

// Up to GROUP neighbouring delays; their coefficients are those from `slot` on.
struct alignas(8) Group {
    int start, slot;
};

// r has BEHIND samples before the block's own and AHEAD after them; y = Hp has it the other way, and
// there is one for each antenna.
struct Shared {
    // An odd row: neighbouring nodes of a delay lie in different banks.
    Node node[ANTENNAS][NODES][MAX_DELAYS | 1];
    Sample r[SPAN + HALO];
    Sample y[ANTENNAS][SPAN + HALO];
    Sample centre[ANTENNAS][MAX_DELAYS];
    Group group[MAX_DELAYS + 1];
    int delay[MAX_DELAYS];
    float curvature[CLUSTER * WARPS], energy[CLUSTER * WARPS];
    float alpha[ITERATIONS], beta[ITERATIONS];
    Waiting waiting;
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "Geometry.shared_bytes counts too little");
