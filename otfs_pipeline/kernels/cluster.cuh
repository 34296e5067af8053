// Shared memory of the other blocks of a cluster, and the cluster's barrier.

__device__ __forceinline__ unsigned remote(const void* address, int rank) {
    unsigned here = unsigned(__cvta_generic_to_shared(address)), there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
    return there;
}

__device__ __forceinline__ void push(Sample* address, int rank, Sample value) {
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};"
                 :: "r"(remote(address, rank)), "f"(value.re), "f"(value.im) : "memory");
}

__device__ __forceinline__ void push(float* address, int rank, float value) {
    asm volatile("st.shared::cluster.f32 [%0], %1;"
                 :: "r"(remote(address, rank)), "f"(value) : "memory");
}

// The barrier in two parts: what a thread pushed before it arrived is there for those that waited.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_barrier() {
    cluster_arrive();
    cluster_wait();
}

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}
