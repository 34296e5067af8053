#include "heap.hpp"

#include <malloc.h>
#include <sys/mman.h>

#include <cstdlib>
#include <system_error>
#include <utility>
#include <vector>

namespace foundry {

Room::~Room() {
    enough_ = true;
    if (touching_.joinable()) touching_.join();
}

#if defined(__GLIBC__) && defined(MADV_HUGEPAGE) && defined(MADV_POPULATE_WRITE)
namespace {

constexpr uint64_t NODE = 7 << 10;
constexpr uint64_t PAGE = 2 << 20;   // a huge one
constexpr uint64_t BLOCK = 31 << 20;  // two to a heap: glibc's, of threads other than the first, have 64 MB
constexpr int THRESHOLD = 32 << 20;  // above it a block is a mapping of its own; glibc's own may grow to this, too
constexpr int KEPT = 64 << 20;       // what a heap is grown by, and keeps: a block that is freed stays

bool settled() {
    static const bool done = mallopt(M_MMAP_THRESHOLD, THRESHOLD) != 0 && mallopt(M_TOP_PAD, KEPT) != 0 &&
                             mallopt(M_TRIM_THRESHOLD, 2 * KEPT) != 0;
    return done;
}

}  // namespace

Room::Room(uint64_t nodes) {
    if (!settled()) return;
    std::vector<void*> blocks;
    std::vector<void*> pages;
    for (uint64_t bytes = nodes * NODE; blocks.size() * BLOCK < bytes;) {
        void* block = std::malloc(BLOCK);
        if (block == nullptr) break;
        blocks.push_back(block);
        const uint64_t place = reinterpret_cast<uint64_t>(block);
        const uint64_t first = (place + PAGE - 1) / PAGE * PAGE, end = (place + BLOCK) / PAGE * PAGE;
        madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
        for (uint64_t page = first; page < end; page += PAGE) pages.push_back(reinterpret_cast<void*>(page));
    }
    for (void* block : blocks) std::free(block);
    if (pages.empty()) return;
    try {
        touching_ = std::thread([this, pages = std::move(pages)] {
            // What is in use by now stays as it is. One by one: meanwhile nobody can map memory.
            for (void* page : pages)
                if (!enough_) madvise(page, PAGE, MADV_POPULATE_WRITE);
        });
    } catch (const std::system_error&) {
        // The system gives no more threads: the pages are touched when they are used.
    }
}

void Room::give_back() { malloc_trim(0); }
#else
Room::Room(uint64_t) {}
void Room::give_back() {}
#endif

}  // namespace foundry
