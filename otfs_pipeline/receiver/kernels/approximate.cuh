// Square root of x >= 0, to some units in the last place; numbers that are not normal count as 0.
__device__ __forceinline__ float approximate_root(float x) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
}
