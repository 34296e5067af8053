// What a block of the equalizer holds in shared memory (see equalize.cu).

// Of r, own samples begin here.
constexpr int OWN = BEHIND;

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
