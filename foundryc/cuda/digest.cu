// BLAKE3 of many byte ranges in device memory: a thread takes a chunk of 1 KiB, a block the tree of one range.
// https://github.com/BLAKE3-team/BLAKE3-specs, sections 2.1 to 2.5.

struct Range {
    unsigned long long address;  // aligned to 16 bytes
    unsigned long long length;   // never 0
    unsigned long long first;    // its first chunk among those of all ranges
};

constexpr unsigned CHUNK = 1024, BLOCK = 64;
constexpr unsigned CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8;
__constant__ const unsigned IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                     0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

__device__ __forceinline__ unsigned turn(unsigned x, int by) { return x >> by | x << (32 - by); }

__device__ __forceinline__ void mix(unsigned (&v)[16], int a, int b, int c, int d, unsigned x, unsigned y) {
    v[a] += v[b] + x, v[d] = turn(v[d] ^ v[a], 16);
    v[c] += v[d], v[b] = turn(v[b] ^ v[c], 12);
    v[a] += v[b] + y, v[d] = turn(v[d] ^ v[a], 8);
    v[c] += v[d], v[b] = turn(v[b] ^ v[c], 7);
}

// Replaces the chaining value `cv` by that after the 16 words of `m`.
__device__ void compress(unsigned (&cv)[8], unsigned (&m)[16], unsigned long long counter, unsigned length,
                         unsigned flags) {
    constexpr int order[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    unsigned v[16];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = cv[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[8 + i] = IV[i];
    v[12] = static_cast<unsigned>(counter), v[13] = static_cast<unsigned>(counter >> 32);
    v[14] = length, v[15] = flags;
#pragma unroll
    for (int round = 0; round < 7; ++round) {
#pragma unroll
        for (int i = 0; i < 4; ++i) mix(v, i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i]);
        unsigned next[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) next[i] = m[order[i]];
#pragma unroll
        for (int i = 0; i < 16; ++i) m[i] = next[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) cv[i] = v[i] ^ v[i + 8];
}

__device__ void load(unsigned (&m)[16], const unsigned char* from, unsigned length) {
    if (length == BLOCK) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 part = reinterpret_cast<const uint4*>(from)[i];
            m[4 * i] = part.x, m[4 * i + 1] = part.y, m[4 * i + 2] = part.z, m[4 * i + 3] = part.w;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        m[i] = 0;
        for (unsigned byte = 0; byte < 4; ++byte)
            if (4 * i + byte < length) m[i] |= static_cast<unsigned>(from[4 * i + byte]) << (8 * byte);
    }
}

// values[chunk][8] for every chunk of every range; blockIdx.y is the range.
extern "C" __global__ void foundry_blake3_chunks(const Range* ranges, unsigned* values) {
    const Range range = ranges[blockIdx.y];
    const unsigned long long chunk = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const unsigned long long chunks = (range.length + CHUNK - 1) / CHUNK;
    if (chunk >= chunks) return;
    const auto* bytes = reinterpret_cast<const unsigned char*>(range.address) + chunk * CHUNK;
    const unsigned long long left = range.length - chunk * CHUNK;
    const unsigned length = left < CHUNK ? static_cast<unsigned>(left) : CHUNK;
    unsigned cv[8], m[16];
#pragma unroll
    for (int i = 0; i < 8; ++i) cv[i] = IV[i];
    for (unsigned start = 0; start < length; start += BLOCK) {
        const unsigned size = min(length - start, BLOCK);
        unsigned flags = start == 0 ? CHUNK_START : 0;
        if (start + size == length) flags |= CHUNK_END | (chunks == 1 ? ROOT : 0);
        load(m, bytes + start, size);
        compress(cv, m, chunk, size, flags);
    }
    unsigned* out = values + 8 * (range.first - ranges[0].first + chunk);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = cv[i];
}

// Joins neighbours until one value is left, an odd last one going up as it is: BLAKE3's tree. `spare` is as large as
// `values`; digests[range][8].
extern "C" __global__ void foundry_blake3_tree(const Range* ranges, unsigned* values, unsigned* spare,
                                               unsigned* digests) {
    const Range range = ranges[blockIdx.x];
    unsigned* from = values + 8 * (range.first - ranges[0].first);
    unsigned* to = spare + 8 * (range.first - ranges[0].first);
    for (unsigned long long count = (range.length + CHUNK - 1) / CHUNK; count > 1; count = (count + 1) / 2) {
        for (unsigned long long i = threadIdx.x; i < (count + 1) / 2; i += blockDim.x) {
            unsigned cv[8], m[16];
            if (2 * i + 1 == count) {
                for (int k = 0; k < 8; ++k) to[8 * i + k] = from[16 * i + k];
                continue;
            }
#pragma unroll
            for (int k = 0; k < 8; ++k) cv[k] = IV[k];
#pragma unroll
            for (int k = 0; k < 16; ++k) m[k] = from[16 * i + k];
            compress(cv, m, 0, BLOCK, PARENT | (count == 2 ? ROOT : 0));
#pragma unroll
            for (int k = 0; k < 8; ++k) to[8 * i + k] = cv[k];
        }
        __syncthreads();
        unsigned* swap = from;
        from = to, to = swap;
    }
    if (threadIdx.x < 8) digests[8 * blockIdx.x + threadIdx.x] = from[threadIdx.x];
}
