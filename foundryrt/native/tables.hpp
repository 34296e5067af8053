// A template's columns as they lie in a bundle (docs/format.md), and the parameters of one node of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "placement.hpp"

namespace foundry {

// NodeKind of foundryrt/bundle/schema.py.
enum : uint8_t { KIND_KERNEL = 1, KIND_MEMCPY = 2, KIND_MEMSET = 3, KIND_EMPTY = 4 };

constexpr uint32_t NO_FUNCTION = 0xFFFFFFFF;

// Words of a kernel node before its arguments, each of two uint32: grid, block, dynamic shared bytes, spare.
constexpr uint32_t LAUNCH_WORDS = 4;
struct Launch {
    uint32_t grid[3], block[3], shared, spare;
};
static_assert(sizeof(Launch) == LAUNCH_WORDS * 8);

// A memcpy node's words; sizes in bytes, pitches and heights as CUDA_MEMCPY3D has them.
struct Memcpy {
    uint64_t source, destination;
    uint64_t source_x, source_y, source_z, source_pitch, source_height;
    uint64_t destination_x, destination_y, destination_z, destination_pitch, destination_height;
    uint64_t width, height, depth;
};

// A memset node's words: `value` repeated over rows of `width` elements.
struct Memset {
    uint64_t destination, pitch, value, element_size, width, height;
};

// A kernel node's skeleton: this header, then `arguments` × Argument, then `attributes` × Attribute.
struct Skeleton {
    uint32_t argument_bytes;
    uint16_t arguments;
    uint8_t packed;  // arguments go in one buffer (`extra`) instead of one by one (`kernelParams`)
    uint8_t attributes;
};
struct Argument {
    uint32_t offset, size;
};
struct Attribute {
    uint32_t id, spare;
    uint8_t value[64];  // CUlaunchAttributeValue
};

extern "C" struct foundry_template {
    uint32_t nodes, edges, functions, skeleton_bytes;
    uint64_t words;
    const uint8_t* kind;
    const uint32_t* function;
    const uint32_t* parameter_start;
    const uint64_t* parameters;
    const uint32_t* edge_from;
    const uint32_t* edge_to;
    const uint8_t* edge_from_port;
    const uint8_t* edge_to_port;
    const uint8_t* edge_type;
    const uint8_t* skeleton;
    const uint32_t* skeleton_start;
    foundry_relocations relocations;  // of the parameters
};

// The parameter words in which a graph differs from its template, in rising order.
struct Member {
    uint64_t count = 0;
    const uint32_t* word = nullptr;
    const uint64_t* value = nullptr;
};

// Throw Error where a column points outside another: nothing of a template or a member is used before.
void validate(const foundry_template& table, const std::string& name);
void validate(const Member& member, const foundry_template& table, const std::string& name);

}  // namespace foundry
