#include "allocations.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "stack.hpp"

namespace foundry {
namespace {

#if defined(__x86_64__)
constexpr uint32_t GLOBAL = R_X86_64_GLOB_DAT, CALLED = R_X86_64_JUMP_SLOT;
#elif defined(__aarch64__)
constexpr uint32_t GLOBAL = R_AARCH64_GLOB_DAT, CALLED = R_AARCH64_JUMP_SLOT;
#else  // where a library keeps the addresses of what it calls is not known: nothing is filled
constexpr uint32_t GLOBAL = UINT32_MAX, CALLED = UINT32_MAX;
#endif

std::atomic<bool> filling{false};
pthread_t recording;  // the thread, while `filling`

void fill_here() {
    if (filling.load(std::memory_order_acquire) && pthread_equal(pthread_self(), recording)) fill_near();
}

struct FillAfter {
    ~FillAfter() { fill_here(); }
};

struct Call {
    void* own;
    void* instead;
};

// A function of the allocator; its number tells it from others with the same arguments.
template <int Number, class Result, class... Arguments>
struct Filling {
    static inline Result (*own)(Arguments...);

    static Result instead(Arguments... arguments) {
        const FillAfter after;
        return own(arguments...);
    }

    // The process's own one, which may be another than the C library's.
    static Call find(const char* name) {
        void* found = dlsym(RTLD_DEFAULT, name);
        own = reinterpret_cast<Result (*)(Arguments...)>(found);
        return {found, reinterpret_cast<void*>(instead)};
    }
};

const std::vector<Call>& calls() {
    static const std::vector<Call> found = {
        Filling<0, void*, size_t>::find("malloc"),
        Filling<1, void*, size_t, size_t>::find("calloc"),
        Filling<2, void*, void*, size_t>::find("realloc"),
        Filling<3, void, void*>::find("free"),
        Filling<4, int, void**, size_t, size_t>::find("posix_memalign"),
        Filling<5, void*, size_t, size_t>::find("aligned_alloc"),
    };
    return found;
}

struct Slot {
    void** at;
    void* instead;
};

// A loaded object's slots for addresses of other objects that hold one of the allocator's.
std::vector<Slot> slots_of(const dl_phdr_info& object, const ElfW(Dyn) * dynamic) {
    struct Table {
        uintptr_t at = 0;
        size_t size = 0;
    } data, called;
    for (; dynamic->d_tag != DT_NULL; ++dynamic) {
        if (dynamic->d_tag == DT_RELA) data.at = dynamic->d_un.d_ptr;
        if (dynamic->d_tag == DT_RELASZ) data.size = dynamic->d_un.d_val;
        if (dynamic->d_tag == DT_JMPREL) called.at = dynamic->d_un.d_ptr;
        if (dynamic->d_tag == DT_PLTRELSZ) called.size = dynamic->d_un.d_val;
    }
    std::vector<Slot> found;
    for (const Table& table : {data, called}) {
        // The kernel's own object, which is not relocated, has offsets there.
        if (table.at < object.dlpi_addr) continue;
        const auto* entry = reinterpret_cast<const ElfW(Rela)*>(table.at);
        const auto* end = entry + table.size / sizeof(ElfW(Rela));
        for (; entry != end; ++entry) {
            const auto kind = static_cast<uint32_t>(ELF64_R_TYPE(entry->r_info));
            if (kind != GLOBAL && kind != CALLED) continue;
            auto** at = reinterpret_cast<void**>(object.dlpi_addr + entry->r_offset);
            for (const Call& each : calls())
                if (*at == each.own) found.push_back({at, each.instead});
        }
    }
    return found;
}

// What the linker made read-only when the object had been relocated; nothing of it at all, often.
class Writable {
  public:
    explicit Writable(const dl_phdr_info& object) {
        const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        for (int i = 0; i < object.dlpi_phnum; ++i) {
            const auto& part = object.dlpi_phdr[i];
            if (part.p_type != PT_GNU_RELRO) continue;
            start_ = (object.dlpi_addr + part.p_vaddr) / page * page;
            end_ = (object.dlpi_addr + part.p_vaddr + part.p_memsz) / page * page;
        }
        possible_ = end_ <= start_ || protect(PROT_READ | PROT_WRITE);
    }
    ~Writable() {
        if (possible_ && end_ > start_) protect(PROT_READ);
    }
    Writable(const Writable&) = delete;
    Writable& operator=(const Writable&) = delete;

    bool possible() const { return possible_; }

  private:
    bool protect(int how) { return mprotect(reinterpret_cast<void*>(start_), end_ - start_, how) == 0; }

    uintptr_t start_ = 0, end_ = 0;
    bool possible_ = false;
};

const ElfW(Dyn) * dynamic_of(const dl_phdr_info& object) {
    const ElfW(Dyn)* dynamic = nullptr;
    const auto own = reinterpret_cast<uintptr_t>(&fill_here);
    for (int i = 0; i < object.dlpi_phnum; ++i) {
        const auto& part = object.dlpi_phdr[i];
        const uintptr_t start = object.dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_LOAD && own - start < part.p_memsz) return nullptr;  // this library
        if (part.p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const ElfW(Dyn)*>(start);
    }
    return dynamic;
}

int replace(dl_phdr_info* object, size_t, void*) {
    const auto* dynamic = dynamic_of(*object);
    if (dynamic == nullptr) return 0;
    const std::vector<Slot> slots = slots_of(*object, dynamic);
    if (slots.empty()) return 0;
    const Writable writable(*object);
    if (writable.possible())
        for (const Slot& slot : slots) __atomic_store_n(slot.at, slot.instead, __ATOMIC_RELEASE);
    return 0;
}

}  // namespace

void fill_after_allocations() {
    fill_near();  // finds out where the stack ends, which allocates
    recording = pthread_self();
    calls();
    dl_iterate_phdr(replace, nullptr);
    filling.store(true, std::memory_order_release);
}

void leave_allocations() { filling.store(false, std::memory_order_release); }

}  // namespace foundry
