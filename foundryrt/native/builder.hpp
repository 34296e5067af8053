// A CUgraph that takes the form of one template after another, and an exec for each of their members.
#pragma once

#include <cuda.h>

#include <string>
#include <vector>

#include "kernels.hpp"
#include "owned.hpp"
#include "placement.hpp"
#include "tables.hpp"
#include "timings.hpp"

namespace foundry {

// After an exception a builder must not be used again: its graph may be half changed.
class Builder {
  public:
    // The template's functions must have been resolved; its table must outlive the builder.
    Builder(const foundry_template& table, const Kernels& kernels, const Placement& placement,
            CUcontext context, Timings& timings, std::string name);

    // Whether a template has the kinds of nodes and the edges of this graph.
    bool same_topology(const foundry_template& table) const;
    // Takes on a template of the same topology. Nodes of another function, or with other attributes, are
    // replaced, with their edges.
    void switch_to(const foundry_template& table, const std::string& name);
    // An exec of a member of the template, with its upload queued.
    OwnedExec instantiate(const Member& member, CUstream upload);

  private:
    void add_node(uint32_t node);
    void add_kernel(uint32_t node);
    // Adds the edges that touch a node marked in `added`.
    void add_edges(const std::vector<bool>& added);
    bool same_node(const foundry_template& other, uint32_t node) const;
    // Takes the template's words, its addresses as they are now.
    void load_words();
    // What a word of the template or a member is here: moved if it is an address.
    uint64_t placed(uint32_t word, uint64_t value) const;
    void set_words(const Member& member);
    void set_parameters(uint32_t node);
    const Skeleton& skeleton(uint32_t node) const;
    CUDA_KERNEL_NODE_PARAMS kernel_parameters(uint32_t node);
    CUDA_MEMCPY3D memcpy_parameters(uint32_t node) const;
    CUDA_MEMSET_NODE_PARAMS memset_parameters(uint32_t node) const;
    // As foundry::check; the node's name is only put together for a call that failed.
    void check_node(CUresult result, const char* call, uint32_t node) const;

    const foundry_template* table_;
    const Kernels& kernels_;
    const Placement& placement_;
    const CUcontext context_;
    Timings& timings_;
    std::string name_;
    OwnedGraph graph_;
    std::vector<CUgraphNode> nodes_;
    std::vector<uint64_t> words_;    // the parameters as they stand in the graph
    std::vector<uint8_t> regions_;   // of each word that is an address; empty where nothing has moved
    std::vector<uint32_t> changed_;  // words of the last member
    // What the result of kernel_parameters points to.
    std::vector<void*> arguments_;
    void* packed_[5] = {};
    size_t packed_bytes_ = 0;
};

}  // namespace foundry
