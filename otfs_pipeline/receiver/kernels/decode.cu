// The LDPC decoder (see decoder.py, whose messages these are): one thread block a code block.
//
// A thread owns check k of every row of the base graph, and remembers of each two magnitudes, the
// signs and which input was the least reliable. Posteriors are in shared memory. A row meets each
// column once, so that its checks touch different bits, and rows wait for one another.
// A block ends early when as many rows in turn as there are found their checks fulfilled and changed no
// decision.

constexpr int LARGEST_DEGREE = 19;
constexpr float INFINITE = 1e30f;

struct Check {
    float to_least, to_others;
    // Bit DEGREE - 1 - j: the message to input j is negative; above them, which input is the least reliable.
    unsigned signs;
};

__device__ __forceinline__ unsigned negative(float x) { return __float_as_uint(x) >> 31; }

template <int DEGREE>
__device__ __forceinline__ float message(const Check& check, int input) {
    const float magnitude = int(check.signs >> LARGEST_DEGREE) == input ? check.to_least : check.to_others;
    // Its sign is the number's.
    return __uint_as_float(__float_as_uint(magnitude) ^ (check.signs << (32 - DEGREE + input) & 0x80000000u));
}

__device__ __forceinline__ float box_plus(float low, float high) {
    return low + fmaxf(OFFSET - SLOPE * (low + high), 0.0f) - fmaxf(OFFSET - SLOPE * (high - low), 0.0f);
}

// Check k of a row with these edges. Gives whether it was not fulfilled, or a decision was changed.
template <int DEGREE>
__device__ __forceinline__ bool update(float* posterior, const unsigned* edges, Check& check, int k) {
    const Check before = check;
    float least = INFINITE, second = INFINITE, third = INFINITE, input[DEGREE];
    int place[DEGREE];
    unsigned which = 0, signs = 0, decided = 0;
#pragma unroll
    for (int j = 0; j < DEGREE; j++) {
        const unsigned edge = edges[j];
        int turned = k + int(edge & 0xffff);
        turned -= turned >= LIFTING ? LIFTING : 0;
        place[j] = (edge >> 16) * LIFTING + turned;
    }
#pragma unroll
    for (int j = 0; j < DEGREE; j++) {
        const float value = posterior[place[j]];
        input[j] = value - message<DEGREE>(before, j);
        const float size = fabsf(input[j]);
        decided = decided << 1 | unsigned(value < 0);
        signs = signs << 1 | negative(input[j]);
        third = fminf(third, fmaxf(second, size));
        second = fminf(second, fmaxf(least, size));
        which = size < least ? j : which;
        least = fminf(least, size);
    }
    const float to_least = box_plus(second, third);
    const float low = fminf(least, to_least), high = fmaxf(least, to_least);
    const unsigned all = __popc(signs) & 1 ? (1u << DEGREE) - 1 : 0;
    check = {to_least, box_plus(low, high), (signs ^ all) | which << LARGEST_DEGREE};
    unsigned decided_now = 0;
#pragma unroll
    for (int j = 0; j < DEGREE; j++) {
        const float after = input[j] + message<DEGREE>(check, j);
        decided_now = decided_now << 1 | unsigned(after < 0);
        posterior[place[j]] = after;
    }
    return decided != decided_now || __popc(decided) & 1;
}

// The channel's LLR of a bit of the codeword: bit selection and interleaving of 38.212, 5.4.2, undone.
__device__ float received(const float* llr, int bit) {
    if (bit >= BLOCK_BITS && bit < KNOWN * LIFTING) return FILLER_LLR;
    if (bit < 2 * LIFTING) return 0;
    constexpr int SYMBOLS = CODED_BITS / BITS_PER_SYMBOL, LONGER = SYMBOLS % BLOCKS;
    const int block = blockIdx.x, longer = block - (BLOCKS - LONGER);
    const int symbols = SYMBOLS / BLOCKS + (longer >= 0);
    const float* sent = llr + BITS_PER_SYMBOL * (block * (SYMBOLS / BLOCKS) + (longer > 0 ? longer : 0));
    int place = bit - 2 * LIFTING - (bit < BLOCK_BITS ? 0 : FILLERS) - FIRST;
    if (place < 0) place += BUFFER;
    float sum = 0;
    for (; place < symbols * BITS_PER_SYMBOL; place += BUFFER) {
        sum += sent[place % symbols * BITS_PER_SYMBOL + place / symbols];
    }
    return sum;
}

__device__ unsigned block_xor(unsigned value, unsigned* of_warps) {
    for (int offset = 16; offset; offset /= 2) value ^= __shfl_xor_sync(~0u, value, offset);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    unsigned total = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) total ^= of_warps[warp];
    __syncthreads();
    return total;
}

// `rows` [ROWS + 1]: each row's first edge; `edges` [EDGES]: column · Z_c and, in the low 16 bits, shift.
// `block_check`, `part_check`: remainders of each bit. `parts` [BLOCKS]: of each block's payload.
extern "C" __global__ void __launch_bounds__(THREADS)
decode(const float* llr, const int* rows, const unsigned* edges, const unsigned* block_check,
       const unsigned* part_check, unsigned char* payload, unsigned char* block_errors,
       unsigned* parts) {
    float* posterior = reinterpret_cast<float*>(dynamic_shared());
    __shared__ unsigned edge[EDGES];
    __shared__ int first_edge[ROWS + 1];
    __shared__ unsigned of_warps[THREADS / 32];
    __shared__ bool has_undecided;
    const int k = threadIdx.x;
    for (int i = k; i < EDGES; i += THREADS) edge[i] = edges[i];
    for (int i = k; i <= ROWS; i += THREADS) first_edge[i] = rows[i];
    for (int i = k; i < COLUMNS * LIFTING; i += THREADS) posterior[i] = received(llr, i);
    if (k == 0) has_undecided = false;
    Check checks[ROWS];
    for (int row = 0; row < ROWS; row++) checks[row] = {0, 0, 0};
    __syncthreads();
    for (int step = 0, right = 0; step < ITERATIONS * ROWS && right < ROWS; step++) {
        const int row = step % ROWS, begin = first_edge[row];
        bool wrong = false;
        if (k < LIFTING) {
            switch (first_edge[row + 1] - begin) {
#define UPDATE(DEGREE)                                                        \
    case DEGREE:                                                              \
        wrong = update<DEGREE>(posterior, edge + begin, checks[row], k);      \
        break;
                EACH_DEGREE(UPDATE)
#undef UPDATE
            }
        }
        right = __syncthreads_or(wrong) ? 0 : right + 1;
    }
    // A word of zeros has the right CRC, so a bit that stayed undecided counts as an error.
    unsigned own = 0, part = 0;
    bool undecided = false;
    for (int i = k; i < BLOCK_BITS; i += THREADS) {
        const unsigned bit = posterior[i] < 0;
        undecided |= posterior[i] == 0;
        const int at = int(blockIdx.x) * PART_BITS + i;
        own ^= bit ? block_check[i] : 0;
        if (i >= PART_BITS) continue;
        if (BLOCKS > 1) part ^= bit ? part_check[i] : 0;
        if (at < PAYLOAD_BITS) payload[at] = (unsigned char)bit;
    }
    if (undecided) has_undecided = true;
    own = block_xor(own, of_warps), part = block_xor(part, of_warps);
    if (k == 0) block_errors[blockIdx.x] = own != 0 || has_undecided, parts[blockIdx.x] = part;
}

// The frame's own CRC of its blocks' parts, by one warp. `places` [BLOCKS][CHECK_BITS]: what each bit of
// a part's remainder, the highest first, is in the frame's.
extern "C" __global__ void __launch_bounds__(32)
check_frame(const unsigned* parts, const unsigned* places, const unsigned char* block_errors,
            unsigned char* frame_error) {
    unsigned remainder = 0, failed = 0;
    for (int block = threadIdx.x; block < BLOCKS; block += 32) {
        failed |= block_errors[block];
        // The checksum of a single block is the frame's.
        for (int bit = 0; bit < (BLOCKS > 1 ? CHECK_BITS : 0); bit++) {
            bool set = parts[block] >> (CHECK_BITS - 1 - bit) & 1;
            remainder ^= set ? places[block * CHECK_BITS + bit] : 0;
        }
    }
    for (int offset = 16; offset; offset /= 2) {
        remainder ^= __shfl_xor_sync(~0u, remainder, offset);
        failed |= __shfl_xor_sync(~0u, failed, offset);
    }
    if (threadIdx.x == 0) *frame_error = remainder || failed;
}
