// Where a bundle's regions lie, and what that makes of the addresses in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

extern "C" {
// A region: where it was at capture, and how far from there it lies (modulo 2^64).
struct foundry_place {
    uint64_t base, size, delta;
};
// Words that are addresses: which ones, and in which region.
struct foundry_relocations {
    uint64_t count;
    const uint32_t* word;
    const uint8_t* region;
};
}

namespace foundry {

constexpr uint8_t NO_REGION = 0xFF;

class Placement {
  public:
    // Before anything is made of the bundle. Costs nothing later where no region has moved.
    void set(const foundry_place* places, uint32_t count);
    bool moved() const { return moved_; }
    // What an address of capture is now; throws Error, which begins with `where`, unless it is in the region
    // or just behind it.
    uint64_t operator()(uint64_t address, uint8_t region, const std::string& where) const;

  private:
    std::vector<foundry_place> places_;
    bool moved_ = false;
};

}  // namespace foundry
