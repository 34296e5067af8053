#include "extract.hpp"

#include <algorithm>
#include <cstring>

#include "driver.hpp"
#include "owned.hpp"

namespace foundry {
namespace {

// Attributes of kernel nodes; the others are for launches or streams and leave nothing in a node.
constexpr uint32_t ATTRIBUTES[] = {
    CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW,
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE,
    CU_LAUNCH_ATTRIBUTE_PRIORITY,
    CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP,
    CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN,
    CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION,
    CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE,
    CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
};

const char* kind_name(CUgraphNodeType type) {
    switch (type) {
        case CU_GRAPH_NODE_TYPE_HOST:
            return "a host function";
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
            return "a wait for an event";
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
            return "the recording of an event";
        case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
            return "the signal of an external semaphore";
        case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
            return "the wait for an external semaphore";
        case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
            return "a stream-ordered allocation (cudaMallocAsync)";
        case CU_GRAPH_NODE_TYPE_MEM_FREE:
            return "a stream-ordered free (cudaFreeAsync)";
        case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
            return "a batch of memory operations";
        case CU_GRAPH_NODE_TYPE_CONDITIONAL:
            return "a conditional node";
        default:
            return "a node of an unknown kind";
    }
}

struct Layout {
    std::vector<Argument> offsets;
    uint32_t bytes = 0;
};

class Extractor {
  public:
    explicit Extractor(Extracted& out) : out_(out) {}

    // Appends a graph's nodes and edges; `roots` and `leaves` receive its first and last nodes.
    void graph(CUgraph graph, std::vector<uint32_t>& roots, std::vector<uint32_t>& leaves);

  private:
    struct Span {
        uint32_t entry, exit;
    };

    uint32_t finish_node(uint8_t kind, uint32_t function);
    uint32_t empty_node() { return finish_node(KIND_EMPTY, NO_FUNCTION); }
    void edge(uint32_t from, uint32_t to, CUgraphEdgeData data = {});
    Span child(CUgraphNode node);
    uint32_t kernel(CUgraphNode node);
    uint32_t copy(CUgraphNode node);
    uint32_t set(CUgraphNode node);
    std::vector<Attribute> attributes(CUgraphNode node, const std::string& name);
    const std::vector<Attribute>& defaults_of(uint32_t function, const CUDA_KERNEL_NODE_PARAMS& parameters);
    uint32_t function_of(const CUDA_KERNEL_NODE_PARAMS& parameters);
    const Layout& arguments_of(uint32_t function);
    void device_only(CUmemorytype type, CUdeviceptr device, const char* end);
    std::string last_kernel() const;
    template <class Record>
    void words(const Record& record);

    Extracted& out_;
    std::map<CUfunction, uint32_t> indices_;
    std::map<uint32_t, Layout> arguments_;
    std::map<uint32_t, std::vector<Attribute>> defaults_;
};

template <class Record>
void Extractor::words(const Record& record) {
    static_assert(sizeof(Record) % 8 == 0);
    const size_t start = out_.parameters.size();
    out_.parameters.resize(start + sizeof(Record) / 8);
    std::memcpy(out_.parameters.data() + start, &record, sizeof(Record));
}

uint32_t Extractor::finish_node(uint8_t kind, uint32_t function) {
    out_.kind.push_back(kind);
    out_.function.push_back(function);
    out_.parameter_start.push_back(static_cast<uint32_t>(out_.parameters.size()));
    out_.skeleton_start.push_back(static_cast<uint32_t>(out_.skeleton.size()));
    return static_cast<uint32_t>(out_.kind.size() - 1);
}

void Extractor::edge(uint32_t from, uint32_t to, CUgraphEdgeData data) {
    out_.edge_from.push_back(from);
    out_.edge_to.push_back(to);
    out_.edge_from_port.push_back(data.from_port);
    out_.edge_to_port.push_back(data.to_port);
    out_.edge_type.push_back(data.type);
}

std::string Extractor::last_kernel() const {
    for (size_t node = out_.function.size(); node-- > 0;)
        if (out_.function[node] != NO_FUNCTION) return out_.functions[out_.function[node]].name;
    return "the graph's start";
}

uint32_t Extractor::function_of(const CUDA_KERNEL_NODE_PARAMS& parameters) {
    CUfunction handle = parameters.func;
    if (handle == nullptr)
        check(driver().cuKernelGetFunction(&handle, parameters.kern), "cuKernelGetFunction",
              "after " + last_kernel());
    const auto known = indices_.find(handle);
    if (known != indices_.end()) return known->second;

    ExtractedFunction function{handle, nullptr, "", 0, -1, 0};
    const char* name = nullptr;
    check(driver().cuFuncGetName(&name, handle), "cuFuncGetName", "after " + last_kernel());
    function.name = name;
    check(driver().cuFuncGetModule(&function.module, handle), "cuFuncGetModule", function.name);
    const auto attribute = [&](int32_t& value, CUfunction_attribute id) {
        check(driver().cuFuncGetAttribute(&value, id, handle), "cuFuncGetAttribute", function.name);
    };
    attribute(function.shared, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
    attribute(function.carveout, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT);
    attribute(function.nonportable, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED);
    out_.functions.push_back(function);
    return indices_[handle] = static_cast<uint32_t>(out_.functions.size() - 1);
}

const Layout& Extractor::arguments_of(uint32_t function) {
    const auto known = arguments_.find(function);
    if (known != arguments_.end()) return known->second;
    Layout& out = arguments_[function];
    size_t offset = 0, size = 0;
    while (driver().cuFuncGetParamInfo(out_.functions[function].handle, out.offsets.size(), &offset, &size) ==
           CUDA_SUCCESS) {
        out.offsets.push_back({static_cast<uint32_t>(offset), static_cast<uint32_t>(size)});
        out.bytes = std::max(out.bytes, static_cast<uint32_t>(offset + size));
    }
    return out;
}

std::vector<Attribute> Extractor::attributes(CUgraphNode node, const std::string& name) {
    std::vector<Attribute> out;
    for (uint32_t id : ATTRIBUTES) {
        CUlaunchAttributeValue value;
        std::memset(&value, 0, sizeof(value));
        if (driver().cuGraphKernelNodeGetAttribute(node, static_cast<CUlaunchAttributeID>(id), &value) !=
            CUDA_SUCCESS)
            continue;
        Attribute attribute{id, 0, {}};
        std::memcpy(attribute.value, &value, sizeof(value));
        const uint8_t zero[sizeof(value)] = {};
        if (std::memcmp(attribute.value, zero, sizeof(zero)) == 0) continue;
        if (id == CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT && value.sharedMemCarveout == ~0u)
            continue;
        if (id == CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW && value.accessPolicyWindow.num_bytes == 0)
            continue;
        if (id == CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE)
            refuse(name + " can be updated from the device, which a bundle cannot keep");
        out.push_back(attribute);
    }
    return out;
}

// What a node of this function has before any attribute is set. Setting it again would cost a call a node.
const std::vector<Attribute>& Extractor::defaults_of(uint32_t function,
                                                     const CUDA_KERNEL_NODE_PARAMS& parameters) {
    const auto known = defaults_.find(function);
    if (known != defaults_.end()) return known->second;
    const std::string& name = out_.functions[function].name;
    OwnedGraph scratch;
    check(driver().cuGraphCreate(scratch.out(), 0), "cuGraphCreate", name);
    CUgraphNode node = nullptr;
    check(driver().cuGraphAddKernelNode(&node, scratch.get(), nullptr, 0, &parameters),
          "cuGraphAddKernelNode", name);
    return defaults_[function] = attributes(node, name);
}

uint32_t Extractor::kernel(CUgraphNode node) {
    CUDA_KERNEL_NODE_PARAMS parameters{};
    check(driver().cuGraphKernelNodeGetParams(node, &parameters), "cuGraphKernelNodeGetParams",
          "after " + last_kernel());
    const uint32_t function = function_of(parameters);
    const std::string name = out_.functions[function].name;
    const Layout& layout = arguments_of(function);

    const uint8_t* packed = nullptr;
    uint32_t bytes = layout.bytes;
    if (parameters.extra != nullptr && parameters.kernelParams == nullptr) {
        for (void** entry = parameters.extra; *entry != CU_LAUNCH_PARAM_END; entry += 2) {
            if (*entry == CU_LAUNCH_PARAM_BUFFER_POINTER) packed = static_cast<const uint8_t*>(entry[1]);
            if (*entry == CU_LAUNCH_PARAM_BUFFER_SIZE)
                bytes = static_cast<uint32_t>(*static_cast<const size_t*>(entry[1]));
        }
    }
    if (packed != nullptr && bytes < layout.bytes)
        refuse(name + ": its argument buffer is shorter than its arguments");

    Launch launch{{parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ},
                  {parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ},
                  parameters.sharedMemBytes,
                  0};
    words(launch);
    const size_t start = out_.parameters.size();
    out_.parameters.resize(start + (bytes + 7) / 8);
    auto* to = reinterpret_cast<uint8_t*>(out_.parameters.data() + start);
    if (packed != nullptr) {
        std::memcpy(to, packed, bytes);
    } else {
        for (size_t i = 0; i < layout.offsets.size(); ++i)
            std::memcpy(to + layout.offsets[i].offset, parameters.kernelParams[i], layout.offsets[i].size);
    }

    const std::vector<Attribute> found = attributes(node, name);
    const std::vector<Attribute>& defaults = defaults_of(function, parameters);
    std::vector<Attribute> set;
    for (const Attribute& attribute : found) {
        const auto same = [&](const Attribute& other) {
            return std::memcmp(&other, &attribute, sizeof(other)) == 0;
        };
        if (std::none_of(defaults.begin(), defaults.end(), same)) set.push_back(attribute);
    }
    for (const Attribute& standard : defaults) {
        const auto same = [&](const Attribute& other) { return other.id == standard.id; };
        if (std::none_of(found.begin(), found.end(), same)) set.push_back({standard.id, 0, {}});
    }
    const Skeleton head{bytes, static_cast<uint16_t>(layout.offsets.size()), packed != nullptr,
                        static_cast<uint8_t>(set.size())};
    const auto append = [&](const void* data, size_t size) {
        const auto* from = static_cast<const uint8_t*>(data);
        out_.skeleton.insert(out_.skeleton.end(), from, from + size);
    };
    append(&head, sizeof(head));
    append(layout.offsets.data(), layout.offsets.size() * sizeof(Argument));
    append(set.data(), set.size() * sizeof(Attribute));
    return finish_node(KIND_KERNEL, function);
}

void Extractor::device_only(CUmemorytype type, CUdeviceptr device, const char* end) {
    if (type == CU_MEMORYTYPE_DEVICE) return;
    if (type == CU_MEMORYTYPE_UNIFIED) {
        unsigned kind = 0;
        if (driver().cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device) == CUDA_SUCCESS &&
            kind == CU_MEMORYTYPE_DEVICE)
            return;
    }
    refuse(std::string("a copy's ") + end + " is host memory or an array, after " + last_kernel() +
           "; copy inside the graph between device tensors only");
}

uint32_t Extractor::copy(CUgraphNode node) {
    CUDA_MEMCPY3D from{};
    check(driver().cuGraphMemcpyNodeGetParams(node, &from), "cuGraphMemcpyNodeGetParams",
          "after " + last_kernel());
    device_only(from.srcMemoryType, from.srcDevice, "source");
    device_only(from.dstMemoryType, from.dstDevice, "destination");
    words(Memcpy{from.srcDevice, from.dstDevice, from.srcXInBytes, from.srcY, from.srcZ, from.srcPitch,
                 from.srcHeight, from.dstXInBytes, from.dstY, from.dstZ, from.dstPitch, from.dstHeight,
                 from.WidthInBytes, from.Height, from.Depth});
    return finish_node(KIND_MEMCPY, NO_FUNCTION);
}

uint32_t Extractor::set(CUgraphNode node) {
    CUDA_MEMSET_NODE_PARAMS from{};
    check(driver().cuGraphMemsetNodeGetParams(node, &from), "cuGraphMemsetNodeGetParams",
          "after " + last_kernel());
    words(Memset{from.dst, from.pitch, from.value, from.elementSize, from.width, from.height});
    return finish_node(KIND_MEMSET, NO_FUNCTION);
}

// A child graph becomes its nodes between two empty ones, which stand for the child's beginning and end.
Extractor::Span Extractor::child(CUgraphNode node) {
    CUgraph inner = nullptr;
    check(driver().cuGraphChildGraphNodeGetGraph(node, &inner), "cuGraphChildGraphNodeGetGraph");
    const uint32_t entry = empty_node();
    std::vector<uint32_t> roots, leaves;
    graph(inner, roots, leaves);
    const uint32_t exit = empty_node();
    for (uint32_t root : roots) edge(entry, root);
    for (uint32_t leaf : leaves) edge(leaf, exit);
    if (roots.empty()) edge(entry, exit);
    return {entry, exit};
}

void Extractor::graph(CUgraph graph, std::vector<uint32_t>& roots, std::vector<uint32_t>& leaves) {
    size_t count = 0;
    check(driver().cuGraphGetNodes(graph, nullptr, &count), "cuGraphGetNodes");
    std::vector<CUgraphNode> nodes(count);
    if (count > 0) check(driver().cuGraphGetNodes(graph, nodes.data(), &count), "cuGraphGetNodes");

    std::map<CUgraphNode, Span> spans;
    for (CUgraphNode node : nodes) {
        CUgraphNodeType type;
        check(driver().cuGraphNodeGetType(node, &type), "cuGraphNodeGetType");
        uint32_t index = 0;
        switch (type) {
            case CU_GRAPH_NODE_TYPE_KERNEL:
                index = kernel(node);
                break;
            case CU_GRAPH_NODE_TYPE_MEMCPY:
                index = copy(node);
                break;
            case CU_GRAPH_NODE_TYPE_MEMSET:
                index = set(node);
                break;
            case CU_GRAPH_NODE_TYPE_EMPTY:
                index = empty_node();
                break;
            case CU_GRAPH_NODE_TYPE_GRAPH:
                spans[node] = child(node);
                continue;
            default:
                refuse(std::string("the graph holds ") + kind_name(type) + ", after " + last_kernel() +
                       "; a bundle cannot keep it: take it out of the captured code");
        }
        spans[node] = {index, index};
    }

    size_t edges = 0;
    check(driver().cuGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges), "cuGraphGetEdges");
    std::vector<CUgraphNode> from(edges), to(edges);
    std::vector<CUgraphEdgeData> data(edges);
    if (edges > 0)
        check(driver().cuGraphGetEdges(graph, from.data(), to.data(), data.data(), &edges),
              "cuGraphGetEdges");
    std::map<CUgraphNode, bool> has_input, has_output;
    for (size_t i = 0; i < edges; ++i) {
        edge(spans.at(from[i]).exit, spans.at(to[i]).entry, data[i]);
        has_output[from[i]] = has_input[to[i]] = true;
    }
    for (CUgraphNode node : nodes) {
        if (!has_input[node]) roots.push_back(spans[node].entry);
        if (!has_output[node]) leaves.push_back(spans[node].exit);
    }
}

}  // namespace

Extracted extract(CUgraph graph) {
    Extracted out;
    std::vector<uint32_t> roots, leaves;
    Extractor(out).graph(graph, roots, leaves);
    return out;
}

}  // namespace foundry
