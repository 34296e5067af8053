// A CUgraph that takes the form of one template after another, and an exec for each of their members.
#pragma once

#include <cuda.h>

#include <string>
#include <vector>

#include "spent.hpp"
#include "tables.hpp"

namespace foundry {

class Builder {
  public:
    // `functions` are the bundle's, as `function` columns index them; tables must outlive the builder.
    Builder(const foundry_template& table, const std::vector<CUfunction>& functions, CUcontext context,
            Spent& spent, std::string name);
    ~Builder();
    Builder(const Builder&) = delete;
    Builder& operator=(const Builder&) = delete;

    // Whether a template has the kinds of nodes and the edges of this graph.
    bool fits(const foundry_template& table) const;
    // Takes on a template that fits: nodes of another function, or other attributes, are made anew with their
    // edges. After an exception the builder is of no use.
    void become(const foundry_template& table, const std::string& name);
    // Rewrites the words in which a member differs (ascending) and makes an exec of its own.
    CUgraphExec member(const uint32_t* word, const uint64_t* value, uint64_t count, CUstream upload);

  private:
    void add_node(uint32_t node);
    void add_kernel(uint32_t node);
    // Adds the edges that touch a node marked in `fresh`.
    void add_edges(const std::vector<bool>& fresh);
    bool same_form(const foundry_template& other, uint32_t node) const;
    void set_parameters(uint32_t node);
    CUgraphExec instantiate(CUstream upload);
    CUDA_KERNEL_NODE_PARAMS kernel_parameters(uint32_t node);
    CUDA_MEMCPY3D memcpy_parameters(uint32_t node) const;
    CUDA_MEMSET_NODE_PARAMS memset_parameters(uint32_t node) const;
    std::string where(uint32_t node) const;

    const foundry_template* table_;
    const std::vector<CUfunction>& functions_;
    CUcontext context_;
    Spent& spent_;
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
