#include "allocator.hpp"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <mutex>
#include <vector>

#include "driver.hpp"

namespace foundry {
namespace {

constexpr uint64_t CHUNK =
    32ull << 20;  // physical memory comes in such pieces: a multiple of every granularity

struct Mapping {
    uint64_t address;
    CUmemGenericAllocationHandle handle;
};

struct Area {
    uint64_t base = 0, used = 0, mapped = 0;
    std::map<uint64_t, uint64_t> live, free;  // address -> bytes
    std::vector<Mapping> mappings;
};

// Never destroyed: torch frees memory while the process ends.
std::mutex& guard = *new std::mutex;
Area (&areas)[REGIONS] = *new Area[1][REGIONS];
uint64_t area_capacity = 0;
CUmemAllocationProp placement{};

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

void grow(Area& area, uint64_t bytes) {
    if (bytes > area_capacity) refuse("a region of the arena is full; capture fewer graphs or smaller ones");
    while (area.mapped < bytes) {
        const uint64_t address = area.base + area.mapped;
        CUmemGenericAllocationHandle handle = 0;
        check(driver().cuMemCreate(&handle, CHUNK, &placement, 0), "cuMemCreate", "arena");
        CUmemAccessDesc access{placement.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        try {
            check(driver().cuMemMap(address, CHUNK, 0, handle, 0), "cuMemMap", "arena");
            try {
                check(driver().cuMemSetAccess(address, CHUNK, &access, 1), "cuMemSetAccess", "arena");
            } catch (...) {
                driver().cuMemUnmap(address, CHUNK);
                throw;
            }
        } catch (...) {
            driver().cuMemRelease(handle);
            throw;
        }
        area.mappings.push_back({address, handle});
        area.mapped += CHUNK;
    }
}

void merge(std::map<uint64_t, uint64_t>& free, uint64_t address, uint64_t bytes) {
    auto next = free.lower_bound(address);
    if (next != free.end() && address + bytes == next->first) {
        bytes += next->second;
        next = free.erase(next);
    }
    if (next != free.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second == address) {
            before->second += bytes;
            return;
        }
    }
    free[address] = bytes;
}

std::string hexadecimal(uint64_t number) {
    char text[20];
    std::snprintf(text, sizeof(text), "%#llx", static_cast<unsigned long long>(number));
    return text;
}

}  // namespace

void open_arena(uint64_t base, uint64_t capacity, int device) {
    std::lock_guard lock(guard);
    if (area_capacity != 0) refuse("the arena is open already");
    placement.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    placement.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    CUdeviceptr got = 0;
    check(driver().cuMemAddressReserve(&got, REGIONS * capacity, 0, base, 0), "cuMemAddressReserve", "arena");
    if (got != base) {
        driver().cuMemAddressFree(got, REGIONS * capacity);
        refuse("the addresses " + hexadecimal(base) + " to " + hexadecimal(base + REGIONS * capacity) +
               " are taken in this process (the driver offered " + hexadecimal(got) +
               "); choose another base");
    }
    for (uint32_t i = 0; i < REGIONS; ++i) areas[i].base = base + i * capacity;
    area_capacity = capacity;
}

uint64_t allocate(uint32_t region, uint64_t bytes, uint64_t alignment) {
    if (region >= REGIONS || area_capacity == 0) refuse("no such region, or the arena is not open");
    std::lock_guard lock(guard);
    Area& area = areas[region];
    bytes = round_up(std::max<uint64_t>(bytes, 1), alignment);
    for (auto piece = area.free.begin(); piece != area.free.end(); ++piece) {
        const uint64_t address = round_up(piece->first, alignment);
        const uint64_t end = piece->first + piece->second;
        if (address + bytes > end) continue;
        const uint64_t start = piece->first;
        area.free.erase(piece);
        if (address > start) area.free[start] = address - start;
        if (end > address + bytes) area.free[address + bytes] = end - address - bytes;
        area.live[address] = bytes;
        return address;
    }
    const uint64_t offset = round_up(area.used, alignment);
    grow(area, offset + bytes);
    area.used = offset + bytes;
    area.live[area.base + offset] = bytes;
    return area.base + offset;
}

void release(uint32_t region, uint64_t address) {
    std::lock_guard lock(guard);
    if (region >= REGIONS) return;
    Area& area = areas[region];
    const auto entry = area.live.find(address);
    if (entry == area.live.end()) return;
    merge(area.free, address, entry->second);
    area.live.erase(entry);
}

uint64_t used(uint32_t region) {
    std::lock_guard lock(guard);
    return region < REGIONS ? areas[region].used : 0;
}

void close_arena() {
    std::lock_guard lock(guard);
    if (area_capacity == 0) return;
    for (Area& area : areas) {
        for (const Mapping& mapping : area.mappings) {
            driver().cuMemUnmap(mapping.address, CHUNK);
            driver().cuMemRelease(mapping.handle);
        }
    }
    driver().cuMemAddressFree(areas[0].base, REGIONS * area_capacity);
    for (Area& area : areas) area = Area{};
    area_capacity = 0;
}

}  // namespace foundry
