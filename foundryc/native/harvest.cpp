#include "harvest.hpp"

#include <cupti.h>
#include <dlfcn.h>

#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "driver.hpp"

namespace foundry {
namespace {

struct Cupti {
    decltype(&::cuptiSubscribe) subscribe;
    decltype(&::cuptiEnableDomain) enable_domain;
    decltype(&::cuptiEnableCallback) enable_callback;
    decltype(&::cuptiGetResultString) result_string;
};

struct Module {
    std::vector<uint8_t> cubin;
    uint32_t id = 0;  // CUPTI's
    bool unloaded = false;
    const char* call = "";  // CUPTI's text
    uint32_t siblings = 0;
    HandleKind kind = HandleKind::none;
    void* handle = nullptr;  // what the call named
};

// Driver calls nest (a call made from within another's callback), so each thread has a stack of them.
struct Call {
    uint32_t correlation;
    std::vector<size_t> modules;
};

// Never destroyed: the driver still calls back while the process ends.
std::mutex& mutex = *new std::mutex;
std::deque<Module>& modules = *new std::deque<Module>;
thread_local std::vector<Call>* stack = nullptr;

std::vector<Call>& calls_of_thread() {
    if (stack == nullptr) stack = new std::vector<Call>;
    return *stack;
}

template <class Parameters>
const Parameters& as(const CUpti_CallbackData* data) {
    return *static_cast<const Parameters*>(data->functionParams);
}

using Handle = HandleKind;
struct Named {
    Handle kind;
    void* handle;
};

// What a finished driver call says about the modules that were loaded within it.
Named named_by(CUpti_CallbackId call, const CUpti_CallbackData* data) {
    switch (call) {
        case CUPTI_DRIVER_TRACE_CBID_cuModuleLoad:
            return {Handle::module, *as<cuModuleLoad_params>(data).module};
        case CUPTI_DRIVER_TRACE_CBID_cuModuleLoadData:
            return {Handle::module, *as<cuModuleLoadData_params>(data).module};
        case CUPTI_DRIVER_TRACE_CBID_cuModuleLoadDataEx:
            return {Handle::module, *as<cuModuleLoadDataEx_params>(data).module};
        case CUPTI_DRIVER_TRACE_CBID_cuModuleLoadFatBinary:
            return {Handle::module, *as<cuModuleLoadFatBinary_params>(data).module};
        case CUPTI_DRIVER_TRACE_CBID_cuModuleGetFunction:
            return {Handle::module, as<cuModuleGetFunction_params>(data).hmod};
        case CUPTI_DRIVER_TRACE_CBID_cuLibraryLoadData:
            return {Handle::library, *as<cuLibraryLoadData_params>(data).library};
        case CUPTI_DRIVER_TRACE_CBID_cuLibraryLoadFromFile:
            return {Handle::library, *as<cuLibraryLoadFromFile_params>(data).library};
        case CUPTI_DRIVER_TRACE_CBID_cuLibraryGetModule:
            return {Handle::module, *as<cuLibraryGetModule_params>(data).pMod};
        case CUPTI_DRIVER_TRACE_CBID_cuLibraryGetGlobal:
            return {Handle::library, as<cuLibraryGetGlobal_params>(data).library};
        case CUPTI_DRIVER_TRACE_CBID_cuLibraryGetKernel:
            return {Handle::kernel, *as<cuLibraryGetKernel_params>(data).pKernel};
        case CUPTI_DRIVER_TRACE_CBID_cuKernelGetFunction:
            return {Handle::function, *as<cuKernelGetFunction_params>(data).pFunc};
        case CUPTI_DRIVER_TRACE_CBID_cuKernelGetAttribute:
            return {Handle::kernel, as<cuKernelGetAttribute_params>(data).kernel};
        case CUPTI_DRIVER_TRACE_CBID_cuKernelSetAttribute:
            return {Handle::kernel, as<cuKernelSetAttribute_params>(data).kernel};
        case CUPTI_DRIVER_TRACE_CBID_cuFuncGetAttribute:
            return {Handle::function_or_kernel, as<cuFuncGetAttribute_params>(data).hfunc};
        case CUPTI_DRIVER_TRACE_CBID_cuFuncSetAttribute:
            return {Handle::function_or_kernel, as<cuFuncSetAttribute_params>(data).hfunc};
        case CUPTI_DRIVER_TRACE_CBID_cuFuncLoad:
            return {Handle::function_or_kernel, as<cuFuncLoad_params>(data).function};
        case CUPTI_DRIVER_TRACE_CBID_cuFuncGetModule:
            return {Handle::module, *as<cuFuncGetModule_params>(data).hmod};
        case CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel:
        case CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel_ptsz:
            return {Handle::function_or_kernel, as<cuLaunchKernel_params>(data).f};
        case CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx:
        case CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx_ptsz:
            return {Handle::function_or_kernel, as<cuLaunchKernelEx_params>(data).f};
        case CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel:
        case CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel_ptsz:
            return {Handle::function_or_kernel, as<cuLaunchCooperativeKernel_params>(data).f};
        case CUPTI_DRIVER_TRACE_CBID_cuOccupancyMaxActiveBlocksPerMultiprocessor:
            return {Handle::function_or_kernel,
                    as<cuOccupancyMaxActiveBlocksPerMultiprocessor_params>(data).func};
        case CUPTI_DRIVER_TRACE_CBID_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags:
            return {Handle::function_or_kernel,
                    as<cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags_params>(data).func};
        case CUPTI_DRIVER_TRACE_CBID_cuOccupancyMaxActiveClusters:
            return {Handle::function_or_kernel, as<cuOccupancyMaxActiveClusters_params>(data).func};
        default:
            return {Handle::none, nullptr};
    }
}

void finish_call(CUpti_CallbackId id, const CUpti_CallbackData* data) {
    std::vector<Call>& calls = calls_of_thread();
    // A call that was entered before the subscription has no entry.
    while (!calls.empty() && calls.back().correlation != data->correlationId) calls.pop_back();
    if (calls.empty()) return;
    const std::vector<size_t> loaded = std::move(calls.back().modules);
    calls.pop_back();
    if (loaded.empty()) return;
    const bool succeeded = *static_cast<const CUresult*>(data->functionReturnValue) == CUDA_SUCCESS;
    const Named named = succeeded ? named_by(id, data) : Named{Handle::none, nullptr};
    std::lock_guard lock(mutex);
    for (size_t index : loaded) {
        modules[index].call = data->functionName;
        modules[index].siblings = static_cast<uint32_t>(loaded.size() - 1);
        modules[index].kind = named.kind;
        modules[index].handle = named.handle;
    }
}

void on_resource(CUpti_CallbackId id, const CUpti_ResourceData* data) {
    const auto* module = static_cast<const CUpti_ModuleResourceData*>(data->resourceDescriptor);
    std::lock_guard lock(mutex);
    if (id == CUPTI_CBID_RESOURCE_MODULE_LOADED) {
        Module entry;
        const auto* bytes = reinterpret_cast<const uint8_t*>(module->pCubin);
        entry.cubin.assign(bytes, bytes + module->cubinSize);
        entry.id = module->moduleId;
        modules.push_back(std::move(entry));
        std::vector<Call>& calls = calls_of_thread();
        if (!calls.empty()) calls.back().modules.push_back(modules.size() - 1);
    } else if (id == CUPTI_CBID_RESOURCE_MODULE_UNLOAD_STARTING) {
        for (Module& entry : modules)
            if (entry.id == module->moduleId) entry.unloaded = true;
    }
}

void CUPTIAPI on_event(void*, CUpti_CallbackDomain domain, CUpti_CallbackId id, const void* data) {
    if (domain == CUPTI_CB_DOMAIN_RESOURCE) {
        on_resource(id, static_cast<const CUpti_ResourceData*>(data));
    } else if (domain == CUPTI_CB_DOMAIN_DRIVER_API) {
        const auto* call = static_cast<const CUpti_CallbackData*>(data);
        if (call->callbackSite == CUPTI_API_ENTER) {
            calls_of_thread().push_back({call->correlationId, {}});
        } else {
            finish_call(id, call);
        }
    }
}

// Asked outside the callbacks, where driver calls are allowed.
CUmodule module_of(const Named& entry) {
    const Driver& cuda = driver();
    CUmodule module = nullptr;
    CUfunction function = static_cast<CUfunction>(entry.handle);
    switch (entry.kind) {
        case Handle::none:
            return nullptr;
        case Handle::module:
            return static_cast<CUmodule>(entry.handle);
        case Handle::library:
            return cuda.cuLibraryGetModule(&module, static_cast<CUlibrary>(entry.handle)) == CUDA_SUCCESS
                       ? module
                       : nullptr;
        case Handle::function_or_kernel:
            if (cuda.cuFuncGetModule(&module, function) == CUDA_SUCCESS) return module;
            [[fallthrough]];
        case Handle::kernel:
            if (cuda.cuKernelGetFunction(&function, static_cast<CUkernel>(entry.handle)) != CUDA_SUCCESS)
                return nullptr;
            [[fallthrough]];
        case Handle::function:
            return cuda.cuFuncGetModule(&module, function) == CUDA_SUCCESS ? module : nullptr;
    }
    return nullptr;
}

template <class Function>
void symbol(void* library, const char* name, Function& out) {
    out = reinterpret_cast<Function>(dlsym(library, name));
    if (out == nullptr) refuse(std::string("libcupti has no ") + name);
}

}  // namespace

void start_harvest(const char* path) {
    static bool started = false;
    if (started) return;
    void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) refuse(std::string("cannot open CUPTI: ") + dlerror());
    Cupti cupti{};
    symbol(library, "cuptiSubscribe", cupti.subscribe);
    symbol(library, "cuptiEnableDomain", cupti.enable_domain);
    symbol(library, "cuptiEnableCallback", cupti.enable_callback);
    symbol(library, "cuptiGetResultString", cupti.result_string);
    const auto checked = [&](CUptiResult result, const char* call) {
        if (result == CUPTI_SUCCESS) return;
        const char* meaning = nullptr;
        cupti.result_string(result, &meaning);
        refuse(std::string(call) + ": " + (meaning != nullptr ? meaning : "unknown error") +
               "; another profiler in this process keeps CUPTI from us");
    };
    static CUpti_SubscriberHandle subscriber;
    checked(cupti.subscribe(&subscriber, on_event, nullptr), "cuptiSubscribe");
    for (CUpti_CallbackId id :
         {CUPTI_CBID_RESOURCE_MODULE_LOADED, CUPTI_CBID_RESOURCE_MODULE_UNLOAD_STARTING})
        checked(cupti.enable_callback(1, subscriber, CUPTI_CB_DOMAIN_RESOURCE, id), "cuptiEnableCallback");
    checked(cupti.enable_domain(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API), "cuptiEnableDomain");
    started = true;
}

uint64_t module_count() {
    std::lock_guard lock(mutex);
    return modules.size();
}

foundryc_module module_at(uint64_t index) {
    std::lock_guard lock(mutex);
    const Module& module = modules.at(index);
    return {module.cubin.data(),
            module.cubin.size(),
            module.call,
            module.siblings,
            module.unloaded,
            module.kind,
            0};
}

int64_t find_module(CUmodule module) {
    struct Candidate {
        int64_t index;
        Named named;
        const std::vector<uint8_t>* cubin;
    };
    std::vector<Candidate> candidates;
    {
        std::lock_guard lock(mutex);
        for (size_t index = 0; index < modules.size(); ++index) {
            const Module& entry = modules[index];
            if (!entry.unloaded && entry.siblings == 0)
                candidates.push_back({static_cast<int64_t>(index), {entry.kind, entry.handle}, &entry.cubin});
        }
    }
    // Without the mutex: the driver calls back.
    const Candidate* found = nullptr;
    for (const Candidate& candidate : candidates) {
        if (module_of(candidate.named) != module) continue;
        if (found != nullptr && *found->cubin != *candidate.cubin) return -1;
        found = &candidate;
    }
    return found == nullptr ? -1 : found->index;
}

}  // namespace foundry
