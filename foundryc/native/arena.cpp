#include "arena.hpp"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <mutex>
#include <string>
#include <utility>

#include "driver.hpp"

namespace foundry {
namespace {

constexpr uint64_t CHUNK = 32ull << 20;  // of physical memory: a multiple of every device's granularity

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

std::string hexadecimal(uint64_t number) {
    char text[20];
    std::snprintf(text, sizeof(text), "%#llx", static_cast<unsigned long long>(number));
    return text;
}

struct Process {
    std::mutex mutex;
    std::optional<Arena> arena;
};
// Never destroyed: torch still frees memory while the process ends.
Process& process = *new Process;

}  // namespace

Region::Region(uint64_t base, uint64_t capacity, int device)
    : base_(base), capacity_(capacity), device_(device) {}

Region::Chunk Region::map_chunk(uint64_t address, uint64_t bytes) const {
    CUmemAllocationProp placement{};
    placement.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    placement.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
    const CUmemAccessDesc access{placement.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    Chunk chunk;
    check(driver().cuMemCreate(chunk.memory.out(), bytes, &placement, 0), "cuMemCreate", "arena");
    check(driver().cuMemMap(address, bytes, 0, chunk.memory.get(), 0), "cuMemMap", "arena");
    chunk.mapping = OwnedMapping({address, bytes});
    check(driver().cuMemSetAccess(address, bytes, &access, 1), "cuMemSetAccess", "arena");
    return chunk;
}

void Region::map_up_to(uint64_t bytes) {
    if (bytes > capacity_) refuse("a region of the arena is full; capture fewer graphs or smaller ones");
    while (chunks_.size() * CHUNK < bytes) {
        const uint64_t end = base_ + chunks_.size() * CHUNK;
        chunks_.push_back(map_chunk(end, CHUNK));
    }
}

std::optional<uint64_t> Region::reuse(uint64_t bytes, uint64_t alignment) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
        const uint64_t start = range->first, end = start + range->second;
        const uint64_t address = round_up(start, alignment);
        if (address + bytes > end) continue;
        free_.erase(range);
        if (address > start) free_[start] = address - start;
        if (end > address + bytes) free_[address + bytes] = end - address - bytes;
        return address;
    }
    return std::nullopt;
}

uint64_t Region::allocate(uint64_t bytes, uint64_t alignment) {
    bytes = round_up(std::clamp<uint64_t>(bytes, 1, capacity_ + 1), alignment);
    std::optional<uint64_t> address = reuse(bytes, alignment);
    if (!address) {
        const uint64_t offset = round_up(used_, alignment);
        map_up_to(offset + bytes);
        used_ = offset + bytes;
        address = base_ + offset;
    }
    blocks_[*address] = bytes;
    return *address;
}

uint64_t Region::place_slabs(uint64_t count, uint64_t stride, uint64_t own) {
    if (used_) refuse("the region is in use: slabs of ranks take all of it");
    if (own >= count || stride == 0 || count > capacity_ / stride)
        refuse("the ranks' slabs do not fit the region; have ranks send less at a time");
    std::vector<Chunk> slabs;
    slabs.push_back(map_chunk(base_, stride));
    if (own) slabs.push_back(map_chunk(base_ + own * stride, stride));
    chunks_ = std::move(slabs);
    // Nothing else is to be handed out.
    capacity_ = used_ = count * stride;
    return base_;
}

void Region::release(uint64_t address) {
    const auto block = blocks_.find(address);
    if (block == blocks_.end()) return;
    uint64_t bytes = block->second;
    blocks_.erase(block);
    // One range with the free ones before and behind it.
    auto next = free_.lower_bound(address);
    if (next != free_.end() && address + bytes == next->first) {
        bytes += next->second;
        next = free_.erase(next);
    }
    if (next != free_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == address) {
            before->second += bytes;
            return;
        }
    }
    free_[address] = bytes;
}

Arena::Arena(uint64_t base, uint64_t capacity, int device) {
    const uint64_t bytes = REGIONS * capacity;
    CUdeviceptr got = 0;
    check(driver().cuMemAddressReserve(&got, bytes, 0, base, 0), "cuMemAddressReserve", "arena");
    addresses_ = OwnedReservation({got, bytes});
    if (got != base)
        refuse("the addresses " + hexadecimal(base) + " to " + hexadecimal(base + bytes) +
               " are taken in this process (the driver offered " + hexadecimal(got) +
               "); choose another base");
    for (uint32_t i = 0; i < REGIONS; ++i) regions_.emplace_back(base + i * capacity, capacity, device);
}

Region& Arena::region(uint32_t index) {
    if (index >= REGIONS) refuse("the arena has no region " + std::to_string(index));
    return regions_[index];
}

void open_arena(uint64_t base, uint64_t capacity, int device) {
    std::lock_guard lock(process.mutex);
    if (process.arena) refuse("the arena is open already");
    process.arena.emplace(base, capacity, device);
}

uint64_t allocate(uint32_t region, uint64_t bytes, uint64_t alignment) {
    std::lock_guard lock(process.mutex);
    if (!process.arena) refuse("the arena is not open");
    return process.arena->region(region).allocate(bytes, alignment);
}

uint64_t place_slabs(uint32_t region, uint64_t count, uint64_t stride, uint64_t own) {
    std::lock_guard lock(process.mutex);
    if (!process.arena) refuse("the arena is not open");
    return process.arena->region(region).place_slabs(count, stride, own);
}

void release(uint32_t region, uint64_t address) {
    std::lock_guard lock(process.mutex);
    if (process.arena) process.arena->region(region).release(address);
}

uint64_t used(uint32_t region) {
    std::lock_guard lock(process.mutex);
    return process.arena ? process.arena->region(region).used() : 0;
}

void close_arena() {
    std::lock_guard lock(process.mutex);
    process.arena.reset();
}

}  // namespace foundry
