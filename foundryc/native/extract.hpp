// A captured CUgraph as the columns of a template (tables.hpp), child graphs flattened, everything copied.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tables.hpp"

namespace foundry {

struct ExtractedFunction {
    CUfunction handle;
    CUmodule module;
    std::string name;
    int32_t shared;    // maximum dynamic shared memory in bytes, 0 where never raised
    int32_t carveout;  // percent, -1 for the driver's choice
    int32_t nonportable;
};

struct Extracted {
    std::vector<uint8_t> kind;
    std::vector<uint32_t> function;  // into `functions`, NO_FUNCTION for other nodes
    std::vector<uint32_t> parameter_start{0};
    std::vector<uint64_t> parameters;
    std::vector<uint32_t> edge_from, edge_to;
    std::vector<uint8_t> edge_from_port, edge_to_port, edge_type;
    std::vector<uint8_t> skeleton;
    std::vector<uint32_t> skeleton_start{0};
    std::vector<ExtractedFunction> functions;

    // Appends a record to `parameters`.
    template <class Record>
    void append(const Record& record) {
        static_assert(sizeof(Record) % 8 == 0);
        const size_t start = parameters.size();
        parameters.resize(start + sizeof(Record) / 8);
        std::memcpy(parameters.data() + start, &record, sizeof(Record));
    }

    // For messages: the name of the last kernel so far.
    std::string last_kernel() const;
};

// Throws Error that names the node's kind and its neighbour where the graph holds what a bundle cannot keep.
Extracted extract(CUgraph graph);

}  // namespace foundry
