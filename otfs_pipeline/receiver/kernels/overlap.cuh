// What the blocks of a cluster send one another for the preconditioner.

// Twice a step: residuals of the OVERLAP samples on either side, in its own shares; then products of the
// 2 OVERLAP samples at either end. As in cluster_exchange.cuh, what was read of one has been read before
// the sum is sent without which no one gets to the next.
struct Overlap {
    Shared& s;
    int rank;

    // By one thread.
    __device__ __forceinline__ void init() const {
        init_signal(&s.waiting.samples_here), init_signal(&s.waiting.products_here);
    }

    __device__ __forceinline__ bool has_below() const { return rank > 0; }
    __device__ __forceinline__ bool has_above() const { return rank + 1 < CLUSTER; }

    // EACH samples from `first` on, as many of them as lie within OVERLAP of a neighbour.
    __device__ __forceinline__ void send(int first, const Sample (&values)[EACH]) const {
        // Where there is no neighbour, nothing is pushed.
        const Remote below = remote_samples(s.r + OVERLAP + SPAN + first, has_below() ? rank - 1 : rank,
                                            &s.waiting.samples_here);
        const Remote above = remote_samples(s.r + first - (SPAN - OVERLAP), has_above() ? rank + 1 : rank,
                                            &s.waiting.samples_here);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            if (has_below() && first < OVERLAP - e) push(below, e, values[e]);
            if (has_above() && first >= SPAN - OVERLAP - e) push(above, e, values[e]);
        }
    }

    // That of sample `at` of s.r, where it is one of a neighbour's, too; of which edges it may be near.
    __device__ __forceinline__ void send_product(int at, bool near_below, bool near_above,
                                                 Sample value) const {
        if (near_below && has_below() && at < 2 * OVERLAP) {
            push(&s.inbox[1][at], rank - 1, value, &s.waiting.products_here);
        }
        if (near_above && has_above() && SPAN <= at && at < SPAN + 2 * OVERLAP) {
            push(&s.inbox[0][at - SPAN], rank + 1, value, &s.waiting.products_here);
        }
    }

    // The sum with the neighbours', likewise.
    __device__ __forceinline__ Sample with_product(int at, bool near_below, bool near_above,
                                                   Sample value) const {
        if (near_below && has_below() && at < 2 * OVERLAP) value = value + s.inbox[0][at];
        if (near_above && has_above() && SPAN <= at && at < SPAN + 2 * OVERLAP) {
            value = value + s.inbox[1][at - SPAN];
        }
        return value;
    }

    __device__ __forceinline__ void expect_samples() const { expect_of(&s.waiting.samples_here, OVERLAP); }
    __device__ __forceinline__ void expect_products() const {
        expect_of(&s.waiting.products_here, 2 * OVERLAP);
    }

    __device__ __forceinline__ void receive_samples(int step) const {
        wait_for(&s.waiting.samples_here, step & 1);
    }
    __device__ __forceinline__ void receive_products(int step) const {
        wait_for(&s.waiting.products_here, step & 1);
    }

  private:
    __device__ __forceinline__ void expect_of(Signal* signal, int samples) const {
        const int sides = has_below() + has_above();
        if (threadIdx.x == 0) expect(signal, sides * samples * int(sizeof(Sample)));
    }
};
