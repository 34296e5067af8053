// Which words of a node's parameters are device or pinned addresses that a bundle would not restore.
#pragma once

#include <cstdint>

namespace foundry {

struct Stray {
    uint64_t word;  // index into the words given
    uint64_t address;
    uint64_t start;  // of the allocation that holds it
    uint64_t bytes;
    uint32_t memory;  // CUmemorytype: 1 host (pinned), 2 device, 4 unified
    uint32_t spare;
};

// Fills at most `capacity` strays and returns how many there are. Addresses in [base, end) are the arena's.
uint64_t audit(const uint64_t* words, uint64_t count, uint64_t base, uint64_t end, Stray* out,
               uint64_t capacity);

}  // namespace foundry
