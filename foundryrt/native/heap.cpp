#include "heap.hpp"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

namespace foundry {

Room::~Room() {
    enough_ = true;
    if (touching_.joinable()) touching_.join();
}

#if defined(__GLIBC__) && defined(MADV_HUGEPAGE)
namespace {

constexpr uint64_t NODE = 7 << 10;
constexpr uint64_t PAGE = 2 << 20;    // a huge one
constexpr uint64_t BLOCK = 31 << 20;  // two to a heap: glibc's, of threads other than the first, have 64 MB
constexpr int THRESHOLD =
    32 << 20;                   // above it a block is a mapping of its own; glibc's own may grow to this, too
constexpr int KEPT = 64 << 20;  // what a heap is grown by, and keeps: a block that is freed stays
constexpr int USUAL = 128 << 10;  // glibc's own for that

std::atomic<bool> used{false};

// Whether memory that is reserved and not used costs nobody anything.
bool plentiful() {
    for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
        rlimit limit{};
        if (getrlimit(resource, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return false;
    }
    // Not through std::ifstream: a stream takes the locale of another copy of libstdc++ that a process may
    // have.
    std::FILE* const file = std::fopen("/proc/sys/vm/overcommit_memory", "re");
    if (file == nullptr) return false;
    const int mode = std::fgetc(file);
    std::fclose(file);
    return mode == '0' || mode == '1';
}

struct Free {
    void operator()(void* block) const { std::free(block); }
};

using Block = std::unique_ptr<char, Free>;

// The first huge page that begins in a block; they end before `block + BLOCK`.
char* pages(const Block& block) {
    return reinterpret_cast<char*>((reinterpret_cast<uint64_t>(block.get()) + PAGE - 1) / PAGE * PAGE);
}

// Blocks of this thread's heap, of so many bytes in all, to be on huge pages.
std::vector<Block> reserve(uint64_t bytes) {
    std::vector<Block> blocks;
    blocks.reserve(bytes / BLOCK + 1);
    while (blocks.size() * BLOCK < bytes) {
        Block block(static_cast<char*>(std::malloc(BLOCK)));
        if (block == nullptr) break;
        char* const first = pages(block);
        madvise(first, (block.get() + BLOCK - first) / PAGE * PAGE, MADV_HUGEPAGE);
        blocks.push_back(std::move(block));
    }
    return blocks;
}

}  // namespace

Room::Room(uint64_t nodes) {
    const uint64_t bytes = nodes * NODE;
    if (bytes < PAGE || !plentiful() || mallopt(M_MMAP_THRESHOLD, THRESHOLD) == 0) return;
    used = true;
    mallopt(M_TOP_PAD, KEPT);
    mallopt(M_TRIM_THRESHOLD, 2 * KEPT);
    try {
        touching_ = std::thread([this, left = bytes / PAGE, blocks = reserve(bytes)]() mutable {
            // Each is touched while it is still ours: a heap that is free may be unmapped at any time. A
            // fault, unlike MADV_POPULATE_WRITE, lets others map memory.
            for (Block& block : blocks) {
                for (char* page = pages(block); page + PAGE <= block.get() + BLOCK && left > 0 && !enough_;
                     page += PAGE, --left)
                    *static_cast<volatile char*>(page) = 0;
                block.reset();
            }
        });
    } catch (const std::exception&) {
        // The system gives no more threads or memory: pages are touched when they are used.
    }
}

void Room::give_back() {
    if (!used) return;
    mallopt(M_TOP_PAD, USUAL);
    mallopt(M_TRIM_THRESHOLD, PAGE);
    malloc_trim(0);
}
#else
Room::Room(uint64_t) {}
void Room::give_back() {}
#endif

}  // namespace foundry
