// What all kernels share. The capitals are those of macros.macros.

#define TINY 1e-30f


struct alignas(8) Sample {
    float re, im;
};

// A sample that one block leaves for another (mailbox.cuh).
struct alignas(16) Slot {
    float re;
    int re_step;
    float im;
    int im_step;
};

__device__ __forceinline__ Sample operator+(Sample a, Sample b) { return {a.re + b.re, a.im + b.im}; }
__device__ __forceinline__ Sample operator-(Sample a, Sample b) { return {a.re - b.re, a.im - b.im}; }
__device__ __forceinline__ Sample operator*(float a, Sample b) { return {a * b.re, a * b.im}; }
__device__ __forceinline__ float energy(Sample a) { return a.re * a.re + a.im * a.im; }

// sum += a·b
__device__ __forceinline__ void add_product(Sample& sum, Sample a, Sample b) {
    sum.re += a.re * b.re;
    sum.im += a.re * b.im;
    sum.re -= a.im * b.im;
    sum.im += a.im * b.re;
}

// sum += conj(a)·b
__device__ __forceinline__ void add_conjugate_product(Sample& sum, Sample a, Sample b) {
    sum.re += a.re * b.re;
    sum.im += a.re * b.im;
    sum.re += a.im * b.im;
    sum.im -= a.im * b.re;
}

// e^{j2π turns/period}; the reduction is exact, so the phase is as good as a float can hold.
__device__ __forceinline__ Sample root(long long turns, int period) {
    int rest = int(turns % period);
    Sample w;
    sincospif(2.0f * float(rest) / float(period), &w.im, &w.re);
    return w;
}

// The same order on every lane and in every run.
__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}
