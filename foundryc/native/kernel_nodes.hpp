// Kernel nodes taken apart: the function of each, its arguments, the attributes that were set.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "extract.hpp"
#include "tables.hpp"

namespace foundry {

class KernelNodes {
  public:
    explicit KernelNodes(Extracted& out) : out_(out) {}

    // Appends a node's parameters and skeleton, and its function where that is new; the function's index.
    uint32_t append(CUgraphNode node);

  private:
    struct Layout {
        std::vector<Argument> offsets;
        uint32_t bytes = 0;
    };

    uint32_t function_of(const CUDA_KERNEL_NODE_PARAMS& parameters);
    const Layout& arguments_of(uint32_t function);
    std::vector<Attribute> attributes(CUgraphNode node, const std::string& name);
    const std::vector<Attribute>& defaults_of(uint32_t function, const CUDA_KERNEL_NODE_PARAMS& parameters);

    Extracted& out_;
    std::map<CUfunction, uint32_t> indices_;
    std::map<uint32_t, Layout> arguments_;
    std::map<uint32_t, std::vector<Attribute>> defaults_;
};

}  // namespace foundry
