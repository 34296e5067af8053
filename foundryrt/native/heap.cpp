#include "heap.hpp"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

namespace foundry {

#if defined(__GLIBC__) && defined(MADV_HUGEPAGE)
namespace {

constexpr uint64_t NODE = 7 << 10;
constexpr uint64_t PAGE = 2 << 20;  // a huge one
// Two to a heap: those of glibc's threads have 64 MB each. Memory that malloc aligns to huge pages costs one
// more of them for each block.
constexpr uint64_t BLOCK = 31 << 20;
// A larger block is a mapping of its own; glibc raises it to this by itself, too.
constexpr int MMAP_THRESHOLD = 32 << 20;
// A heap grows by so much, and keeps twice that: a block that is freed stays.
constexpr int PAD = 64 << 20;
constexpr int DEFAULT_PAD = 128 << 10;  // glibc's

std::atomic<bool> options_set{false};

// Whether memory that is reserved and not used costs nobody anything.
bool reserving_is_free() {
    for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
        rlimit limit{};
        if (getrlimit(resource, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return false;
    }
    std::FILE* const file = std::fopen("/proc/sys/vm/overcommit_memory", "re");
    if (file == nullptr) return false;
    const int mode = std::fgetc(file);
    std::fclose(file);
    return mode == '0' || mode == '1';
}

// The first huge page that begins in a block; they end before `block + BLOCK`.
char* first_page(char* block) {
    return reinterpret_cast<char*>((reinterpret_cast<uint64_t>(block) + PAGE - 1) / PAGE * PAGE);
}

}  // namespace

HeapPrefault::HeapPrefault(uint64_t nodes, const std::atomic<bool>& wanted) : wanted_(wanted) {
    // Whatever a bundle claims: two threads get half of the machine's memory at most.
    const uint64_t most = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 4;
    const uint64_t pages = std::min(nodes, most / NODE) * NODE / PAGE;
    if (pages == 0 || !reserving_is_free() || mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD) == 0) return;
    options_set = true;
    mallopt(M_TOP_PAD, PAD);
    mallopt(M_TRIM_THRESHOLD, 2 * PAD);
    blocks_.resize((pages * PAGE + BLOCK - 1) / BLOCK);
    for (auto& block : blocks_) {
        block.reset(static_cast<char*>(std::malloc(BLOCK)));
        if (block == nullptr) break;
        char* const first = first_page(block.get());
        madvise(first, (block.get() + BLOCK - first) / PAGE * PAGE, MADV_HUGEPAGE);
    }
    toucher_ = Threads(1, [this, pages](size_t) { touch(pages); });
    if (toucher_.size() == 0) blocks_.clear();  // pages are touched when they are used
}

// Each block is touched while it is still ours: a heap that is free may be unmapped at any time. A fault,
// unlike MADV_POPULATE_WRITE, lets other threads map memory.
void HeapPrefault::touch(uint64_t pages) {
    while (!wanted_ && !enough_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (auto& block : blocks_) {
        if (block == nullptr) break;
        for (char* page = first_page(block.get());
             page + PAGE <= block.get() + BLOCK && pages > 0 && !enough_; page += PAGE, --pages)
            *static_cast<volatile char*>(page) = 0;
        block.reset();
    }
}

void trim_heap() {
    if (!options_set) return;
    mallopt(M_TOP_PAD, DEFAULT_PAD);
    mallopt(M_TRIM_THRESHOLD, PAGE);
    malloc_trim(0);
}
#else
HeapPrefault::HeapPrefault(uint64_t, const std::atomic<bool>& wanted) : wanted_(wanted) {}
void trim_heap() {}
#endif

}  // namespace foundry
