// Shared memory of the other blocks of a cluster, and how a block learns that they wrote into its own.

__device__ __forceinline__ unsigned remote(const void* address, int rank) {
    unsigned here = unsigned(__cvta_generic_to_shared(address)), there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
    return there;
}

// A signal (an mbarrier) ends its phase when the bytes that its block expects have come with their
// stores. No fence is needed; the release of the cluster's barrier would wait until the whole GPU sees
// all stores.
using Signal = unsigned long long;

__device__ __forceinline__ void init_signal(Signal* signal) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                 "fence.mbarrier_init.release.cluster;"
                 :: "r"(unsigned(__cvta_generic_to_shared(signal))) : "memory");
}

__device__ __forceinline__ void push(Sample* address, int rank, Sample value, Signal* signal) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
                 :: "r"(remote(address, rank)), "f"(value.re), "f"(value.im),
                    "r"(remote(signal, rank)) : "memory");
}

__device__ __forceinline__ void push(float* address, int rank, float value, Signal* signal) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];"
                 :: "r"(remote(address, rank)), "f"(value), "r"(remote(signal, rank)) : "memory");
}

// Samples of another block, of which each is pushed to an index.
struct Remote {
    unsigned samples, signal;
};

__device__ __forceinline__ Remote remote_samples(const Sample* samples, int rank, Signal* signal) {
    return {remote(samples, rank), remote(signal, rank)};
}

__device__ __forceinline__ void push(Remote to, int index, Sample value) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
                 :: "r"(to.samples + index * unsigned(sizeof(Sample))), "f"(value.re), "f"(value.im),
                    "r"(to.signal) : "memory");
}

// For one thread of the block, once a phase.
__device__ __forceinline__ void expect(Signal* signal, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;"
                 :: "r"(unsigned(__cvta_generic_to_shared(signal))), "r"(bytes) : "memory");
}

// Until the phase of this parity has ended.
__device__ __forceinline__ void wait_for(Signal* signal, int parity) {
    unsigned ended;
    do {
        asm volatile("{\n.reg .pred ended;\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, ended;\n}"
                     : "=r"(ended)
                     : "r"(unsigned(__cvta_generic_to_shared(signal))), "r"(parity) : "memory");
    } while (!ended);
}

__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Those of the equalizer's exchanges, the last two with the preconditioner alone.
struct Waiting {
    Signal r_here, y_here, samples_here, products_here;
};

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}
