#include "audit.hpp"

#include "driver.hpp"

namespace foundry {
namespace {

// No mapped address lies below or above these on a 64-bit Linux host; it spares a driver call for most
// values.
constexpr uint64_t LOWEST = 1ull << 20, HIGHEST = 1ull << 49;

}  // namespace

uint64_t audit(const uint64_t* words, uint64_t count, uint64_t base, uint64_t end, Stray* out,
               uint64_t capacity) {
    uint64_t found = 0;
    for (uint64_t i = 0; i < count; ++i) {
        const uint64_t word = words[i];
        if (word < LOWEST || word >= HIGHEST || (word >= base && word < end)) continue;
        Stray stray{i, word, 0, 0, 0, 0};
        if (driver().cuPointerGetAttribute(&stray.memory, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, word) !=
            CUDA_SUCCESS)
            continue;
        driver().cuPointerGetAttribute(&stray.start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, word);
        driver().cuPointerGetAttribute(&stray.bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, word);
        if (found < capacity) out[found] = stray;
        ++found;
    }
    return found;
}

}  // namespace foundry
