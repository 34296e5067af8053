#include "allocations.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
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
Stack stack;          // its

// The loader allocates, too, by the entries of a program that is linked for one place, also where it has to
// make room for what is `thread_local`: nothing of that may be used here.
struct FillAfter {
    ~FillAfter() {
        if (filling.load(std::memory_order_acquire) && pthread_equal(pthread_self(), recording))
            fill_near(stack);
    }
};

struct Call {
    const char* name;
    void** own;
    void* instead;
};

// A function of the allocator; its number tells it from others with the same arguments.
template <int Number, class Result, class... Arguments>
struct Filling {
    static inline void* own = nullptr;  // the process's, which may be another than the C library's

    static Result instead(Arguments... arguments) {
        const FillAfter after;
        return reinterpret_cast<Result (*)(Arguments...)>(own)(arguments...);
    }

    static Call call(const char* name) { return {name, &own, reinterpret_cast<void*>(instead)}; }
};

const std::array<Call, 6> CALLS = {
    Filling<0, void*, size_t>::call("malloc"),
    Filling<1, void*, size_t, size_t>::call("calloc"),
    Filling<2, void*, void*, size_t>::call("realloc"),
    Filling<3, void, void*>::call("free"),
    Filling<4, int, void**, size_t, size_t>::call("posix_memalign"),
    Filling<5, void*, size_t, size_t>::call("aligned_alloc"),
};

// What may be done with the process's memory, as it is when this is asked first.
class Memory {
  public:
    // PROT_READ and the like; PROT_NONE also where nothing is.
    int protection(uintptr_t address) const {
        if (parts_.empty()) read();
        const auto after = parts_.upper_bound(address);
        if (after == parts_.begin()) return PROT_NONE;
        const auto& [end, protection] = std::prev(after)->second;
        return address < end ? protection : PROT_NONE;
    }

  private:
    void read() const {
        std::ifstream file("/proc/self/maps");
        for (std::string line; std::getline(file, line);) {
            unsigned long start = 0, end = 0;
            char may[5] = "";
            if (std::sscanf(line.c_str(), "%lx-%lx %4s", &start, &end, may) != 3) continue;
            const int protection = (may[0] == 'r' ? PROT_READ : 0) | (may[1] == 'w' ? PROT_WRITE : 0) |
                                   (may[2] == 'x' ? PROT_EXEC : 0);
            parts_[start] = {end, protection};
        }
    }

    mutable std::map<uintptr_t, std::pair<uintptr_t, int>> parts_;  // by their start
};

// A loaded program or library.
class Object {
  public:
    explicit Object(const dl_phdr_info& info) : info_(info) {
        const ElfW(Dyn)* entry = nullptr;
        for (int i = 0; i < info.dlpi_phnum; ++i) {
            const auto& part = info.dlpi_phdr[i];
            const uintptr_t start = info.dlpi_addr + part.p_vaddr;
            if (part.p_type == PT_DYNAMIC) entry = reinterpret_cast<const ElfW(Dyn)*>(start);
        }
        for (; entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
            const auto at = entry->d_un.d_ptr;
            if (entry->d_tag == DT_SYMTAB) symbols_ = reinterpret_cast<const ElfW(Sym)*>(at);
            if (entry->d_tag == DT_STRTAB) names_ = reinterpret_cast<const char*>(at);
            if (entry->d_tag == DT_RELA) data_.at = at;
            if (entry->d_tag == DT_RELASZ) data_.size = entry->d_un.d_val;
            if (entry->d_tag == DT_JMPREL) called_.at = at;
            if (entry->d_tag == DT_PLTRELSZ) called_.size = entry->d_un.d_val;
        }
    }

    bool has(const void* address) const {
        const auto at = reinterpret_cast<uintptr_t>(address);
        for (int i = 0; i < info_.dlpi_phnum; ++i) {
            const auto& part = info_.dlpi_phdr[i];
            const uintptr_t start = info_.dlpi_addr + part.p_vaddr;
            if (part.p_type == PT_LOAD && at - start < part.p_memsz) return true;
        }
        return false;
    }

    // `use` is given each place for the address of something in another object: its name and kind.
    template <class Use>
    void each_slot(Use use) const {
        for (const Table& table : {data_, called_}) {
            // The kernel's own object, which nobody relocated, has offsets there.
            if (table.at == 0 || table.at < info_.dlpi_addr) continue;
            const auto* entry = reinterpret_cast<const ElfW(Rela)*>(table.at);
            const auto* end = entry + table.size / sizeof(ElfW(Rela));
            for (; entry != end; ++entry) {
                const auto kind = static_cast<uint32_t>(ELF64_R_TYPE(entry->r_info));
                if (kind != GLOBAL && kind != CALLED) continue;
                use(reinterpret_cast<void**>(info_.dlpi_addr + entry->r_offset),
                    names_ + symbols_[ELF64_R_SYM(entry->r_info)].st_name, kind);
            }
        }
    }

    // Writes to each slot, also where the loader made it read-only; nowhere else where nobody may write.
    void put(const std::vector<std::pair<void**, void*>>& values, const Memory& memory) const {
        const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        uintptr_t start = 0, end = 0;
        for (int i = 0; i < info_.dlpi_phnum; ++i) {
            const auto& part = info_.dlpi_phdr[i];
            if (part.p_type != PT_GNU_RELRO) continue;
            start = (info_.dlpi_addr + part.p_vaddr) / page * page;
            end = (info_.dlpi_addr + part.p_vaddr + part.p_memsz) / page * page;
        }
        for (const auto& [slot, value] : values) {
            const auto at = reinterpret_cast<uintptr_t>(slot);
            const bool loaders = at >= start && at < end;
            void* in = reinterpret_cast<void*>(at / page * page);
            // The loader's part can be written to while another thread's loader is at work in it.
            if (memory.protection(at) != (loaders ? PROT_READ : PROT_READ | PROT_WRITE)) continue;
            if (loaders && mprotect(in, page, PROT_READ | PROT_WRITE) != 0) continue;
            __atomic_store_n(slot, value, __ATOMIC_RELEASE);
            if (loaders) mprotect(in, page, PROT_READ);
        }
    }

  private:
    struct Table {
        uintptr_t at = 0;
        size_t size = 0;
    };

    const dl_phdr_info& info_;
    const ElfW(Sym) * symbols_ = nullptr;
    const char* names_ = nullptr;
    Table data_, called_;
};

using Found = std::map<std::string, std::map<void*, int>>;  // addresses by function, and how often

// What objects call by the names of the allocator's functions. dlsym may give something else: the entry
// by which a program that is linked for one place calls a function whose address it takes.
int find(dl_phdr_info* info, size_t, void* found) {
    const Object object(*info);
    object.each_slot([&](void** slot, const char* name, uint32_t kind) {
        if (kind != CALLED || *slot == nullptr || object.has(*slot)) return;  // not yet looked up
        for (const Call& call : CALLS)
            if (std::strcmp(name, call.name) == 0) ++(*static_cast<Found*>(found))[name][*slot];
    });
    return 0;
}

// No object comes or goes meanwhile: the loader waits for that. Of one that it has not finished yet, nothing
// is replaced.
int replace(dl_phdr_info* info, size_t, void* memory) {
    const Object object(*info);
    if (object.has(reinterpret_cast<void*>(&find))) return 0;  // this library
    std::vector<std::pair<void**, void*>> values;
    object.each_slot([&](void** slot, const char*, uint32_t) {
        for (const Call& call : CALLS)
            if (*call.own != nullptr && *slot == *call.own) values.emplace_back(slot, call.instead);
    });
    if (!values.empty()) object.put(values, *static_cast<const Memory*>(memory));
    return 0;
}

bool find_allocator() {
    Found found;
    dl_iterate_phdr(find, &found);
    for (const Call& call : CALLS) {
        int most = 0;
        *call.own = dlsym(RTLD_DEFAULT, call.name);
        for (const auto& [address, times] : found[call.name])
            if (times > most) *call.own = address, most = times;
    }
    return true;
}

}  // namespace

void fill_after_allocations() {
    leave_allocations();
    recording = pthread_self();
    stack = own_stack();
    fill_near(stack);                            // the loader finds now what this calls
    static const bool known = find_allocator();  // before any of them is replaced
    Memory memory;
    if (known) dl_iterate_phdr(replace, &memory);
    filling.store(true, std::memory_order_release);
}

void leave_allocations() { filling.store(false, std::memory_order_release); }

}  // namespace foundry
