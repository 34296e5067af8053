// Kernel binaries and graphs of the stand-in.
//
// A "cubin" is the text `FAKE` and the names of its kernels, each after a space, behind the header of an ELF
// file where it begins with one (tests/fakecuda/elf.py). Every kernel does the same:
// it adds its third argument to the uint32 elements at its first; the second says how many.
#include <elf.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fake.hpp"
#include "streams.hpp"

using namespace fake;

namespace {

// Those of every library. Its kernels add `offset`, and what `table` points to, to what they add.
struct Variables {
    uint32_t offset = 0;
    const uint32_t* table = nullptr;

    uint32_t sum() const { return offset + (table != nullptr ? *table : 0); }
};

struct Graph;
struct Node {
    CUgraphNodeType type;
    Graph* graph = nullptr;
    const Node* source = nullptr;  // in an exec: the graph's node
    bool enabled = true;
    const Variables* variables = nullptr;
    uint8_t arguments[16] = {};  // uint64 address, uint32 count, uint32 increment
    CUDA_MEMCPY3D copy{};
    CUDA_MEMSET_NODE_PARAMS set{};
};
struct Graph {
    std::vector<std::unique_ptr<Node>> nodes;
    std::vector<std::pair<Node*, Node*>> edges;

    // The nodes, each after those that it depends on.
    std::vector<Node> ordered() const {
        std::vector<Node> out;
        std::map<Node*, int> waits;
        for (const auto& [from, to] : edges) ++waits[to];
        std::vector<Node*> free;
        for (const auto& node : nodes)
            if (waits[node.get()] == 0) free.push_back(node.get());
        for (size_t i = 0; i < free.size(); ++i) {
            out.push_back(*free[i]);
            out.back().source = free[i];
            for (const auto& [from, to] : edges)
                if (from == free[i] && --waits[to] == 0) free.push_back(to);
        }
        return out;
    }
};
struct Kernel {
    std::string name;
    std::map<int, int> state;
    const Variables* variables;
};
struct Library {
    std::map<std::string, std::unique_ptr<Kernel>> kernels;
    Variables variables;
};

// More than 48 KiB of dynamic shared memory must have been allowed before.
bool allowed(const CUDA_KERNEL_NODE_PARAMS& node) {
    const auto& state = reinterpret_cast<Kernel*>(node.func)->state;
    const auto found = state.find(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
    return node.sharedMemBytes <= static_cast<unsigned>(found == state.end() ? 48 << 10 : found->second);
}

void parse(Node& node, const CUDA_KERNEL_NODE_PARAMS& from) {
    node.variables = reinterpret_cast<Kernel*>(from.func)->variables;
    constexpr size_t offsets[] = {0, 8, 12}, sizes[] = {8, 4, 4};
    if (from.extra != nullptr) {
        std::memcpy(node.arguments, from.extra[1], sizeof(node.arguments));
    } else {
        for (int i = 0; i < 3; ++i) std::memcpy(node.arguments + offsets[i], from.kernelParams[i], sizes[i]);
    }
}

void run(const Node& node) {
    if (!node.enabled) return;
    if (node.type == CU_GRAPH_NODE_TYPE_KERNEL) {
        uint64_t address;
        uint32_t length, increment;
        std::memcpy(&address, node.arguments, 8);
        std::memcpy(&length, node.arguments + 8, 4);
        std::memcpy(&increment, node.arguments + 12, 4);
        for (uint32_t i = 0; i < length; ++i)
            reinterpret_cast<uint32_t*>(address)[i] += increment + node.variables->sum();
    } else if (node.type == CU_GRAPH_NODE_TYPE_MEMCPY) {
        std::memcpy(reinterpret_cast<void*>(node.copy.dstDevice),
                    reinterpret_cast<void*>(node.copy.srcDevice), node.copy.WidthInBytes);
    } else if (node.type == CU_GRAPH_NODE_TYPE_MEMSET) {
        std::memset(reinterpret_cast<void*>(node.set.dst), static_cast<int>(node.set.value),
                    node.set.width * node.set.elementSize);
    }
}

Node* node_of(CUgraphNode node) { return reinterpret_cast<Node*>(node); }

CUresult add(CUgraph graph, CUgraphNode* out, const Node& node) {
    auto& nodes = reinterpret_cast<Graph*>(graph)->nodes;
    nodes.push_back(std::make_unique<Node>(node));
    nodes.back()->graph = reinterpret_cast<Graph*>(graph);
    *out = handle<CUgraphNode>(nodes.back().get());
    return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

CUresult cuLibraryLoadData(CUlibrary* out, const void* code, CUjit_option*, void**, unsigned,
                           CUlibraryOption*, void**, unsigned) {
    IN_CONTEXT;
    std::istringstream words(static_cast<const char*>(code));
    std::string word;
    const auto* const head = static_cast<const Elf64_Ehdr*>(code);
    if (std::memcmp(head->e_ident, ELFMAG, SELFMAG) == 0)  // behind the header, as tests make them
        words.str(static_cast<const char*>(code) + sizeof(*head));
    words >> word;
    if (word != "FAKE") return CUDA_ERROR_NO_BINARY_FOR_GPU;
    auto* library = new Library;
    while (words >> word)
        library->kernels[word] = std::make_unique<Kernel>(Kernel{word, {}, &library->variables});
    *out = handle<CUlibrary>(library);
    ++fake::loads;
    count("library", 1);
    return CUDA_SUCCESS;
}
CUresult cuLibraryUnload(CUlibrary library) {
    delete reinterpret_cast<Library*>(library);
    count("library", -1);
    return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel* out, CUlibrary library, const char* name) {
    MAY_FAIL;
    auto& kernels = reinterpret_cast<Library*>(library)->kernels;
    const auto found = kernels.find(name);
    if (found == kernels.end()) return CUDA_ERROR_NOT_FOUND;
    *out = handle<CUkernel>(found->second.get());
    return CUDA_SUCCESS;
}
CUresult cuLibraryGetGlobal(CUdeviceptr* out, size_t* size, CUlibrary library, const char* name) {
    IN_CONTEXT;
    Variables& variables = reinterpret_cast<Library*>(library)->variables;
    const bool table = std::strcmp(name, "table") == 0;
    if (!table && std::strcmp(name, "offset") != 0) return CUDA_ERROR_NOT_FOUND;
    *out = table ? reinterpret_cast<CUdeviceptr>(&variables.table)
                 : reinterpret_cast<CUdeviceptr>(&variables.offset);
    *size = table ? sizeof(variables.table) : sizeof(variables.offset);
    return CUDA_SUCCESS;
}
CUresult cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
    IN_CONTEXT;
    *out = reinterpret_cast<CUfunction>(kernel);
    return CUDA_SUCCESS;
}
CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice) {
    MAY_FAIL;
    reinterpret_cast<Kernel*>(kernel)->state[attribute] = value;
    return CUDA_SUCCESS;
}
CUresult cuKernelGetParamInfo(CUkernel, size_t index, size_t* offset, size_t* size) {
    MAY_FAIL;
    constexpr size_t offsets[] = {0, 8, 12}, sizes[] = {8, 4, 4};
    if (index > 2) return CUDA_ERROR_INVALID_VALUE;
    *offset = offsets[index], *size = sizes[index];
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* out, CUfunction_attribute attribute, CUfunction function) {
    MAY_FAIL;
    *out = reinterpret_cast<Kernel*>(function)->state[attribute];
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
    IN_CONTEXT;
    return CUDA_SUCCESS;
}
// A module is a library by an older name.
CUresult cuModuleLoadData(CUmodule* out, const void* code) {
    return cuLibraryLoadData(reinterpret_cast<CUlibrary*>(out), code, nullptr, nullptr, 0, nullptr, nullptr,
                             0);
}
CUresult cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
    return cuLibraryGetKernel(reinterpret_cast<CUkernel*>(out), reinterpret_cast<CUlibrary>(module), name);
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr* out, size_t* size, CUmodule module, const char* name) {
    return cuLibraryGetGlobal(out, size, reinterpret_cast<CUlibrary>(module), name);
}

CUresult cuGraphCreate(CUgraph* out, unsigned) {
    MAY_FAIL;
    *out = handle<CUgraph>(new Graph);
    count("graph", 1);
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
    delete reinterpret_cast<Graph*>(graph);
    count("graph", -1);
    return CUDA_SUCCESS;
}
CUresult cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode*, size_t,
                                 const CUDA_KERNEL_NODE_PARAMS* parameters) {
    MAY_FAIL;
    if (!allowed(*parameters)) return CUDA_ERROR_INVALID_VALUE;
    Node node{CU_GRAPH_NODE_TYPE_KERNEL};
    parse(node, *parameters);
    return add(graph, out, node);
}
CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* parameters) {
    MAY_FAIL;
    if (!allowed(*parameters)) return CUDA_ERROR_INVALID_VALUE;
    parse(*node_of(node), *parameters);
    return CUDA_SUCCESS;
}
CUresult cuGraphKernelNodeSetAttribute(CUgraphNode, CUlaunchAttributeID, const CUlaunchAttributeValue*) {
    MAY_FAIL;
    return CUDA_SUCCESS;
}
CUresult cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode*, size_t,
                              const CUDA_MEMCPY3D* copy, CUcontext) {
    MAY_FAIL;
    Node node{CU_GRAPH_NODE_TYPE_MEMCPY};
    node.copy = *copy;
    return add(graph, out, node);
}
CUresult cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D* copy) {
    MAY_FAIL;
    node_of(node)->copy = *copy;
    return CUDA_SUCCESS;
}
CUresult cuGraphAddMemsetNode(CUgraphNode* out, CUgraph graph, const CUgraphNode*, size_t,
                              const CUDA_MEMSET_NODE_PARAMS* set, CUcontext) {
    MAY_FAIL;
    Node node{CU_GRAPH_NODE_TYPE_MEMSET};
    node.set = *set;
    return add(graph, out, node);
}
CUresult cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS* set) {
    MAY_FAIL;
    node_of(node)->set = *set;
    return CUDA_SUCCESS;
}
CUresult cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode*, size_t) {
    MAY_FAIL;
    return add(graph, out, Node{CU_GRAPH_NODE_TYPE_EMPTY});
}
// Drivers 580 to 610 give every edge of a call the first one's data: a call that mixes them is a mistake.
CUresult cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                   const CUgraphEdgeData* data, size_t edges) {
    MAY_FAIL;
    for (size_t i = 1; data != nullptr && i < edges; ++i)
        if (std::memcmp(&data[i], &data[0], sizeof(*data)) != 0) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < edges; ++i)
        reinterpret_cast<Graph*>(graph)->edges.emplace_back(node_of(from[i]), node_of(to[i]));
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroyNode(CUgraphNode node) {
    MAY_FAIL;
    Node* gone = node_of(node);
    Graph& graph = *gone->graph;
    const auto touches = [gone](const auto& edge) { return edge.first == gone || edge.second == gone; };
    graph.edges.erase(std::remove_if(graph.edges.begin(), graph.edges.end(), touches), graph.edges.end());
    const auto is = [gone](const auto& owned) { return owned.get() == gone; };
    graph.nodes.erase(std::remove_if(graph.nodes.begin(), graph.nodes.end(), is), graph.nodes.end());
    return CUDA_SUCCESS;
}
CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* out, size_t* count) {
    MAY_FAIL;
    const auto& nodes = reinterpret_cast<Graph*>(graph)->nodes;
    for (size_t i = 0; out != nullptr && i < std::min(*count, nodes.size()); ++i)
        out[i] = handle<CUgraphNode>(nodes[i].get());
    *count = nodes.size();
    return CUDA_SUCCESS;
}
CUresult cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType* out) {
    MAY_FAIL;
    *out = node_of(node)->type;
    return CUDA_SUCCESS;
}
CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode node, unsigned enabled) {
    MAY_FAIL;
    if (node_of(node)->type == CU_GRAPH_NODE_TYPE_EMPTY) return CUDA_ERROR_INVALID_VALUE;
    for (Node& own : *reinterpret_cast<std::vector<Node>*>(exec))
        if (own.source == node_of(node)) own.enabled = enabled != 0;
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
    IN_CONTEXT;
    const size_t nodes = reinterpret_cast<Graph*>(graph)->nodes.size();
    {
        std::lock_guard lock(fake::guard);
        fake::instantiated += std::to_string(nodes) + ' ';
    }
    for (int waited = 0; nodes > fake::most_nodes; ++waited) {
        if (fake::too_many_code != 0) return static_cast<CUresult>(fake::too_many_code.load());
        if (waited == 30'000) return CUDA_ERROR_LAUNCH_TIMEOUT;  // so that a test that has failed ends
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    *out = handle<CUgraphExec>(new std::vector<Node>(reinterpret_cast<Graph*>(graph)->ordered()));
    count("exec", 1);
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec exec) {
    delete reinterpret_cast<std::vector<Node>*>(exec);
    count("exec", -1);
    return CUDA_SUCCESS;
}
// Does nothing: the only kernels that are launched like this take digests, and none is right.
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                        CUstream, void**, void**) {
    IN_CONTEXT;
    return CUDA_SUCCESS;
}
CUresult cuGraphUpload(CUgraphExec, CUstream) {
    IN_CONTEXT;
    return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    IN_CONTEXT;
    const auto* nodes = reinterpret_cast<const std::vector<Node>*>(exec);
    streams::queue(streams::stream_of(stream), [nodes] {
        for (const Node& node : *nodes) run(node);
    });
    return CUDA_SUCCESS;
}

}  // extern "C"
