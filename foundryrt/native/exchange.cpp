// The exchange between ranks on the CPU (docs/tensor-parallel.md): every rank writes what it has into the
// others' slabs and takes what they have written into its own. A word is its own flag: zero says that it has
// not come yet, so a zero is sent as minus zero, and a word that was read is zero again.
#include <sched.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>

extern "C" struct foundry_exchange {
    int32_t world;     // ranks
    int32_t bits;      // of an element: 32 float32, 16 bfloat16
    int64_t stride;    // bytes from one rank's slab to the next
    int64_t capacity;  // bytes that a rank sends at a time
};

namespace foundry {
namespace {

using Exchange = foundry_exchange;
using Clock = std::chrono::steady_clock;

// As foundryrt/bundle/ranks.py has them.
enum Word { RANK = 0, TAKING_PART = 1, MISSING = 2, BOUND = 3 };
constexpr int32_t LONGEST_MS = 600000;
constexpr uint32_t MINUS_ZERO = 0x80000000;  // a float32, or a pair of bfloat16 with +0 in front
constexpr int SPINS = 2000;
constexpr auto EAGER = std::chrono::microseconds(200), NAP = std::chrono::microseconds(50);

// Other processes read and write slabs, and other threads the words, meanwhile.
template <class T>
T load(const T* at) {
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}
template <class T>
void store(T* at, T value) {
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

void pause() {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

struct Rank {
    const Exchange& of;
    int own, first, end;  // [first, end) take part
    int32_t* words;
    uint8_t* slabs;

    // Where `to` finds in its slab what `from` sent.
    uint32_t* place(int to, int from, int turn) const {
        return reinterpret_cast<uint32_t*>(slabs + to * of.stride + turn * (of.stride / 2) +
                                           from * of.capacity);
    }

    void send(const uint8_t* data, int64_t bytes, uint32_t* to) const {
        const auto put = [&](int64_t at, size_t size) {
            uint32_t word = 0;
            std::memcpy(&word, data + at, size);
            store(to + at / 4, word ? word : MINUS_ZERO);
        };
        int64_t at = 0;
        for (; at + 4 <= bytes; at += 4) put(at, 4);
        if (at < bytes) put(at, bytes - at);
    }

    // False where `from` did not answer in time, or someone knows already that a rank did not.
    bool take(uint32_t* place, int from, int64_t bytes, uint8_t* out) const {
        const auto get = [&](int64_t at, size_t size) {
            uint32_t word = load(place + at / 4);
            if (!word && !(word = wait(place + at / 4, from))) return false;
            store(place + at / 4, 0u);
            std::memcpy(out + at, &word, size);
            return true;
        };
        int64_t at = 0;
        for (; at + 4 <= bytes; at += 4)
            if (!get(at, 4)) return false;
        return at == bytes || get(at, bytes - at);
    }

    uint32_t wait(const uint32_t* at, int from) const {
        for (int spin = 0; spin < SPINS; spin++) {
            if (uint32_t word = load(at)) return word;
            pause();
        }
        const int32_t bound = load(words + BOUND);
        const auto limit = std::chrono::milliseconds(bound < LONGEST_MS ? bound : LONGEST_MS);
        const auto start = Clock::now();
        while (!load(words + MISSING)) {
            if (uint32_t word = load(at)) return word;
            const auto waited = Clock::now() - start;
            if (waited > limit) {
                store(words + MISSING, from + 1);
            } else if (waited < EAGER) {
                sched_yield();
            } else {
                std::this_thread::sleep_for(NAP);
            }
        }
        return 0;
    }

    bool exchange(const uint8_t* data, int64_t bytes, int turn, uint8_t* out, int64_t row) const {
        // The zeros that were left where the exchange before took its words come before these words.
        __atomic_thread_fence(__ATOMIC_RELEASE);
        for (int to = first; to < end; to++) send(data, bytes, place(to, own, turn));
        for (int from = first; from < end; from++)
            if (!take(place(own, from, turn), from, bytes, out + from * row)) return false;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        return true;
    }
};

}  // namespace
}  // namespace foundry

using namespace foundry;

// `x` has `count` elements, `out` gets them of each rank, `turn` is the buffer of the first exchange.
// Returns 0, or 1 where the words name no rank of these.
extern "C" __attribute__((visibility("default"))) int foundry_all_gather(const foundry_exchange* exchange,
                                                                         const uint8_t* x, int64_t count,
                                                                         int32_t* words, uint8_t* slabs,
                                                                         int turn, uint8_t* out) {
    const int own = load(words + RANK), taking_part = load(words + TAKING_PART);
    const bool alone = taking_part == 1;
    if (own < 0 || own >= exchange->world || (!alone && taking_part != exchange->world)) return 1;
    const Rank rank{*exchange, own, alone ? own : 0, alone ? own + 1 : exchange->world, words, slabs};
    const int64_t row = count * exchange->bits / 8;
    bool complete = !load(words + MISSING);
    for (int64_t at = 0; complete && at < row; at += exchange->capacity, turn = 1 - turn) {
        const int64_t bytes = row - at < exchange->capacity ? row - at : exchange->capacity;
        complete = rank.exchange(x + at, bytes, turn, out + at, row);
    }
    for (int from = 0; from < exchange->world; from++)
        if (!complete || from < rank.first || from >= rank.end) std::memset(out + from * row, 0, row);
    return 0;
}
