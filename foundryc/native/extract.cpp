#include "extract.hpp"

#include <map>

#include "driver.hpp"
#include "kernel_nodes.hpp"

namespace foundry {
namespace {

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

class Extractor {
  public:
    explicit Extractor(Extracted& out) : out_(out), kernels_(out) {}

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
    uint32_t copy(CUgraphNode node);
    uint32_t set(CUgraphNode node);
    void device_only(CUmemorytype type, CUdeviceptr device, const char* end);

    Extracted& out_;
    KernelNodes kernels_;
};

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

void Extractor::device_only(CUmemorytype type, CUdeviceptr device, const char* end) {
    if (type == CU_MEMORYTYPE_DEVICE) return;
    if (type == CU_MEMORYTYPE_UNIFIED) {
        unsigned kind = 0;
        if (driver().cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device) == CUDA_SUCCESS &&
            kind == CU_MEMORYTYPE_DEVICE)
            return;
    }
    refuse(std::string("a copy's ") + end + " is host memory or an array, after " + out_.last_kernel() +
           "; copy inside the graph between device tensors only");
}

uint32_t Extractor::copy(CUgraphNode node) {
    CUDA_MEMCPY3D from{};
    check(driver().cuGraphMemcpyNodeGetParams(node, &from), "cuGraphMemcpyNodeGetParams",
          "after " + out_.last_kernel());
    device_only(from.srcMemoryType, from.srcDevice, "source");
    device_only(from.dstMemoryType, from.dstDevice, "destination");
    out_.append(Memcpy{from.srcDevice, from.dstDevice, from.srcXInBytes, from.srcY, from.srcZ, from.srcPitch,
                       from.srcHeight, from.dstXInBytes, from.dstY, from.dstZ, from.dstPitch, from.dstHeight,
                       from.WidthInBytes, from.Height, from.Depth});
    return finish_node(KIND_MEMCPY, NO_FUNCTION);
}

uint32_t Extractor::set(CUgraphNode node) {
    CUDA_MEMSET_NODE_PARAMS from{};
    check(driver().cuGraphMemsetNodeGetParams(node, &from), "cuGraphMemsetNodeGetParams",
          "after " + out_.last_kernel());
    out_.append(Memset{from.dst, from.pitch, from.value, from.elementSize, from.width, from.height});
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
                index = finish_node(KIND_KERNEL, kernels_.append(node));
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
                refuse(std::string("the graph holds ") + kind_name(type) + ", after " + out_.last_kernel() +
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

std::string Extracted::last_kernel() const {
    for (size_t node = function.size(); node-- > 0;)
        if (function[node] != NO_FUNCTION) return functions[function[node]].name;
    return "the graph's start";
}

Extracted extract(CUgraph graph) {
    Extracted out;
    std::vector<uint32_t> roots, leaves;
    Extractor(out).graph(graph, roots, leaves);
    return out;
}

}  // namespace foundry
