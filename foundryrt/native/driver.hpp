// The CUDA driver, opened at run time: loading this library needs no GPU, and a stand-in driver can take
// the real one's place.
#pragma once

#include <cuda.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>

namespace foundry {

// cuda.h renames some of these to their versioned symbols; the table follows it.
#define FOUNDRY_DRIVER_FUNCTIONS(X)  \
    X(cuGetErrorName)                \
    X(cuGetErrorString)              \
    X(cuInit)                        \
    X(cuDeviceGet)                   \
    X(cuDevicePrimaryCtxRetain)      \
    X(cuCtxSetCurrent)               \
    X(cuEventQuery)                  \
    X(cuEventRecord)                 \
    X(cuEventSynchronize)            \
    X(cuFuncGetAttribute)            \
    X(cuFuncGetModule)               \
    X(cuFuncGetName)                 \
    X(cuFuncGetParamInfo)            \
    X(cuFuncSetAttribute)            \
    X(cuGraphAddDependencies)        \
    X(cuGraphAddEmptyNode)           \
    X(cuGraphAddKernelNode)          \
    X(cuGraphAddMemcpyNode)          \
    X(cuGraphAddMemsetNode)          \
    X(cuGraphChildGraphNodeGetGraph) \
    X(cuGraphCreate)                 \
    X(cuGraphDestroy)                \
    X(cuGraphDestroyNode)            \
    X(cuGraphExecDestroy)            \
    X(cuGraphGetEdges)               \
    X(cuGraphGetNodes)               \
    X(cuGraphInstantiate)            \
    X(cuGraphLaunch)                 \
    X(cuGraphKernelNodeGetAttribute) \
    X(cuGraphKernelNodeGetParams)    \
    X(cuGraphKernelNodeSetAttribute) \
    X(cuGraphKernelNodeSetParams)    \
    X(cuGraphMemcpyNodeGetParams)    \
    X(cuGraphMemcpyNodeSetParams)    \
    X(cuGraphMemsetNodeGetParams)    \
    X(cuGraphMemsetNodeSetParams)    \
    X(cuGraphNodeGetType)            \
    X(cuGraphUpload)                 \
    X(cuKernelGetFunction)           \
    X(cuKernelSetAttribute)          \
    X(cuLibraryGetGlobal)            \
    X(cuLibraryGetKernel)            \
    X(cuLibraryGetModule)            \
    X(cuLibraryLoadData)             \
    X(cuLibraryUnload)               \
    X(cuMemAddressFree)              \
    X(cuMemAddressReserve)           \
    X(cuMemCreate)                   \
    X(cuMemGetAllocationGranularity) \
    X(cuMemMap)                      \
    X(cuMemRelease)                  \
    X(cuMemSetAccess)                \
    X(cuMemcpyDtoDAsync)             \
    X(cuMemcpyDtoHAsync)             \
    X(cuMemcpyHtoD)                  \
    X(cuMemcpyHtoDAsync)             \
    X(cuMemUnmap)                    \
    X(cuPointerGetAttribute)         \
    X(cuStreamCreate)                \
    X(cuStreamDestroy)               \
    X(cuStreamSynchronize)           \
    X(cuStreamWaitEvent)

struct Driver {
#define FOUNDRY_MEMBER(name) decltype(&::name) name = nullptr;
    FOUNDRY_DRIVER_FUNCTIONS(FOUNDRY_MEMBER)
#undef FOUNDRY_MEMBER
};

// A failed driver call (code > 0) or a refusal of ours (code -1).
class Error : public std::runtime_error {
  public:
    Error(int code, const std::string& what) : std::runtime_error(what), code(code) {}
    int code;
};

[[noreturn]] void refuse(const std::string& what);

// Opens libcuda.so.1, or the library that FOUNDRY_LIBCUDA names, on first use.
const Driver& driver();

// Throws Error with the call, the code's name and its meaning; `where` names the object in question.
void check(CUresult result, const char* call, const std::string& where = "");

// Runs `body` and returns what it threw, if anything.
template <class Body>
std::optional<Error> attempt(Body&& body) {
    try {
        body();
        return std::nullopt;
    } catch (const Error& error) {
        return error;
    } catch (const std::exception& error) {
        return Error(-1, error.what());
    }
}

// The message of the calling thread's last failed `guarded`.
const char* last_error();
void remember_error(const std::string& what);

// Runs `body` for a C caller: 0, or the code of an error whose message `last_error` has.
template <class Body>
int guarded(Body&& body) {
    const std::optional<Error> failure = attempt(body);
    if (!failure) return 0;
    remember_error(failure->what());
    return failure->code;
}

}  // namespace foundry
