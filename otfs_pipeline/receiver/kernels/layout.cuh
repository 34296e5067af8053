// How a period is divided among the blocks of the equalizer (see equalize.cu).

constexpr int WARPS = THREADS / 32;
constexpr int BEHIND = LAST_TAP, AHEAD = -FIRST_TAP, HALO = BEHIND + AHEAD;
constexpr int FIRST_SAMPLE = GUARD / 2 + 1 + FIRST_TAP;
constexpr int LENGTH = M - GUARD / 2 + LAST_TAP - FIRST_SAMPLE;
constexpr int DATA_FIRST = -FIRST_TAP, DATA_LAST = M - GUARD / 2 - FIRST_SAMPLE;
constexpr int NODES = (SPAN + HALO) / NODE_STEP + 2;

// A coefficient at a node, and what it gains up to the next one.
struct alignas(16) Node {
    Sample value, slope;
};

// Up to GROUP neighbouring delays; their coefficients are those from `slot` on.
struct alignas(8) Group {
    int start, slot;
};
