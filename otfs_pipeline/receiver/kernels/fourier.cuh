// The DFT of the preconditioner: ORDER samples in a block's shared memory, sixteen to a thread.
//
// What comes first is taken apart first, so that frequencies lie in an order of their own: in pass C a
// thread has those of which `factor` counts too, and the way back is the way there in reverse. A sample
// of index i lies at spread(i), where neither neighbours nor every 16th meet in a bank.

// Of passes A and B samples lie so far apart; what is left for pass C are runs of RUN.
constexpr int STRIDE_A = ORDER / POINTS, STRIDE_B = STRIDE_A / POINTS, RUN = STRIDE_B;
// Of pass A only so many of a thread's samples are not known to be 0.
constexpr int FILLED = (SPAN + 2 * OVERLAP + STRIDE_A - 1) / STRIDE_A;
static_assert(512 <= ORDER && RUN <= 2 * POINTS && ITEMS <= THREADS, "Geometry.order");

__device__ __forceinline__ int spread(int i) { return i ^ (i >> 4 & 15); }

__device__ constexpr int reversed(int i, int bits) {
    int out = 0;
    for (int bit = 0; bit < bits; bit++) out |= (i >> bit & 1) << (bits - 1 - bit);
    return out;
}

__device__ __forceinline__ Sample product(Sample a, Sample b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

__device__ __forceinline__ Sample conjugate_product(Sample a, Sample b) {
    return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// e^{-j2πk/32}, k < 16; a constant where k is one.
__device__ __forceinline__ Sample root32(int k) {
    constexpr float cosine[16] = {1.0f,          0.980785280f,  0.923879533f,  0.831469612f,
                                  0.707106781f,  0.555570233f,  0.382683432f,  0.195090322f,
                                  0.0f,          -0.195090322f, -0.382683432f, -0.555570233f,
                                  -0.707106781f, -0.831469612f, -0.923879533f, -0.980785280f};
    return {cosine[k], k < 8 ? -cosine[8 - k] : -cosine[k - 8]};
}

// x e^{-j2πk/16}, k < 8.
__device__ __forceinline__ Sample turned(Sample x, int k) {
    constexpr float half = 0.707106781f;
    if (k == 0) return x;
    if (k == 2) return {half * (x.re + x.im), half * (x.im - x.re)};
    if (k == 4) return {x.im, -x.re};
    if (k == 6) return {half * (x.im - x.re), -half * (x.re + x.im)};
    return product(x, root32(2 * k));
}

__device__ __forceinline__ Sample turned_back(Sample x, int k) {
    constexpr float half = 0.707106781f;
    if (k == 0) return x;
    if (k == 2) return {half * (x.re - x.im), half * (x.im + x.re)};
    if (k == 4) return {-x.im, x.re};
    if (k == 6) return {-half * (x.im + x.re), half * (x.re - x.im)};
    return conjugate_product(root32(2 * k), x);
}

// The DFTs of neighbours, SIZE of them each; frequencies in reversed order.
template <int SIZE>
__device__ __forceinline__ void transform(Sample (&v)[POINTS]) {
#pragma unroll
    for (int half = SIZE / 2; half; half /= 2) {
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            if (i & half) continue;
            Sample a = v[i], b = v[i + half];
            v[i] = a + b;
            v[i + half] = turned(a - b, i % half * (8 / half));
        }
    }
}

template <int SIZE>
__device__ __forceinline__ void transform_back(Sample (&v)[POINTS]) {
#pragma unroll
    for (int half = 1; half < SIZE; half *= 2) {
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            if (i & half) continue;
            Sample a = v[i], b = turned_back(v[i + half], i % half * (8 / half));
            v[i] = a + b;
            v[i + half] = a - b;
        }
    }
}

// Frequency q times turn^q.
template <bool BACK>
__device__ __forceinline__ void turn_all(Sample (&v)[POINTS], Sample turn) {
    Sample power = turn;
#pragma unroll
    for (int q = 1; q < POINTS; q++) {
        Sample& x = v[reversed(q, 4)];
        x = BACK ? conjugate_product(power, x) : product(power, x);
        if (q + 1 < POINTS) power = product(power, turn);
    }
}

// Pass A leaves what pass B begins with, and so on. Between passes A and B there is a barrier of the block;
// what passes B and C exchange stays in a warp.
__device__ __forceinline__ int start_b(int item) { return item / STRIDE_B * STRIDE_A + item % STRIDE_B; }

// Where the samples of pass B lie: the second is known to the compiler.
__device__ __forceinline__ int place_b(int start, int i) { return spread(start) ^ spread(i * STRIDE_B); }

// COUNT: how many of the thread's samples may differ from 0.
template <int COUNT>
__device__ __forceinline__ void pass_a(Sample* work, const Turns& turn, int item) {
    Sample v[POINTS];
#pragma unroll
    for (int i = 0; i < POINTS; i++) v[i] = i < COUNT ? work[item + i * STRIDE_A] : Sample{0, 0};
    transform<POINTS>(v);
    turn_all<false>(v, turn.a[item]);
    // The warp's threads put their samples where others of them took theirs.
    __syncwarp();
#pragma unroll
    for (int i = 0; i < POINTS; i++) work[spread(item) ^ spread(i * STRIDE_A)] = v[i];
}

__device__ __forceinline__ void pass_b(Sample* work, const Turns& turn, int item) {
    Sample v[POINTS];
    const int start = start_b(item);
#pragma unroll
    for (int i = 0; i < POINTS; i++) v[i] = work[place_b(start, i)];
    transform<POINTS>(v);
    turn_all<false>(v, turn.b[item % STRIDE_B]);
#pragma unroll
    for (int i = 0; i < POINTS; i++) work[place_b(start, i)] = v[i];
}

// Runs of 32 are shared by two threads.
__device__ __forceinline__ void pass_c(const Sample* work, Sample (&v)[POINTS], int item) {
#pragma unroll
    for (int i = 0; i < POINTS; i++) v[i] = work[spread(item * POINTS) ^ i];
    if (RUN == 2 * POINTS) {
        const bool upper = item % 2;
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            Sample other = {__shfl_xor_sync(~0u, v[i].re, 1), __shfl_xor_sync(~0u, v[i].im, 1)};
            v[i] = upper ? product(other - v[i], root32(i)) : v[i] + other;
        }
    }
    transform<RUN < POINTS ? RUN : POINTS>(v);
}

__device__ __forceinline__ void pass_c_back(Sample* work, Sample (&v)[POINTS], int item) {
    transform_back<RUN < POINTS ? RUN : POINTS>(v);
    if (RUN == 2 * POINTS) {
        const bool upper = item % 2;
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            Sample own = upper ? conjugate_product(root32(i), v[i]) : v[i];
            Sample other = {__shfl_xor_sync(~0u, own.re, 1), __shfl_xor_sync(~0u, own.im, 1)};
            v[i] = upper ? other - own : own + other;
        }
    }
#pragma unroll
    for (int i = 0; i < POINTS; i++) work[spread(item * POINTS) ^ i] = v[i];
}

__device__ __forceinline__ void pass_b_back(Sample* work, const Turns& turn, int item) {
    Sample v[POINTS];
    const int start = start_b(item);
#pragma unroll
    for (int i = 0; i < POINTS; i++) v[i] = work[place_b(start, i)];
    turn_all<true>(v, turn.b[item % STRIDE_B]);
    transform_back<POINTS>(v);
#pragma unroll
    for (int i = 0; i < POINTS; i++) work[place_b(start, i)] = v[i];
}

// Leaves the samples with the thread: those of index item + i STRIDE_A.
__device__ __forceinline__ void pass_a_back(const Sample* work, const Turns& turn, int item,
                                            Sample (&v)[POINTS]) {
#pragma unroll
    for (int i = 0; i < POINTS; i++) v[i] = work[spread(item) ^ spread(i * STRIDE_A)];
    turn_all<true>(v, turn.a[item]);
    transform_back<POINTS>(v);
}
