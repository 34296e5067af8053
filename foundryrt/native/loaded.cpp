#include "loaded.hpp"

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace foundry {
namespace {

// Parts of an ELF file; none where it is cut short.
class File {
  public:
    File(const void* data, size_t bytes) : data_(static_cast<const uint8_t*>(data)), bytes_(bytes) {}

    template <class T>
    bool read(T& out, uint64_t at) const {
        if (at > bytes_ || bytes_ - at < sizeof(T)) return false;
        std::memcpy(&out, data_ + at, sizeof(T));
        return true;
    }
    // The text at `offset` of a table of strings.
    bool text(std::string_view& out, const Elf64_Shdr& table, uint64_t offset) const {
        if (table.sh_offset > bytes_ || table.sh_size > bytes_ - table.sh_offset || offset >= table.sh_size)
            return false;
        const auto* const begin = reinterpret_cast<const char*>(data_ + table.sh_offset + offset);
        const size_t most = table.sh_size - offset, length = strnlen(begin, most);
        out = {begin, length};
        return length < most;
    }

  private:
    const uint8_t* data_;
    size_t bytes_;
};

bool begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

// A mangled name behind the namespace that nvcc makes for names of one source file, as in
// `_ZN33_INTERNAL_0f3a_4_a_cu_11f06thrust3seqE`; an empty one where it is not nested.
std::string_view nested(std::string_view name) {
    if (!begins(name, "_ZN")) return {};
    name.remove_prefix(3);
    size_t digits = 0, length = 0;
    for (; digits < name.size() && digits < 4 && '0' <= name[digits] && name[digits] <= '9'; ++digits)
        length = 10 * length + static_cast<size_t>(name[digits] - '0');
    if (begins(name.substr(digits), "_INTERNAL_") && length <= name.size() - digits)
        name.remove_prefix(digits + length);
    return name;
}

// What launches never write, by its name: texts and tables of the compiler, its mathematical functions and
// random numbers, and objects without contents of NVIDIA's header libraries. The table of addresses that
// code looks variables up in has these of every file that includes such a header, used or not.
bool constant(std::string_view variable, uint64_t bytes) {
    for (const char* known : {"$str", "_$_str", "__unnamed_", "__cudart_", "precalc_xorwow_", "mrg32k3aM"})
        if (begins(variable, known)) return true;
    if (bytes > 1) return false;
    for (const char* library : {"4cuda3std", "6thrust", "4cute"})
        if (begins(nested(variable), library)) return true;
    return false;
}

// False where there is state, or the file is damaged.
bool stateless(const File& file) {
    Elf64_Ehdr head;
    if (!file.read(head, 0) || std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
        head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof(Elf64_Shdr))
        return false;
    std::vector<Elf64_Shdr> sections(head.e_shnum);
    for (size_t i = 0; i < sections.size(); ++i)
        if (!file.read(sections[i], head.e_shoff + i * sizeof(Elf64_Shdr))) return false;
    if (head.e_shstrndx >= sections.size()) return false;
    std::vector<bool> global(sections.size());
    for (size_t i = 0; i < sections.size(); ++i) {
        std::string_view name;
        if (!file.text(name, sections[head.e_shstrndx], sections[i].sh_name)) return false;
        global[i] = begins(name, ".nv.global");
    }
    // What code uses is relocated when it is loaded: no other variable matters.
    for (const Elf64_Shdr& part : sections) {
        if (part.sh_type != SHT_RELA && part.sh_type != SHT_REL) continue;
        if (part.sh_link >= sections.size()) return false;
        const Elf64_Shdr& table = sections[part.sh_link];
        if (table.sh_link >= sections.size()) return false;
        const uint64_t step = part.sh_type == SHT_RELA ? sizeof(Elf64_Rela) : sizeof(Elf64_Rel);
        for (uint64_t at = 0; at < part.sh_size; at += step) {
            Elf64_Rel relocation;
            Elf64_Sym symbol;
            if (!file.read(relocation, part.sh_offset + at)) return false;
            const uint64_t number = ELF64_R_SYM(relocation.r_info);
            if (!file.read(symbol, table.sh_offset + number * sizeof(symbol))) return false;
            if (symbol.st_shndx >= sections.size() || !global[symbol.st_shndx]) continue;
            std::string_view name;
            if (!file.text(name, sections[table.sh_link], symbol.st_name)) return false;
            if (!constant(name, symbol.st_size)) return false;
        }
    }
    return true;
}

struct Shared {
    std::mutex mutex;  // for everything here
    std::map<std::pair<CUcontext, std::string>, std::weak_ptr<Loaded>> all;
    bool keep = false;
    std::set<std::shared_ptr<Loaded>> asked, left;  // since a bundle was closed last, and before
};

Shared& shared() {
    static Shared& instance = *new Shared;  // outlives whatever ends with the process
    return instance;
}

}  // namespace

bool has_state(const void* binary, size_t bytes) { return !stateless(File(binary, bytes)); }

std::shared_ptr<Loaded> loaded(CUcontext context, const std::string& key) {
    std::lock_guard lock(shared().mutex);
    auto& all = shared().all;
    for (auto place = all.begin(); place != all.end();)
        place = place->second.expired() ? all.erase(place) : std::next(place);
    std::weak_ptr<Loaded>& known = all[{context, key}];
    std::shared_ptr<Loaded> found = known.lock();
    if (!found) known = found = std::make_shared<Loaded>();
    if (shared().keep) shared().asked.insert(found);
    return found;
}

void keep_loaded(bool keep) {
    {
        std::lock_guard lock(shared().mutex);
        shared().keep = keep;
    }
    if (!keep) leave_loaded(), leave_loaded();
}

void leave_loaded() {
    std::set<std::shared_ptr<Loaded>> gone;  // unloaded without the lock
    std::lock_guard lock(shared().mutex);
    gone = std::exchange(shared().left, std::exchange(shared().asked, {}));
}

}  // namespace foundry
