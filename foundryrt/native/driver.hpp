// The CUDA driver, opened at run time: importing this library needs no GPU, and a stand-in can take its
// place.
#pragma once

#include <cuda.h>

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
    X(cuMemcpyHtoD)                  \
    X(cuMemcpyHtoDAsync)             \
    X(cuMemUnmap)                    \
    X(cuPointerGetAttribute)         \
    X(cuStreamCreate)                \
    X(cuStreamDestroy)               \
    X(cuStreamSynchronize)

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

// Opens libcuda.so.1, or the library named by FOUNDRY_LIBCUDA, on first use.
const Driver& driver();

// Throws Error with the call, the code's name and its meaning; `where` names the object in question.
void check(CUresult result, const char* call, const std::string& where = "");

// Runs `body` for a C caller: 0, or a code whose message `last_error` holds for this thread.
const char* last_error();
void remember_error(const std::string& what);

template <class Body>
int guarded(Body&& body) {
    try {
        body();
        return 0;
    } catch (const Error& error) {
        remember_error(error.what());
        return error.code;
    } catch (const std::exception& error) {
        remember_error(error.what());
        return -1;
    }
}

}  // namespace foundry
