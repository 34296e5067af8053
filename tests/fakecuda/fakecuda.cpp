// A stand-in for libcuda.so.1: host memory, one kernel, and any call made to fail on demand.
//
// A "cubin" is the text `FAKE` and the names of its kernels, each after a space. Every kernel does the same: it adds
// its third argument to the uint32 elements at its first; the second says how many.
#include <cuda.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "streams.hpp"

namespace {

struct Graph;
struct Node {
    CUgraphNodeType type;
    Graph* graph = nullptr;
    const uint32_t* offset = nullptr;
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
            for (const auto& [from, to] : edges)
                if (from == free[i] && --waits[to] == 0) free.push_back(to);
        }
        return out;
    }
};
struct Kernel {
    std::string name;
    std::map<int, int> state;
    const uint32_t* offset;
};
struct Library {
    std::map<std::string, std::unique_ptr<Kernel>> kernels;
    uint32_t offset = 0;  // the one variable of every library: added to what its kernels add
};

constexpr size_t GRANULARITY = 2 << 20;

std::mutex guard;
std::map<std::string, int64_t> live;
std::atomic<int64_t> calls{0}, fail_at{0};
std::atomic<int> fail_code{CUDA_ERROR_OUT_OF_MEMORY};
std::atomic<int> architecture{90}, version{13000};
std::atomic<uint64_t> memory{1ull << 30};
int device_context;
// The primary context is another one each time that it is retained anew.
std::atomic<int> retained{0}, generation{0};
thread_local int current = 0;

void count(const char* what, int64_t change) {
    std::lock_guard lock(guard);
    live[what] += change;
}

void parse(Node& node, const CUDA_KERNEL_NODE_PARAMS& from) {
    node.offset = reinterpret_cast<Kernel*>(from.func)->offset;
    constexpr size_t offsets[] = {0, 8, 12}, sizes[] = {8, 4, 4};
    if (from.extra != nullptr) {
        std::memcpy(node.arguments, from.extra[1], sizeof(node.arguments));
    } else {
        for (int i = 0; i < 3; ++i) std::memcpy(node.arguments + offsets[i], from.kernelParams[i], sizes[i]);
    }
}

void run(const Node& node) {
    if (node.type == CU_GRAPH_NODE_TYPE_KERNEL) {
        uint64_t address;
        uint32_t length, increment;
        std::memcpy(&address, node.arguments, 8);
        std::memcpy(&length, node.arguments + 8, 4);
        std::memcpy(&increment, node.arguments + 12, 4);
        for (uint32_t i = 0; i < length; ++i) reinterpret_cast<uint32_t*>(address)[i] += increment + *node.offset;
    } else if (node.type == CU_GRAPH_NODE_TYPE_MEMCPY) {
        std::memcpy(reinterpret_cast<void*>(node.copy.dstDevice), reinterpret_cast<void*>(node.copy.srcDevice),
                    node.copy.WidthInBytes);
    } else if (node.type == CU_GRAPH_NODE_TYPE_MEMSET) {
        std::memset(reinterpret_cast<void*>(node.set.dst), static_cast<int>(node.set.value),
                    node.set.width * node.set.elementSize);
    }
}

template <class Handle, class Object>
Handle handle(Object* object) {
    return reinterpret_cast<Handle>(object);
}

streams::Stream* stream_of(CUstream stream) { return reinterpret_cast<streams::Stream*>(stream); }
streams::Event* event_of(CUevent event) { return reinterpret_cast<streams::Event*>(event); }

// Counts as something never freed, which every test looks for.
void give_back(const char* what) {
    count(what, -1);
    if (streams::busy()) count("freed before the work that is queued", 1);
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

// Calls that free something are not made to fail: nothing could be done about it.
#define MAY_FAIL \
    if (++calls == fail_at) return static_cast<CUresult>(fail_code.load())
// Calls that work on the thread's current context.
#define IN_CONTEXT \
    MAY_FAIL;      \
    if (retained == 0 || current != generation) return CUDA_ERROR_INVALID_CONTEXT

extern "C" {

// For the tests: the `call`th call from now on returns `code`; 0 for none.
void fakecuda_fail(int64_t call, int code) {
    calls = 0, fail_at = call, fail_code = code;
}
int64_t fakecuda_calls() { return calls; }
void fakecuda_device(int sm, int cuda_version, uint64_t bytes) { architecture = sm, version = cuda_version, memory = bytes; }
// What was made and not freed, as "name count" pairs.
void fakecuda_live(char* text, size_t size) {
    std::lock_guard lock(guard);
    std::ostringstream out;
    for (const auto& [what, number] : live)
        if (number != 0) out << what << ' ' << number << ' ';
    std::strncpy(text, out.str().c_str(), size);
}

CUresult cuGetErrorName(CUresult code, const char** out) {
    *out = code == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char** out) {
    *out = code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "unknown error";
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned) { MAY_FAIL; return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* out) { MAY_FAIL; *out = version; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* out) { MAY_FAIL; *out = 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* out, int ordinal) {
    MAY_FAIL;
    *out = ordinal;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* out, int size, CUdevice) { MAY_FAIL; std::strncpy(out, "fake", size); return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice) {
    MAY_FAIL;
    *out = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? architecture / 10 : architecture % 10;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice) {
    MAY_FAIL;
    if (retained++ == 0) ++generation;
    *out = handle<CUcontext>(&device_context);
    count("context", 1);
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { --retained; count("context", -1); return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) {
    MAY_FAIL;
    current = generation;
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) { IN_CONTEXT; *free = *total = memory; return CUDA_SUCCESS; }
CUresult cuMemGetAllocationGranularity(size_t* out, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
    MAY_FAIL;
    *out = GRANULARITY;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr* out, size_t size, size_t, CUdeviceptr address, unsigned long long) {
    MAY_FAIL;
    void* got = mmap(reinterpret_cast<void*>(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = reinterpret_cast<CUdeviceptr>(got);
    count("reservation", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t size) {
    munmap(reinterpret_cast<void*>(address), size);
    count("reservation", -1);
    return CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle* out, size_t, const CUmemAllocationProp*, unsigned long long) {
    MAY_FAIL;
    *out = 1;
    count("memory", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle) { count("memory", -1); return CUDA_SUCCESS; }
CUresult cuMemMap(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) {
    MAY_FAIL;
    count("mapping", 1);
    return CUDA_SUCCESS;
}
// As a device may, it hands memory out with somebody's old bytes in it.
CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc*, size_t) {
    MAY_FAIL;
    if (mprotect(reinterpret_cast<void*>(address), size, PROT_READ | PROT_WRITE) != 0) return CUDA_ERROR_INVALID_VALUE;
    std::memset(reinterpret_cast<void*>(address), 0xA5, size);
    return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t size) {
    mprotect(reinterpret_cast<void*>(address), size, PROT_NONE);
    give_back("mapping");
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t size) {
    IN_CONTEXT;
    *out = reinterpret_cast<CUdeviceptr>(std::malloc(size));
    count("device memory", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
    std::free(reinterpret_cast<void*>(address));
    count("device memory", -1);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** out, size_t size, unsigned) {
    IN_CONTEXT;
    *out = std::malloc(size);
    std::lock_guard lock(streams::guard);
    streams::pinned[static_cast<const char*>(*out)] = size;
    count("pinned", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void* address) {
    std::lock_guard lock(streams::guard);
    streams::pinned.erase(static_cast<const char*>(address));
    std::free(address);
    give_back("pinned");
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
    IN_CONTEXT;
    auto* target = reinterpret_cast<void*>(to);
    if (streams::is_pinned(from)) {
        streams::queue(stream_of(stream), [=] { std::memcpy(target, from, size); });
    } else {
        const auto* bytes = static_cast<const char*>(from);
        streams::queue(stream_of(stream), [target, kept = std::vector<char>(bytes, bytes + size)] {
            std::memcpy(target, kept.data(), kept.size());
        });
    }
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream stream) {
    IN_CONTEXT;
    streams::queue(stream_of(stream), [=] { std::memcpy(to, reinterpret_cast<void*>(from), size); });
    if (!streams::is_pinned(to)) streams::drain(stream_of(stream));
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    IN_CONTEXT;
    streams::queue(stream_of(stream),
                   [=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), size); });
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream stream) {
    IN_CONTEXT;
    streams::queue(stream_of(stream), [=] { std::memset(reinterpret_cast<void*>(to), value, size); });
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* out, unsigned) {
    IN_CONTEXT;
    *out = handle<CUstream>(streams::make());
    count("stream", 1);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
    streams::destroy(stream_of(stream));
    count("stream", -1);
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
    streams::drain(stream_of(stream));  // also where it is made to fail: a broken device does nothing more
    IN_CONTEXT;
    return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    IN_CONTEXT;
    streams::queue(stream_of(stream), [seen = *event_of(event)] { streams::wait(seen); });
    return CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent* out, unsigned) {
    IN_CONTEXT;
    *out = handle<CUevent>(new streams::Event);
    count("event", 1);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent event) {
    delete event_of(event);
    count("event", -1);
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
    IN_CONTEXT;
    streams::record(event_of(event), stream_of(stream));
    return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
    IN_CONTEXT;
    streams::wait(*event_of(event));
    return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent event) {
    IN_CONTEXT;
    streams::wait(*event_of(event));
    return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary* out, const void* code, CUjit_option*, void**, unsigned, CUlibraryOption*, void**,
                           unsigned) {
    IN_CONTEXT;
    std::istringstream words(static_cast<const char*>(code));
    std::string word;
    words >> word;
    if (word != "FAKE") return CUDA_ERROR_NO_BINARY_FOR_GPU;
    auto* library = new Library;
    while (words >> word) library->kernels[word] = std::make_unique<Kernel>(Kernel{word, {}, &library->offset});
    *out = handle<CUlibrary>(library);
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
    if (std::strcmp(name, "offset") != 0) return CUDA_ERROR_NOT_FOUND;
    *out = reinterpret_cast<CUdeviceptr>(&reinterpret_cast<Library*>(library)->offset);
    *size = sizeof(uint32_t);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
    IN_CONTEXT;
    std::memcpy(reinterpret_cast<void*>(to), from, size);
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
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { IN_CONTEXT; return CUDA_SUCCESS; }

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
    // More than 48 KiB of dynamic shared memory must have been allowed before.
    const auto& state = reinterpret_cast<Kernel*>(parameters->func)->state;
    const auto allowed = state.find(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
    const unsigned limit = allowed == state.end() ? 48 << 10 : allowed->second;
    if (parameters->sharedMemBytes > limit) return CUDA_ERROR_INVALID_VALUE;
    Node node{CU_GRAPH_NODE_TYPE_KERNEL};
    parse(node, *parameters);
    return add(graph, out, node);
}
CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* parameters) {
    MAY_FAIL;
    parse(*node_of(node), *parameters);
    return CUDA_SUCCESS;
}
CUresult cuGraphKernelNodeSetAttribute(CUgraphNode, CUlaunchAttributeID, const CUlaunchAttributeValue*) {
    MAY_FAIL;
    return CUDA_SUCCESS;
}
CUresult cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode*, size_t, const CUDA_MEMCPY3D* copy,
                              CUcontext) {
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
CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
    IN_CONTEXT;
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
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                        void**, void**) {
    IN_CONTEXT;
    return CUDA_SUCCESS;
}
CUresult cuGraphUpload(CUgraphExec, CUstream) { IN_CONTEXT; return CUDA_SUCCESS; }
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    IN_CONTEXT;
    const auto* nodes = reinterpret_cast<const std::vector<Node>*>(exec);
    streams::queue(stream_of(stream), [nodes] {
        for (const Node& node : *nodes) run(node);
    });
    return CUDA_SUCCESS;
}

}  // extern "C"
