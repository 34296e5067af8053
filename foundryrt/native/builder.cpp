#include "builder.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "driver.hpp"

namespace foundry {

Builder::Builder(const foundry_template& table, const std::vector<CUfunction>& functions, CUcontext context,
                 Spent& spent, std::string name)
    : table_(&table),
      functions_(functions),
      context_(context),
      spent_(spent),
      name_(std::move(name)),
      nodes_(table.nodes),
      words_(table.parameters, table.parameters + table.words) {
    const Watch watch(spent_.build);
    check(driver().cuGraphCreate(&graph_, 0), "cuGraphCreate", name_);
    try {
        for (uint32_t node = 0; node < table.nodes; ++node) add_node(node);
        add_edges(std::vector<bool>(table.nodes, true));
    } catch (...) {
        driver().cuGraphDestroy(graph_);
        throw;
    }
}

Builder::~Builder() { driver().cuGraphDestroy(graph_); }

std::string Builder::where(uint32_t node) const { return name_ + ", node " + std::to_string(node); }

CUDA_KERNEL_NODE_PARAMS Builder::kernel_parameters(uint32_t node) {
    uint64_t* words = words_.data() + table_->parameter_start[node];
    const auto& launch = *reinterpret_cast<const Launch*>(words);
    auto* arguments = reinterpret_cast<uint8_t*>(words + LAUNCH_WORDS);
    const auto& head = *reinterpret_cast<const Skeleton*>(table_->skeleton + table_->skeleton_start[node]);

    CUDA_KERNEL_NODE_PARAMS out{};
    out.func = functions_[table_->function[node]];
    out.gridDimX = launch.grid[0], out.gridDimY = launch.grid[1], out.gridDimZ = launch.grid[2];
    out.blockDimX = launch.block[0], out.blockDimY = launch.block[1], out.blockDimZ = launch.block[2];
    out.sharedMemBytes = launch.shared;
    if (head.packed) {
        packed_bytes_ = head.argument_bytes;
        packed_[0] = CU_LAUNCH_PARAM_BUFFER_POINTER, packed_[1] = arguments;
        packed_[2] = CU_LAUNCH_PARAM_BUFFER_SIZE, packed_[3] = &packed_bytes_;
        packed_[4] = CU_LAUNCH_PARAM_END;
        out.extra = packed_;
    } else {
        const auto* argument = reinterpret_cast<const Argument*>(&head + 1);
        pointers_.resize(head.arguments + 1u);
        for (uint32_t i = 0; i < head.arguments; ++i) pointers_[i] = arguments + argument[i].offset;
        out.kernelParams = pointers_.data();
    }
    return out;
}

CUDA_MEMCPY3D Builder::memcpy_parameters(uint32_t node) const {
    const auto& copy = *reinterpret_cast<const Memcpy*>(words_.data() + table_->parameter_start[node]);
    CUDA_MEMCPY3D out{};
    out.srcMemoryType = out.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    out.srcDevice = copy.source, out.dstDevice = copy.destination;
    out.srcXInBytes = copy.source_x, out.srcY = copy.source_y, out.srcZ = copy.source_z;
    out.srcPitch = copy.source_pitch, out.srcHeight = copy.source_height;
    out.dstXInBytes = copy.destination_x, out.dstY = copy.destination_y, out.dstZ = copy.destination_z;
    out.dstPitch = copy.destination_pitch, out.dstHeight = copy.destination_height;
    out.WidthInBytes = copy.width, out.Height = copy.height, out.Depth = copy.depth;
    return out;
}

CUDA_MEMSET_NODE_PARAMS Builder::memset_parameters(uint32_t node) const {
    const auto& set = *reinterpret_cast<const Memset*>(words_.data() + table_->parameter_start[node]);
    CUDA_MEMSET_NODE_PARAMS out{};
    out.dst = set.destination, out.pitch = set.pitch, out.value = static_cast<unsigned>(set.value);
    out.elementSize = static_cast<unsigned>(set.element_size), out.width = set.width, out.height = set.height;
    return out;
}

void Builder::add_kernel(uint32_t node) {
    const auto parameters = kernel_parameters(node);
    check(driver().cuGraphAddKernelNode(&nodes_[node], graph_, nullptr, 0, &parameters),
          "cuGraphAddKernelNode", where(node));
    const auto& head = *reinterpret_cast<const Skeleton*>(table_->skeleton + table_->skeleton_start[node]);
    const auto* argument = reinterpret_cast<const Argument*>(&head + 1);
    const auto* attribute = reinterpret_cast<const Attribute*>(argument + head.arguments);
    for (uint32_t i = 0; i < head.attributes; ++i) {
        CUlaunchAttributeValue value;
        static_assert(sizeof(value) == sizeof(attribute->value));
        std::memcpy(&value, attribute[i].value, sizeof(value));
        check(driver().cuGraphKernelNodeSetAttribute(
                  nodes_[node], static_cast<CUlaunchAttributeID>(attribute[i].id), &value),
              "cuGraphKernelNodeSetAttribute",
              where(node) + ", attribute " + std::to_string(attribute[i].id));
    }
}

void Builder::add_node(uint32_t node) {
    switch (table_->kind[node]) {
        case KIND_KERNEL:
            add_kernel(node);
            break;
        case KIND_MEMCPY: {
            const auto copy = memcpy_parameters(node);
            check(driver().cuGraphAddMemcpyNode(&nodes_[node], graph_, nullptr, 0, &copy, context_),
                  "cuGraphAddMemcpyNode", where(node));
            break;
        }
        case KIND_MEMSET: {
            const auto set = memset_parameters(node);
            check(driver().cuGraphAddMemsetNode(&nodes_[node], graph_, nullptr, 0, &set, context_),
                  "cuGraphAddMemsetNode", where(node));
            break;
        }
        default:
            check(driver().cuGraphAddEmptyNode(&nodes_[node], graph_, nullptr, 0), "cuGraphAddEmptyNode",
                  where(node));
    }
}

// Drivers 580 to 610 copy the first edge's data onto every edge of one call, so each kind of edge gets its
// own.
void Builder::add_edges(const std::vector<bool>& fresh) {
    using Ports = std::tuple<uint8_t, uint8_t, uint8_t>;
    struct Group {
        std::vector<CUgraphNode> from, to;
        std::vector<CUgraphEdgeData> data;
    };
    std::map<Ports, Group> groups;
    for (uint32_t edge = 0; edge < table_->edges; ++edge) {
        if (!fresh[table_->edge_from[edge]] && !fresh[table_->edge_to[edge]]) continue;
        const Ports ports{table_->edge_from_port[edge], table_->edge_to_port[edge], table_->edge_type[edge]};
        CUgraphEdgeData data{};
        data.from_port = std::get<0>(ports), data.to_port = std::get<1>(ports),
        data.type = std::get<2>(ports);
        Group& group = groups[ports];
        group.from.push_back(nodes_[table_->edge_from[edge]]);
        group.to.push_back(nodes_[table_->edge_to[edge]]);
        group.data.push_back(data);
    }
    for (auto& [ports, group] : groups) {
        const bool plain = ports == Ports{};
        check(driver().cuGraphAddDependencies(graph_, group.from.data(), group.to.data(),
                                              plain ? nullptr : group.data.data(), group.from.size()),
              "cuGraphAddDependencies", name_);
    }
}

void Builder::set_parameters(uint32_t node) {
    switch (table_->kind[node]) {
        case KIND_KERNEL: {
            const auto parameters = kernel_parameters(node);
            check(driver().cuGraphKernelNodeSetParams(nodes_[node], &parameters),
                  "cuGraphKernelNodeSetParams", where(node));
            break;
        }
        case KIND_MEMCPY: {
            const auto copy = memcpy_parameters(node);
            check(driver().cuGraphMemcpyNodeSetParams(nodes_[node], &copy), "cuGraphMemcpyNodeSetParams",
                  where(node));
            break;
        }
        case KIND_MEMSET: {
            const auto set = memset_parameters(node);
            check(driver().cuGraphMemsetNodeSetParams(nodes_[node], &set), "cuGraphMemsetNodeSetParams",
                  where(node));
            break;
        }
        default:
            break;
    }
}

bool Builder::fits(const foundry_template& table) const {
    const auto same = [](const auto* a, const auto* b, size_t count) {
        return count == 0 || std::memcmp(a, b, count * sizeof(*a)) == 0;
    };
    const foundry_template& own = *table_;
    return own.nodes == table.nodes && own.edges == table.edges && same(own.kind, table.kind, own.nodes) &&
           same(own.edge_from, table.edge_from, own.edges) && same(own.edge_to, table.edge_to, own.edges) &&
           same(own.edge_from_port, table.edge_from_port, own.edges) &&
           same(own.edge_to_port, table.edge_to_port, own.edges) &&
           same(own.edge_type, table.edge_type, own.edges);
}

bool Builder::same_form(const foundry_template& other, uint32_t node) const {
    const auto begin = [node](const foundry_template& t) { return t.skeleton + t.skeleton_start[node]; };
    const auto size = [node](const foundry_template& t) {
        return t.skeleton_start[node + 1] - t.skeleton_start[node];
    };
    return table_->function[node] == other.function[node] && size(*table_) == size(other) &&
           (size(other) == 0 || std::memcmp(begin(*table_), begin(other), size(other)) == 0);
}

void Builder::become(const foundry_template& table, const std::string& name) {
    name_ = name;
    if (table_ == &table) return;
    const Watch watch(spent_.build);
    // A node whose function or attributes were only set anew would be accepted, and fail at its launch.
    std::vector<bool> fresh(table.nodes);
    for (uint32_t node = 0; node < table.nodes; ++node) fresh[node] = !same_form(table, node);
    const foundry_template& old = *table_;
    const std::vector<uint64_t> before =
        std::exchange(words_, {table.parameters, table.parameters + table.words});
    table_ = &table;
    rewritten_.clear();
    for (uint32_t node = 0; node < table.nodes; ++node) {
        if (fresh[node]) {
            check(driver().cuGraphDestroyNode(nodes_[node]), "cuGraphDestroyNode", where(node));
            add_node(node);
            continue;
        }
        const uint64_t* has = before.data() + old.parameter_start[node];
        const uint64_t* wants = words_.data() + table.parameter_start[node];
        if (!std::equal(has, before.data() + old.parameter_start[node + 1], wants)) set_parameters(node);
    }
    add_edges(fresh);
}

CUgraphExec Builder::member(const uint32_t* word, const uint64_t* value, uint64_t count, CUstream upload) {
    // A word that neither the last member nor this one changes already stands in the graph.
    std::vector<uint32_t> touched = rewritten_;
    for (uint32_t index : rewritten_) words_[index] = table_->parameters[index];
    touched.insert(touched.end(), word, word + count);
    std::sort(touched.begin(), touched.end());
    rewritten_ = touched;
    for (uint64_t i = 0; i < count; ++i) words_[word[i]] = value[i];

    uint32_t node = 0;
    int64_t set = -1;
    for (uint32_t index : touched) {
        while (table_->parameter_start[node + 1] <= index) ++node;
        if (set == node) continue;
        set_parameters(node);
        set = node;
    }
    rewritten_.assign(word, word + count);
    return instantiate(upload);
}

CUgraphExec Builder::instantiate(CUstream upload) {
    CUgraphExec exec = nullptr;
    {
        const Watch watch(spent_.instantiate);
        check(driver().cuGraphInstantiate(&exec, graph_, 0), "cuGraphInstantiateWithFlags", name_);
    }
    try {
        const Watch watch(spent_.upload);
        check(driver().cuGraphUpload(exec, upload), "cuGraphUpload", name_);
    } catch (...) {
        driver().cuGraphExecDestroy(exec);
        throw;
    }
    return exec;
}

}  // namespace foundry
