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

    __device__ __forceinline__ void send(int first, const Sample (&values)[EACH]) const {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const int at = first + e;
            if (rank > 0 && at < OVERLAP) {
                push(s.r + OVERLAP + SPAN + at, rank - 1, values[e], &s.waiting.samples_here);
            }
            if (rank + 1 < CLUSTER && at >= SPAN - OVERLAP) {
                push(s.r + at - (SPAN - OVERLAP), rank + 1, values[e], &s.waiting.samples_here);
            }
        }
    }

    __device__ __forceinline__ void send_product(int at, Sample value) const {
        if (rank > 0 && at < OVERLAP) {
            push(&s.inbox[1][at + OVERLAP], rank - 1, value, &s.waiting.products_here);
        }
        if (rank + 1 < CLUSTER && SPAN - OVERLAP <= at && at < SPAN + OVERLAP) {
            push(&s.inbox[0][at - (SPAN - OVERLAP)], rank + 1, value, &s.waiting.products_here);
        }
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
        const int sides = (rank > 0) + (rank + 1 < CLUSTER);
        if (threadIdx.x == 0) expect(signal, sides * samples * int(sizeof(Sample)));
    }
};
