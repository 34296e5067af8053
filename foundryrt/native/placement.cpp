#include "placement.hpp"

#include <algorithm>

#include "driver.hpp"

namespace foundry {

void Placement::set(const foundry_place* places, uint32_t count) {
    places_.assign(places, places + count);
    moved_ =
        std::any_of(places_.begin(), places_.end(), [](const foundry_place& own) { return own.delta != 0; });
}

uint64_t Placement::operator()(uint64_t address, uint8_t region, const std::string& where) const {
    if (region >= places_.size()) refuse(where + ": an address in region " + std::to_string(region));
    const foundry_place& place = places_[region];
    if (address - place.base > place.size)
        refuse(where + ": what should be an address in region " + std::to_string(region) + " is none");
    return address + place.delta;
}

}  // namespace foundry
