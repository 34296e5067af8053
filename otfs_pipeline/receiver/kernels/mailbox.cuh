// The GPU's memory as blocks leave values there for one another, and what else a GPU without clusters
// has in place of cluster.cuh.

struct alignas(8) Part {
    float value;
    int step;
};

// Every 8 bytes, which are written and read at once, say which step they are of. So no fence is needed.
// As a vector of 32-bit elements they might come apart.
__device__ __forceinline__ void post(Slot* slot, Sample value, int step) {
    asm volatile("{\n.reg .b64 re, im;\n"
                 "mov.b64 re, {%1, %3};\n"
                 "mov.b64 im, {%2, %3};\n"
                 "st.relaxed.gpu.global.v2.b64 [%0], {re, im};\n}"
                 :: "l"(slot), "f"(value.re), "f"(value.im), "r"(step) : "memory");
}

__device__ __forceinline__ void post(Part* part, float value, int step) {
    asm volatile("{\n.reg .b64 both;\n"
                 "mov.b64 both, {%1, %2};\n"
                 "st.relaxed.gpu.global.b64 [%0], both;\n}"
                 :: "l"(part), "f"(value), "r"(step) : "memory");
}

// Whether what is there is of this step.
__device__ __forceinline__ bool arrived(const Slot* slot, int step, Sample& value) {
    int first, second;
    asm volatile("{\n.reg .b64 re, im;\n"
                 "ld.relaxed.gpu.global.v2.b64 {re, im}, [%4];\n"
                 "mov.b64 {%0, %1}, re;\n"
                 "mov.b64 {%2, %3}, im;\n}"
                 : "=f"(value.re), "=r"(first), "=f"(value.im), "=r"(second) : "l"(slot) : "memory");
    return first == step && second == step;
}

__device__ __forceinline__ bool arrived(const Part* part, int step, float& value) {
    int found;
    asm volatile("{\n.reg .b64 both;\n"
                 "ld.relaxed.gpu.global.b64 both, [%2];\n"
                 "mov.b64 {%0, %1}, both;\n}"
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
