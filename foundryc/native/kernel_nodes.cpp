#include "kernel_nodes.hpp"

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

}  // namespace

uint32_t KernelNodes::function_of(const CUDA_KERNEL_NODE_PARAMS& parameters) {
    CUfunction handle = parameters.func;
    if (handle == nullptr)
        check(driver().cuKernelGetFunction(&handle, parameters.kern), "cuKernelGetFunction",
              "after " + out_.last_kernel());
    const auto known = indices_.find(handle);
    if (known != indices_.end()) return known->second;

    ExtractedFunction function{handle, nullptr, "", 0, -1, 0};
    const char* name = nullptr;
    check(driver().cuFuncGetName(&name, handle), "cuFuncGetName", "after " + out_.last_kernel());
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

const KernelNodes::Layout& KernelNodes::arguments_of(uint32_t function) {
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

std::vector<Attribute> KernelNodes::attributes(CUgraphNode node, const std::string& name) {
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
const std::vector<Attribute>& KernelNodes::defaults_of(uint32_t function,
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

uint32_t KernelNodes::append(CUgraphNode node) {
    CUDA_KERNEL_NODE_PARAMS parameters{};
    check(driver().cuGraphKernelNodeGetParams(node, &parameters), "cuGraphKernelNodeGetParams",
          "after " + out_.last_kernel());
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
    out_.append(launch);
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
    const auto put = [&](const void* data, size_t size) {
        const auto* from = static_cast<const uint8_t*>(data);
        out_.skeleton.insert(out_.skeleton.end(), from, from + size);
    };
    put(&head, sizeof(head));
    put(layout.offsets.data(), layout.offsets.size() * sizeof(Argument));
    put(set.data(), set.size() * sizeof(Attribute));
    return function;
}

}  // namespace foundry
