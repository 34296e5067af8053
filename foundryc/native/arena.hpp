// The arena at capture: a reserved range of addresses at a fixed base, cut into regions that are mapped as
// they are used.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "owned.hpp"

namespace foundry {

constexpr uint32_t REGIONS = 5;  // REGIONS of foundryrt/bundle/schema.py, in that order
constexpr uint32_t SCRATCH = 3;

// Addresses from `base` on, of which blocks are handed out, with memory mapped behind those that ever were.
class Region {
  public:
    Region(uint64_t base, uint64_t capacity, int device);

    // The first free range that fits, else the end of what is used: the same calls give the same addresses.
    uint64_t allocate(uint64_t bytes, uint64_t alignment);
    // What was never handed out is ignored.
    void release(uint64_t address);
    // Hands out all at once `count` slabs of `stride` bytes from the base on, of which the first has memory,
    // and that of number `own`.
    uint64_t place_slabs(uint64_t count, uint64_t stride, uint64_t own);
    // Bytes from the base that were ever handed out.
    uint64_t used() const { return used_; }

  private:
    // Physical memory and its mapping, which is undone first.
    struct Chunk {
        OwnedMemory memory;
        OwnedMapping mapping;
    };
    using Ranges = std::map<uint64_t, uint64_t>;  // address -> bytes

    std::optional<uint64_t> reuse(uint64_t bytes, uint64_t alignment);
    void map_up_to(uint64_t bytes);
    Chunk map_chunk(uint64_t address, uint64_t bytes) const;

    uint64_t base_, capacity_;
    int device_;
    uint64_t used_ = 0;
    Ranges blocks_, free_;
    std::vector<Chunk> chunks_;
};

// Owns everything: what is mapped is unmapped and freed when the arena is destroyed.
class Arena {
  public:
    // Reserves `REGIONS * capacity` bytes at `base`; refuses where these addresses are taken.
    Arena(uint64_t base, uint64_t capacity, int device);

    Region& region(uint32_t index);

  private:
    OwnedReservation addresses_;
    std::vector<Region> regions_;
};

// The process's arena, from any thread; torch frees memory as long as the process lives.
void open_arena(uint64_t base, uint64_t capacity, int device);
uint64_t allocate(uint32_t region, uint64_t bytes, uint64_t alignment);
uint64_t place_slabs(uint32_t region, uint64_t count, uint64_t stride, uint64_t own);
// Nothing where no arena is open.
void release(uint32_t region, uint64_t address);
uint64_t used(uint32_t region);
void close_arena();

}  // namespace foundry
