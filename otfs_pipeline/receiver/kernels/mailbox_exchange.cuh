// What the blocks of a period send one another where there are no clusters: through the GPU's memory.
//
// The mailbox begins with a ticket. Then each block has a slot for each sample of its neighbours that
// it reads, of r and of the antennas' y; then each period has two sums' parts. read_window empties it.

#define PLACED

constexpr int BLOCK_SLOTS = (1 + ANTENNAS) * HALO;
static_assert(MAILBOX_SLOTS == (CLUSTER == 1 ? 0 : 1 + N * CLUSTER * BLOCK_SLOTS + N * CLUSTER * WARPS),
              "Geometry.mailbox_slots");

struct Place {
    int rank, period;
};

// A block takes the next place when it begins, not by its index. So the blocks of the first period that
// is not finished are there, or others end and make room for them: nobody waits for ever, however few
// blocks the GPU holds at once, as long as it holds CLUSTER.
__device__ __forceinline__ Place place(Shared& s, Slot* mailbox) {
    if (CLUSTER == 1) return {0, int(blockIdx.x)};
    if (threadIdx.x == 0) s.waiting.ticket = atomicAdd(reinterpret_cast<int*>(mailbox), 1);
    __syncthreads();
    return {s.waiting.ticket % CLUSTER, s.waiting.ticket / CLUSTER};
}

__device__ __forceinline__ void begin_exchanges() {}

// As in cluster_exchange.cuh. A slot is written again two exchanges later at the earliest: whoever
// writes has a part of all warps that read it, which they sent after they had.
template <int BEFORE, int AFTER, int COUNT>
struct Exchange {
    Sample* vectors;
    // Of this block alone, if it is the only one of its period.
    float* parts;
    // Of this block; the neighbours' are BLOCK_SLOTS before and behind.
    Slot* inbox;
    // Of the period.
    Part* sums;
    int rank;

    __device__ __forceinline__ void send_edges(int vector, int first, const Sample (&own)[EACH], int step) {
        Slot* const slots = inbox + vector * HALO;
        if (rank + 1 < CLUSTER && first + EACH > SPAN - BEFORE) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                int at = first + e - (SPAN - BEFORE);
                if (at >= 0) post(slots + BLOCK_SLOTS + at, own[e], step + 1);
            }
        }
        if (rank > 0 && first < AFTER) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                if (first + e < AFTER) post(slots - BLOCK_SLOTS + BEFORE + first + e, own[e], step + 1);
            }
        }
    }

    __device__ __forceinline__ void send_part(float value, int step, bool = true) {
        const int warp = threadIdx.x / 32;
        value = warp_sum(value);
        if (threadIdx.x % 32 != 0) return;
        if (CLUSTER == 1) {
            parts[warp] = value;
        } else {
            post(sums + rank * WARPS + warp, value, step + 1);
        }
    }

    // The warps that wait share the edges among them.
    __device__ __forceinline__ void receive(int step) {
        const int low = rank > 0 ? BEFORE : 0, high = rank + 1 < CLUSTER ? AFTER : 0;
        const int lows = warps(low), waiting = min(WARPS, lows + warps(high));
        const int warp = threadIdx.x / 32;
        const int lane = 32 * (warp < lows ? warp : waiting - (WARPS - warp)) + threadIdx.x % 32;
        for (int vector = 0; vector < COUNT; vector++) {
            const Slot* const slots = inbox + vector * HALO;
            Sample* const samples = vectors + vector * (SPAN + HALO);
            for (int start = lane; start < low + high; start += BATCH * 32 * waiting) {
                Sample value[BATCH];
                int at[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    // Beyond the last one it is the last one again.
                    int edge = min(start + i * 32 * waiting, low + high - 1);
                    at[i] = edge < low ? edge : edge - low + BEFORE;
                }
                for (bool all = false; !all;) {
                    all = true;
#pragma unroll
                    for (int i = 0; i < BATCH; i++) all &= arrived(slots + at[i], step + 1, value[i]);
                }
#pragma unroll
                for (int i = 0; i < BATCH; i++) samples[at[i] < low ? at[i] : at[i] + SPAN] = value[i];
            }
        }
        barrier_of(32 * waiting);
    }

    __device__ __forceinline__ float total(int step) {
        float sum = 0;
        for (int i = threadIdx.x % 32; i < CLUSTER * WARPS; i += 32) {
            float part = CLUSTER == 1 ? parts[i] : 0;
            while (CLUSTER > 1 && !arrived(sums + i, step + 1, part)) {}
            sum += part;
        }
        return warp_sum(sum);
    }

    __device__ __forceinline__ bool waits() const {
        const int warp = threadIdx.x / 32;
        return (rank > 0 && warp < warps(BEFORE)) || (rank + 1 < CLUSTER && WARPS - warp <= warps(AFTER));
    }

  private:
    // Slots that a thread asks for at once: a miss takes most of a microsecond.
    static constexpr int BATCH = 4;

    // Of the block's first or last ones, those that `samples` outside reach.
    __device__ static constexpr int warps(int samples) { return (samples + 32 * EACH - 1) / (32 * EACH); }
};

__device__ __forceinline__ Slot* inbox_of(Slot* mailbox, Place at) {
    return mailbox + 1 + (at.period * CLUSTER + at.rank) * BLOCK_SLOTS;
}

__device__ __forceinline__ Part* sums_of(Slot* mailbox, Place at) {
    Slot* const first = mailbox + 1 + N * CLUSTER * BLOCK_SLOTS;
    return reinterpret_cast<Part*>(first) + at.period * 2 * CLUSTER * WARPS;
}

__device__ __forceinline__ Exchange<BEHIND, AHEAD, 1> exchange_r(Shared& s, Slot* mailbox, Place at) {
    return {s.r, s.energy, inbox_of(mailbox, at), sums_of(mailbox, at), at.rank};
}

__device__ __forceinline__ Exchange<AHEAD, BEHIND, ANTENNAS> exchange_y(Shared& s, Slot* mailbox,
                                                                       Place at) {
    return {s.y[0], s.curvature, inbox_of(mailbox, at) + HALO,
            sums_of(mailbox, at) + CLUSTER * WARPS, at.rank};
}
