// The GPU's memory as blocks leave values there for one another, and what else a GPU without clusters
// has in place of cluster.cuh.

struct alignas(8) Part {
    float value;
    int step;
};

// Every 8 bytes, which the GPU writes and reads at once, say which step they are of. So no fence is needed.
__device__ __forceinline__ void post(Slot* slot, Sample value, int step) {
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :: "l"(slot), "f"(value.re), "r"(step), "f"(value.im), "r"(step) : "memory");
}

__device__ __forceinline__ void post(Part* part, float value, int step) {
    asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};"
                 :: "l"(part), "f"(value), "r"(step) : "memory");
}

// Whether what is there is of this step.
__device__ __forceinline__ bool arrived(const Slot* slot, int step, Sample& value) {
    int first, second;
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.re), "=r"(first), "=f"(value.im), "=r"(second) : "l"(slot) : "memory");
    return first == step && second == step;
}

__device__ __forceinline__ bool arrived(const Part* part, int step, float& value) {
    int found;
    asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];"
                 : "=f"(value), "=r"(found) : "l"(part) : "memory");
    return found == step;
}

// A barrier of so many of the block's threads, whole warps.
__device__ __forceinline__ void barrier_of(int threads) {
    asm volatile("bar.sync 1, %0;" :: "r"(threads) : "memory");
}

// What a block of the equalizer remembers of how it is placed.
struct Waiting {
    int ticket;
};

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}
