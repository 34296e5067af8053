// Records in shared memory: one process puts them, several others take every one of them, in order.
//
// Who waits looks for a while, then sleeps on a futex until it is woken or its time is over: the other
// side may have died. Positions count bytes and only grow.
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kMostReaders = 63;
constexpr auto kLook = std::chrono::microseconds(50);
enum Outcome : int { kDone = 0, kTimeOver = 1, kMisuse = 2 };

struct Record {
    uint32_t kind, index;
    uint64_t value, bytes;  // the bytes follow
};

struct alignas(64) Event {
    std::atomic<uint32_t> count{0}, sleepers{0};

    // Sequential consistency of both sides: either this sees the sleeper, or the sleeper the count.
    void happened() {
        count.fetch_add(1);
        if (sleepers.load()) futex(FUTEX_WAKE, INT32_MAX, nullptr);
    }

    template <class Condition>
    bool wait(const Condition& holds, Clock::time_point end) {
        for (const auto looked = Clock::now() + kLook; Clock::now() < looked;) {
            if (holds()) return true;
            for (int i = 0; i < 32; i++) pause();
        }
        for (;;) {
            const uint32_t seen = count.load();
            if (holds()) return true;
            const auto left =
                std::chrono::duration_cast<std::chrono::nanoseconds>(end - Clock::now()).count();
            if (left <= 0) return false;
            const timespec time{static_cast<time_t>(left / 1000000000), static_cast<long>(left % 1000000000)};
            sleepers.fetch_add(1);
            futex(FUTEX_WAIT, seen, &time);
            sleepers.fetch_sub(1);
        }
    }

  private:
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
    }

    void futex(int operation, uint32_t value, const timespec* time) {
        syscall(SYS_futex, &count, operation, value, time, nullptr, 0);
    }
};

struct Position {
    alignas(64) std::atomic<uint64_t> bytes{0};
};

struct Shared {
    Position put;
    Event was_put, was_taken;
    Position taken[kMostReaders];
};

constexpr uint64_t kHeader = 1 << 16;  // the largest page of any kernel
static_assert(sizeof(Shared) <= kHeader);
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

uint64_t padded(uint64_t bytes) { return (sizeof(Record) + bytes + 7) / 8 * 8; }

Clock::time_point after(uint32_t milliseconds) {
    return Clock::now() + std::chrono::milliseconds(milliseconds);
}

}  // namespace

struct foundry_ring {
    char* memory;
    uint64_t capacity;
    uint32_t readers;

    Shared& shared() const { return *reinterpret_cast<Shared*>(memory); }
    // The records' memory is mapped twice in a row, so that each lies in one piece.
    char* at(uint64_t position) const { return memory + kHeader + position % capacity; }

    uint64_t slowest() const {
        uint64_t least = shared().put.bytes.load();
        for (uint32_t i = 0; i < readers; i++) {
            const uint64_t taken = shared().taken[i].bytes.load();
            if (taken < least) least = taken;
        }
        return least;
    }
};

// Bytes of the file behind a ring with room for `capacity` bytes of records.
EXPORT uint64_t foundry_ring_bytes(uint64_t capacity) { return kHeader + capacity; }

// Maps the file: zeros for a new ring. `capacity` is a multiple of 64 KiB. 0, or an errno.
EXPORT int foundry_ring_open(int file, uint32_t readers, uint64_t capacity, foundry_ring** opened) {
    if (readers < 1 || readers > kMostReaders || capacity < kHeader || capacity % kHeader) return EINVAL;
    void* whole = mmap(nullptr, kHeader + 2 * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole == MAP_FAILED) return errno;
    char* memory = static_cast<char*>(whole);
    const int access = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;
    if (mmap(memory, kHeader + capacity, access, flags, file, 0) == MAP_FAILED ||
        mmap(memory + kHeader + capacity, capacity, access, flags, file, kHeader) == MAP_FAILED) {
        const int code = errno;
        munmap(memory, kHeader + 2 * capacity);
        return code;
    }
    *opened = new (std::nothrow) foundry_ring{memory, capacity, readers};
    if (*opened) return 0;
    munmap(memory, kHeader + 2 * capacity);
    return ENOMEM;
}

EXPORT void foundry_ring_close(foundry_ring* ring) {
    munmap(ring->memory, kHeader + 2 * ring->capacity);
    delete ring;
}

// Puts a record once the slowest reader has left room for it. For one thread at a time.
EXPORT int foundry_ring_put(foundry_ring* ring, uint32_t kind, uint32_t index, uint64_t value,
                            const void* data, uint64_t bytes, uint32_t milliseconds) {
    Shared& shared = ring->shared();
    if (bytes > ring->capacity || padded(bytes) > ring->capacity) return kMisuse;
    const uint64_t place = shared.put.bytes.load(), end = place + padded(bytes);
    const auto is_free = [&] { return end - ring->slowest() <= ring->capacity; };
    if (!shared.was_taken.wait(is_free, after(milliseconds))) return kTimeOver;
    const Record record{kind, index, value, bytes};
    std::memcpy(ring->at(place), &record, sizeof record);
    if (bytes) std::memcpy(ring->at(place) + sizeof record, data, bytes);
    shared.put.bytes.store(end);
    shared.was_put.happened();
    return kDone;
}

// Gives the next record of a reader; it stays until `foundry_ring_done`.
EXPORT int foundry_ring_take(foundry_ring* ring, uint32_t reader, uint32_t milliseconds,
                             const Record** found) {
    Shared& shared = ring->shared();
    if (reader >= ring->readers) return kMisuse;
    const uint64_t place = shared.taken[reader].bytes.load();
    const auto is_there = [&] { return shared.put.bytes.load() != place; };
    if (!shared.was_put.wait(is_there, after(milliseconds))) return kTimeOver;
    *found = reinterpret_cast<const Record*>(ring->at(place));
    return kDone;
}

EXPORT void foundry_ring_done(foundry_ring* ring, uint32_t reader) {
    Shared& shared = ring->shared();
    std::atomic<uint64_t>& taken = shared.taken[reader].bytes;
    const uint64_t place = taken.load();
    taken.store(place + padded(reinterpret_cast<const Record*>(ring->at(place))->bytes));
    shared.was_taken.happened();
}

// Waits until every reader is done with every record.
EXPORT int foundry_ring_drain(foundry_ring* ring, uint32_t milliseconds) {
    Shared& shared = ring->shared();
    const auto is_empty = [&] { return ring->slowest() == shared.put.bytes.load(); };
    return shared.was_taken.wait(is_empty, after(milliseconds)) ? kDone : kTimeOver;
}
