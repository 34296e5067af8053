// What a block of the preconditioned equalizer holds in shared memory (see equalize_preconditioned.cu).

constexpr int POINTS = 16, ITEMS = ORDER / POINTS;
// Of r, own samples begin here.
constexpr int OWN = OVERLAP;
static_assert(BEHIND <= OVERLAP && AHEAD <= OVERLAP && SPAN + 2 * OVERLAP <= ORDER, "Geometry.overlap");

// Roots of unity of the DFT's passes A and B.
struct Turns {
    Sample a[ITEMS], b[ITEMS / POINTS];
};

struct Shared {
    // An odd row: neighbouring nodes of a delay lie in different banks.
    Node node[ANTENNAS][NODES][MAX_DELAYS | 1];
    // The preconditioner's samples: OVERLAP before the block's own, as many after them, the rest is 0. What
    // it makes of the residual stays there.
    Sample r[ORDER];
    // Hp has AHEAD samples before the block's own and BEHIND after them.
    Sample y[ANTENNAS][SPAN + HALO];
    // Products of the blocks before and behind.
    Sample inbox[2][2 * OVERLAP];
    Turns turn;
    Sample centre[ANTENNAS][MAX_DELAYS];
    Group group[MAX_DELAYS + 1];
    // Two upper halves of floats each.
    unsigned factor[POINTS / 2][ITEMS];
    int delay[MAX_DELAYS];
    float curvature[CLUSTER * WARPS], energy[CLUSTER * WARPS];
    Waiting waiting;
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "Geometry.shared_bytes counts too little");
