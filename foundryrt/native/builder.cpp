#include "builder.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "driver.hpp"

namespace foundry {

Builder::Builder(const foundry_template& table, const Kernels& kernels, const Placement& placement,
                 CUcontext context, Timings& timings, std::string name)
    : table_(&table),
      kernels_(kernels),
      placement_(placement),
      context_(context),
      timings_(timings),
      name_(std::move(name)),
      nodes_(table.nodes) {
    const ScopedTimer timer(timings_.build);
    load_words();
    check(driver().cuGraphCreate(graph_.out(), 0), "cuGraphCreate", name_);
    for (uint32_t node = 0; node < table.nodes; ++node) add_node(node);
    add_edges(std::vector<bool>(table.nodes, true));
}

void Builder::check_node(CUresult result, const char* call, uint32_t node) const {
    if (result != CUDA_SUCCESS) check(result, call, name_ + ", node " + std::to_string(node));
}

void Builder::load_words() {
    words_.assign(table_->parameters, table_->parameters + table_->words);
    if (!placement_.moved()) return;
    const foundry_relocations& relocations = table_->relocations;
    regions_.assign(words_.size(), NO_REGION);
    for (uint64_t i = 0; i < relocations.count; ++i) {
        const uint32_t word = relocations.word[i];
        regions_[word] = relocations.region[i];
        words_[word] = placed(word, words_[word]);
    }
}

uint64_t Builder::placed(uint32_t word, uint64_t value) const {
    if (regions_.empty() || regions_[word] == NO_REGION) return value;
    return placement_(value, regions_[word], name_);
}

const Skeleton& Builder::skeleton(uint32_t node) const {
    return *reinterpret_cast<const Skeleton*>(table_->skeleton + table_->skeleton_start[node]);
}

CUDA_KERNEL_NODE_PARAMS Builder::kernel_parameters(uint32_t node) {
    uint64_t* words = words_.data() + table_->parameter_start[node];
    const auto& launch = *reinterpret_cast<const Launch*>(words);
    auto* arguments = reinterpret_cast<uint8_t*>(words + LAUNCH_WORDS);
    const Skeleton& head = skeleton(node);

    CUDA_KERNEL_NODE_PARAMS out{};
    out.func = kernels_.function(table_->function[node]);
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
        arguments_.resize(head.arguments + 1u);
        for (uint32_t i = 0; i < head.arguments; ++i) arguments_[i] = arguments + argument[i].offset;
        out.kernelParams = arguments_.data();
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
    check_node(driver().cuGraphAddKernelNode(&nodes_[node], graph_.get(), nullptr, 0, &parameters),
               "cuGraphAddKernelNode", node);
    const Skeleton& head = skeleton(node);
    const auto* argument = reinterpret_cast<const Argument*>(&head + 1);
    const auto* attribute = reinterpret_cast<const Attribute*>(argument + head.arguments);
    for (uint32_t i = 0; i < head.attributes; ++i) {
        CUlaunchAttributeValue value;
        static_assert(sizeof(value) == sizeof(attribute->value));
        std::memcpy(&value, attribute[i].value, sizeof(value));
        check_node(driver().cuGraphKernelNodeSetAttribute(
                       nodes_[node], static_cast<CUlaunchAttributeID>(attribute[i].id), &value),
                   "cuGraphKernelNodeSetAttribute", node);
    }
}

void Builder::add_node(uint32_t node) {
    switch (table_->kind[node]) {
        case KIND_KERNEL:
            add_kernel(node);
            break;
        case KIND_MEMCPY: {
            const auto copy = memcpy_parameters(node);
            check_node(
                driver().cuGraphAddMemcpyNode(&nodes_[node], graph_.get(), nullptr, 0, &copy, context_),
                "cuGraphAddMemcpyNode", node);
            break;
        }
        case KIND_MEMSET: {
            const auto set = memset_parameters(node);
            check_node(driver().cuGraphAddMemsetNode(&nodes_[node], graph_.get(), nullptr, 0, &set, context_),
                       "cuGraphAddMemsetNode", node);
            break;
        }
        default:
            check_node(driver().cuGraphAddEmptyNode(&nodes_[node], graph_.get(), nullptr, 0),
                       "cuGraphAddEmptyNode", node);
    }
}

// Drivers 580 to 610 copy the first edge's data onto every edge of one call, so each kind of edge gets a call
// of its own.
void Builder::add_edges(const std::vector<bool>& added) {
    using Ports = std::tuple<uint8_t, uint8_t, uint8_t>;
    struct Group {
        std::vector<CUgraphNode> from, to;
        std::vector<CUgraphEdgeData> data;
    };
    std::map<Ports, Group> groups;
    for (uint32_t edge = 0; edge < table_->edges; ++edge) {
        if (!added[table_->edge_from[edge]] && !added[table_->edge_to[edge]]) continue;
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
        check(driver().cuGraphAddDependencies(graph_.get(), group.from.data(), group.to.data(),
                                              plain ? nullptr : group.data.data(), group.from.size()),
              "cuGraphAddDependencies", name_);
    }
}

void Builder::set_parameters(uint32_t node) {
    switch (table_->kind[node]) {
        case KIND_KERNEL: {
            const auto parameters = kernel_parameters(node);
            check_node(driver().cuGraphKernelNodeSetParams(nodes_[node], &parameters),
                       "cuGraphKernelNodeSetParams", node);
            break;
        }
        case KIND_MEMCPY: {
            const auto copy = memcpy_parameters(node);
            check_node(driver().cuGraphMemcpyNodeSetParams(nodes_[node], &copy), "cuGraphMemcpyNodeSetParams",
                       node);
            break;
        }
        case KIND_MEMSET: {
            const auto set = memset_parameters(node);
            check_node(driver().cuGraphMemsetNodeSetParams(nodes_[node], &set), "cuGraphMemsetNodeSetParams",
                       node);
            break;
        }
        default:
            break;
    }
}

bool Builder::same_topology(const foundry_template& table) const {
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

bool Builder::same_node(const foundry_template& other, uint32_t node) const {
    const auto begin = [node](const foundry_template& t) { return t.skeleton + t.skeleton_start[node]; };
    const auto size = [node](const foundry_template& t) {
        return t.skeleton_start[node + 1] - t.skeleton_start[node];
    };
    return table_->function[node] == other.function[node] && size(*table_) == size(other) &&
           (size(other) == 0 || std::memcmp(begin(*table_), begin(other), size(other)) == 0);
}

void Builder::switch_to(const foundry_template& table, const std::string& name) {
    name_ = name;
    if (table_ == &table) return;
    const ScopedTimer timer(timings_.build);
    // Setting another function or attributes on a node is accepted, and fails at its launch.
    std::vector<bool> replaced(table.nodes);
    for (uint32_t node = 0; node < table.nodes; ++node) replaced[node] = !same_node(table, node);
    const foundry_template& before = *std::exchange(table_, &table);
    const std::vector<uint64_t> old = std::exchange(words_, {});
    load_words();
    changed_.clear();
    for (uint32_t node = 0; node < table.nodes; ++node) {
        if (replaced[node]) {
            check_node(driver().cuGraphDestroyNode(nodes_[node]), "cuGraphDestroyNode", node);
            add_node(node);
            continue;
        }
        // Equal nodes have equally many words.
        const auto begin = old.begin() + before.parameter_start[node];
        const auto end = old.begin() + before.parameter_start[node + 1];
        if (!std::equal(begin, end, words_.begin() + table.parameter_start[node])) set_parameters(node);
    }
    add_edges(replaced);
}

void Builder::set_words(const Member& member) {
    // A word that neither this member nor the one before changes already stands in the graph.
    std::vector<uint32_t> touched = std::exchange(changed_, {member.word, member.word + member.count});
    for (const uint32_t word : touched) words_[word] = placed(word, table_->parameters[word]);
    for (uint64_t i = 0; i < member.count; ++i)
        words_[member.word[i]] = placed(member.word[i], member.value[i]);
    touched.insert(touched.end(), changed_.begin(), changed_.end());
    std::sort(touched.begin(), touched.end());

    uint32_t node = 0;
    for (auto word = touched.begin(); word != touched.end();) {
        while (table_->parameter_start[node + 1] <= *word) ++node;
        set_parameters(node);
        while (word != touched.end() && *word < table_->parameter_start[node + 1]) ++word;
    }
}

OwnedExec Builder::instantiate(const Member& member, CUstream upload) {
    {
        const ScopedTimer timer(timings_.build);
        set_words(member);
    }
    OwnedExec exec;
    {
        const ScopedTimer timer(timings_.instantiate);
        check(driver().cuGraphInstantiate(exec.out(), graph_.get(), 0), "cuGraphInstantiateWithFlags", name_);
    }
    const ScopedTimer timer(timings_.upload);
    check(driver().cuGraphUpload(exec.get(), upload), "cuGraphUpload", name_);
    return exec;
}

}  // namespace foundry
