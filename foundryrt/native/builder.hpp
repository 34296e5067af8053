// A template's CUgraph: built once, its node parameters rewritten for each member, instantiated for each.
#pragma once

#include <cuda.h>

#include <string>
#include <vector>

#include "tables.hpp"

namespace foundry {

class Builder {
public:
    // `functions` are the template's, indexed as its `function` column is; `table` must outlive the builder.
    Builder(const foundry_template& table, const std::vector<CUfunction>& functions, CUcontext context,
            std::string name);
    ~Builder();
    Builder(const Builder&) = delete;
    Builder& operator=(const Builder&) = delete;

    // Rewrites the words in which a member differs (ascending) and makes an exec of its own.
    CUgraphExec member(const uint32_t* word, const uint64_t* value, uint64_t count, CUstream upload);

private:
    void add_nodes();
    void add_edges();
    void add_kernel(uint32_t node);
    void set_parameters(uint32_t node);
    CUDA_KERNEL_NODE_PARAMS kernel_parameters(uint32_t node);
    CUDA_MEMCPY3D memcpy_parameters(uint32_t node) const;
    CUDA_MEMSET_NODE_PARAMS memset_parameters(uint32_t node) const;
    std::string where(uint32_t node) const;

    const foundry_template& table_;
    const std::vector<CUfunction>& functions_;
    CUcontext context_;
    std::string name_;
    CUgraph graph_ = nullptr;
    std::vector<CUgraphNode> nodes_;
    std::vector<uint64_t> words_;      // the parameters as they stand in the graph
    std::vector<uint32_t> rewritten_;  // words that the last member changed
    std::vector<void*> pointers_;      // scratch of kernel_parameters
    void* packed_[5] = {};
    size_t packed_bytes_ = 0;
};

}  // namespace foundry
