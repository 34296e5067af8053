// The allocator of a process that makes a capture to compare (foundryc/elsewhere.py), by LD_PRELOAD.
//
// What kernels' arguments hold besides values, such as pointers into the heap, is noise where captures
// differ, and the lowest byte of such a pointer may be the same in all of them by chance. So all addresses
// given here are even multiples of their alignment in one of these processes (FOUNDRY_HEAP_HALF=0) and odd
// ones in another (1): of pointers to the same thing, or to the same place in it, the lowest bytes differ.
#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

// The C library's own, by the names under which it still has them.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
}

namespace {

constexpr size_t SMALLEST = 16, LARGEST = 128;  // alignments that show in the lowest byte
// Its lowest bits are those by which the C library knows memory that it mapped for one allocation: a library
// that was loaded to call its free() by itself (RTLD_DEEPBIND) ends there with a message, not in another
// arena.
constexpr uint64_t MARK = 0x8c1f3a5e7d92b602;

// Lies in front of each allocation; others, aligned to more than LARGEST, are the C library's as they are.
struct Header {
    void* whole;    // what the C library gave
    size_t size;    // what was asked for
    uint64_t mark;  // MARK ^ address of the allocation; the C library keeps a size in its place
};

// Bytes that an allocation takes beside its own.
constexpr size_t more(size_t alignment) { return sizeof(Header) + 2 * alignment; }

bool odd() {
    static std::atomic<int> half{-1};  // any thread finds the same
    int known = half.load(std::memory_order_relaxed);
    if (known < 0) {
        if (!environ) return false;  // the loader allocates before it is there
        const char* value = std::getenv("FOUNDRY_HEAP_HALF");
        known = value && value[0] == '1';
        half.store(known, std::memory_order_relaxed);
    }
    return known == 1;
}

Header* header_of(void* allocation) {
    auto* header = static_cast<Header*>(allocation) - 1;
    return header->mark == (MARK ^ reinterpret_cast<uintptr_t>(allocation)) ? header : nullptr;
}

// Where an allocation begins in `whole`, which has room for more(alignment) beside it.
uintptr_t begin(void* whole, size_t alignment) {
    uintptr_t at = reinterpret_cast<uintptr_t>(whole) + sizeof(Header);
    at = (at + alignment - 1) & ~(alignment - 1);
    return ((at & alignment) != 0) == odd() ? at : at + alignment;
}

void* place(void* whole, size_t size, size_t alignment) {
    if (!whole) return nullptr;
    const uintptr_t at = begin(whole, alignment);
    auto* placed = reinterpret_cast<void*>(at);
    static_cast<Header*>(placed)[-1] = {whole, size, MARK ^ at};
    return placed;
}

void* too_large() {
    errno = ENOMEM;
    return nullptr;
}

void* aligned(size_t alignment, size_t size) {
    if (alignment > LARGEST || alignment & (alignment - 1)) return __libc_memalign(alignment, size);
    if (alignment < SMALLEST) alignment = SMALLEST;
    if (size > PTRDIFF_MAX - more(alignment)) return too_large();
    return place(__libc_malloc(size + more(alignment)), size, alignment);
}

}  // namespace

EXPORTED void* malloc(size_t size) { return aligned(SMALLEST, size); }

EXPORTED void* calloc(size_t count, size_t each) {
    size_t size = 0;
    if (__builtin_mul_overflow(count, each, &size) || size > PTRDIFF_MAX - more(SMALLEST)) return too_large();
    return place(__libc_calloc(1, size + more(SMALLEST)), size, SMALLEST);
}

EXPORTED void free(void* allocation) {
    Header* header = allocation ? header_of(allocation) : nullptr;
    if (!header) return __libc_free(allocation);
    header->mark = 0;  // freed once more, it is nothing that the C library knows
    __libc_free(header->whole);
}

EXPORTED void* realloc(void* allocation, size_t size) {
    if (!allocation) return malloc(size);
    Header* header = header_of(allocation);
    if (!header) return __libc_realloc(allocation, size);
    if (size == 0) {
        free(allocation);
        return nullptr;
    }
    if (size > PTRDIFF_MAX - more(SMALLEST)) return too_large();
    const size_t kept = header->size < size ? header->size : size;
    const size_t within = static_cast<char*>(allocation) - static_cast<char*>(header->whole);
    if (within > more(SMALLEST)) {  // more than is left in front below: it was aligned to more
        void* moved = malloc(size);
        if (!moved) return nullptr;
        std::memcpy(moved, allocation, kept);
        free(allocation);
        return moved;
    }
    // The C library knows how to let large ones grow without a copy.
    void* whole = __libc_realloc(header->whole, size + more(SMALLEST));
    if (!whole) return nullptr;
    const uintptr_t at = begin(whole, SMALLEST);
    std::memmove(reinterpret_cast<void*>(at), static_cast<char*>(whole) + within, kept);
    return place(whole, size, SMALLEST);
}

EXPORTED void* memalign(size_t alignment, size_t size) { return aligned(alignment, size); }

EXPORTED void* aligned_alloc(size_t alignment, size_t size) { return aligned(alignment, size); }

EXPORTED int posix_memalign(void** result, size_t alignment, size_t size) {
    if (alignment % sizeof(void*) || alignment & (alignment - 1) || !alignment) return EINVAL;
    const int before = errno;
    void* allocation = aligned(alignment, size);
    errno = before;
    if (!allocation) return ENOMEM;
    *result = allocation;
    return 0;
}

EXPORTED size_t malloc_usable_size(void* allocation) {
    if (!allocation) return 0;
    if (Header* header = header_of(allocation)) return header->size;
    using Function = size_t (*)(void*);
    const auto own = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "malloc_usable_size"));
    return own ? own(allocation) : 0;
}
