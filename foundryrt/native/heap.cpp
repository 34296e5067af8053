#include "heap.hpp"

#include <malloc.h>
#include <sys/mman.h>

#include <cstdlib>
#include <vector>

namespace foundry {

#if defined(__GLIBC__) && defined(MADV_HUGEPAGE)
namespace {

constexpr int64_t NODE = 12 << 10;        // with a margin: 6 to 9 KB were seen
constexpr uintptr_t PAGE = 2 << 20;       // a huge one
constexpr int64_t BLOCK = 31 << 20;       // as large as glibc still takes from a heap
constexpr int THRESHOLD = 32 << 20;       // above it a block is a mapping of its own, as glibc's own threshold grows to
constexpr int KEPT = 64 << 20;            // what a heap is grown by, and keeps: a block that is freed stays

bool settled() {
    static const bool done = mallopt(M_MMAP_THRESHOLD, THRESHOLD) != 0 && mallopt(M_TOP_PAD, KEPT) != 0 &&
                             mallopt(M_TRIM_THRESHOLD, 2 * KEPT) != 0;
    return done;
}

}  // namespace

void make_room(uint64_t nodes) {
    thread_local int64_t room = 0;
    if (!settled()) return;
    room -= static_cast<int64_t>(nodes) * NODE;
    std::vector<void*> blocks;
    for (; room < 0; room += BLOCK) {
        void* block = std::malloc(BLOCK);
        if (block == nullptr) break;
        blocks.push_back(block);
        const uintptr_t start = (reinterpret_cast<uintptr_t>(block) + PAGE - 1) / PAGE * PAGE;
        const uintptr_t end = (reinterpret_cast<uintptr_t>(block) + BLOCK) / PAGE * PAGE;
        madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
    }
    for (void* block : blocks) std::free(block);
}
#else
void make_room(uint64_t) {}
#endif

}  // namespace foundry
