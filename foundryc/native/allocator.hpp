// The arena at capture: one reserved range of addresses at a fixed base, cut into regions that grow as they
// are used.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace foundry {

constexpr uint32_t REGIONS = 5;  // REGIONS of foundryrt/bundle/schema.py, in that order
constexpr uint32_t SCRATCH = 3;

// Reserves `REGIONS * capacity` bytes at `base` or refuses; the device's context must be current.
void open_arena(uint64_t base, uint64_t capacity, int device);

// First fit among freed ranges, else the region's end: the same calls give the same addresses.
uint64_t allocate(uint32_t region, uint64_t bytes, uint64_t alignment);
void release(uint32_t region, uint64_t address);

// Bytes from the region's base that were ever given out.
uint64_t used(uint32_t region);

void close_arena();

}  // namespace foundry
