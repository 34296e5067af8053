// Preloaded by fuzz_operators.py: each block that torch allocates ends where a page without access
// begins, and freed ones lose access, so that an operator which leaves its tensors ends the process.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

extern void __libc_free(void *);

static const size_t page = 4096, range = (size_t)1 << 40, largest = (size_t)1 << 28;
static char *start;      // of the blocks
static uint32_t *pages;  // of the block that begins at each page
static size_t used;

static void *reserve(size_t bytes, int access) {
    return mmap(NULL, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    if (!start) {
        pages = reserve(range / page * sizeof *pages, PROT_READ | PROT_WRITE);
        start = reserve(range, PROT_NONE);
    }
    if (size > largest) return ENOMEM;
    size_t count = size ? (size + page - 1) / page : 1;
    size_t offset = __sync_fetch_and_add(&used, (count + 2) * page) + page;
    if (offset + count * page > range) return ENOMEM;
    if (mprotect(start + offset, count * page, PROT_READ | PROT_WRITE)) return ENOMEM;
    pages[offset / page] = count;
    // Only as aligned as the size is: up to 63 bytes behind a block would go unseen otherwise.
    size_t natural = size & -size;
    if (natural && natural < alignment) alignment = natural;
    *block = start + offset + (size ? (count * page - size) & ~(alignment - 1) : 0);
    return 0;
}

void free(void *block) {
    if (!start || (char *)block < start || (char *)block >= start + range) {
        __libc_free(block);
        return;
    }
    size_t offset = ((char *)block - start) & ~(page - 1);
    size_t length = pages[offset / page] * page;
    madvise(start + offset, length, MADV_DONTNEED);
    mprotect(start + offset, length, PROT_NONE);
}
