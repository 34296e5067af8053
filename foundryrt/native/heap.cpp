#include "heap.hpp"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
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
constexpr int THRESHOLD = 32 << 20;   // above it a block is a mapping of its own; glibc's own may grow to this, too
constexpr int KEPT = 64 << 20;        // what a heap is grown by, and keeps: a block that is freed stays
constexpr int USUAL = 128 << 10;      // glibc's own for that

std::atomic<bool> used{false};

// Whether memory that is reserved and not used costs nobody anything.
bool plentiful() {
    for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
        rlimit limit{};
        if (getrlimit(resource, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return false;
    }
    // Not through std::ifstream: a stream takes the locale of another copy of libstdc++ that a process may have.
    std::FILE* const file = std::fopen("/proc/sys/vm/overcommit_memory", "re");
    if (file == nullptr) return false;
    const int mode = std::fgetc(file);
    std::fclose(file);
    return mode == '0' || mode == '1';
}

struct Free {
    void operator()(void* block) const { std::free(block); }
};

// Addresses of so many bytes of huge pages in free memory of this thread's heap.
std::vector<void*> reserve(uint64_t bytes) {
    std::vector<void*> pages;
    std::vector<std::unique_ptr<void, Free>> blocks;
    blocks.reserve(bytes / BLOCK + 1);
    while (blocks.size() * BLOCK < bytes) {
        blocks.emplace_back(std::malloc(BLOCK));
        if (blocks.back() == nullptr) break;
        const uint64_t place = reinterpret_cast<uint64_t>(blocks.back().get());
        const uint64_t first = (place + PAGE - 1) / PAGE * PAGE, end = (place + BLOCK) / PAGE * PAGE;
        madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
        for (uint64_t page = first; page < end; page += PAGE) pages.push_back(reinterpret_cast<void*>(page));
    }
    pages.resize(std::min<size_t>(pages.size(), bytes / PAGE));
    return pages;
}

}  // namespace

Room::Room(uint64_t nodes) {
    const uint64_t bytes = nodes * NODE;
    if (bytes < PAGE || !plentiful() || mallopt(M_MMAP_THRESHOLD, THRESHOLD) == 0) return;
    used = true;
    mallopt(M_TOP_PAD, KEPT);
    mallopt(M_TRIM_THRESHOLD, 2 * KEPT);
    try {
        std::vector<void*> pages = reserve(bytes);
        if (pages.empty()) return;
        touching_ = std::thread([this, pages = std::move(pages)] {
            // What is in use by now stays as it is. A fault, unlike MADV_POPULATE_WRITE, lets others map memory.
            for (void* page : pages)
                if (!enough_) __atomic_fetch_or(static_cast<char*>(page), 0, __ATOMIC_RELAXED);
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
