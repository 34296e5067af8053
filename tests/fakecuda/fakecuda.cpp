// A stand-in for libcuda.so.1: host memory, one kernel, and any call made to fail on demand. Here are
// devices, and what the tests control; memory.cpp, streams.cpp and graphs.cpp have the rest.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <sstream>
#include <utility>

#include "fake.hpp"

using namespace fake;

extern "C" {

// For the tests: the `call`th call from now on returns `code`; 0 for none.
void fakecuda_fail(int64_t call, int code) { calls = loads = 0, fail_at = call, fail_code = code; }
int64_t fakecuda_calls() { return calls; }
int64_t fakecuda_loads() { return loads; }
void fakecuda_device(int sm, int cuda_version, uint64_t bytes) {
    architecture = sm, version = cuda_version, memory = bytes;
}
void fakecuda_hold(size_t nodes, int code) { too_many_code = code, most_nodes = nodes; }
// Node counts of the graphs whose instantiation began since the last call of this.
void fakecuda_instantiated(char* text, size_t size) {
    std::lock_guard lock(guard);
    std::strncpy(text, std::exchange(instantiated, "").c_str(), size);
}
void fakecuda_peer(int device, int access) { peer_device = device, peer_access = access; }
// What was made and not freed, as "name count" pairs.
void fakecuda_live(char* text, size_t size) {
    std::lock_guard lock(guard);
    std::ostringstream out;
    for (const auto& [what, number] : live)
        if (number != 0) out << what << ' ' << number << ' ';
    std::strncpy(text, out.str().c_str(), size);
}
// What a call finds on the stack: `size` bytes that it did not write.
__attribute__((noinline)) void fakecuda_found_on_stack(unsigned char* out, size_t size) {
    unsigned char left[8192];
    asm volatile("" : : "r"(left) : "memory");
    std::memcpy(out, left, std::min(size, sizeof(left)));
}

static __attribute__((noinline)) void leave_on_stack(unsigned char value) {
    unsigned char left[8192];
    std::memset(left, value, sizeof(left));
    asm volatile("" : : "r"(left) : "memory");
}

static void* volatile made = nullptr;  // so that no call is left out

// The same of a call that left `value` there before it called a function of the allocator.
void fakecuda_found_after(const char* function, unsigned char value, unsigned char* out, size_t size) {
    const std::string name = function;
    void* other = nullptr;
    if (name == "free" || name == "realloc" || name == "delete") made = std::malloc(100);
    leave_on_stack(value);
    if (name == "malloc") made = std::malloc(100);
    if (name == "calloc") made = std::calloc(10, 10);
    if (name == "realloc") made = std::realloc(made, 100000);
    if (name == "free") std::free(made);
    if (name == "posix_memalign") made = posix_memalign(&other, 64, 100) == 0 ? other : nullptr;
    if (name == "aligned_alloc") made = std::aligned_alloc(64, 128);
    if (name == "new") made = ::operator new(100);
    if (name == "delete") ::operator delete(made);
    fakecuda_found_on_stack(out, size);
    if (name != "free" && name != "delete") std::free(made);
}

// How cuda-bindings finds all other calls: by the name without the version that cuda.h appends.
CUresult cuGetProcAddress_v2(const char* symbol, void** out, int, cuuint64_t,
                             CUdriverProcAddressQueryResult*) {
    static void* self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *out = nullptr;
    for (const char* suffix : {"_v3", "_v2", ""})
        if (*out == nullptr) *out = dlsym(self, (std::string(symbol) + suffix).c_str());
    return *out == nullptr ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult code, const char** out) {
    *out = code == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char** out) {
    *out = code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "unknown error";
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned) {
    MAY_FAIL;
    return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* out) {
    MAY_FAIL;
    *out = version;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* out) {
    MAY_FAIL;
    *out = 1;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* out, int ordinal) {
    MAY_FAIL;
    *out = ordinal;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* out, int size, CUdevice) {
    MAY_FAIL;
    std::strncpy(out, "fake", size);
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid_v2(CUuuid* out, CUdevice device) {
    MAY_FAIL;
    std::memset(out, 0, sizeof *out);
    out->bytes[15] = static_cast<char>(device + 1);
    return CUDA_SUCCESS;
}
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
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
    --retained;
    count("context", -1);
    return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext) {
    MAY_FAIL;
    current = generation;
    return CUDA_SUCCESS;
}

}  // extern "C"
