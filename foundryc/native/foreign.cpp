#include "foreign.hpp"

#include "driver.hpp"

namespace foundry {
namespace {

// No address of a 64-bit Linux process is below or above these: most words need no driver call.
constexpr uint64_t LOWEST = 1ull << 20, HIGHEST = 1ull << 49;

}  // namespace

uint64_t find_foreign_pointers(const uint64_t* words, uint64_t count, uint64_t base, uint64_t end,
                               foundryc_foreign_pointer* out, uint64_t capacity) {
    uint64_t found = 0;
    for (uint64_t i = 0; i < count; ++i) {
        const uint64_t word = words[i];
        if (word < LOWEST || word >= HIGHEST || (word >= base && word < end)) continue;
        foundryc_foreign_pointer pointer{i, word, 0, 0, 0, 0};
        if (driver().cuPointerGetAttribute(&pointer.memory, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, word) !=
            CUDA_SUCCESS)
            continue;
        driver().cuPointerGetAttribute(&pointer.start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, word);
        driver().cuPointerGetAttribute(&pointer.bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, word);
        if (found < capacity) out[found] = pointer;
        ++found;
    }
    return found;
}

}  // namespace foundry
