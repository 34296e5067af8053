// Foreign pointers: words of a node's parameters that are device or pinned addresses outside the arena. A
// bundle does not restore what they point to.
#pragma once

#include <cstdint>

namespace foundry {

extern "C" struct foundryc_foreign_pointer {
    uint64_t word;  // index into the words given
    uint64_t address;
    uint64_t start;   // of the allocation that holds it
    uint64_t bytes;   // of that allocation
    uint32_t memory;  // CUmemorytype: 1 host (pinned), 2 device, 4 unified
    uint32_t spare;
};

// Fills at most `capacity` entries and returns how many foreign pointers there are. Addresses in [base, end)
// are the arena's.
uint64_t find_foreign_pointers(const uint64_t* words, uint64_t count, uint64_t base, uint64_t end,
                               foundryc_foreign_pointer* out, uint64_t capacity);

}  // namespace foundry
