// Memory of the stand-in, all of it the host's.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "fake.hpp"
#include "streams.hpp"

using namespace fake;

namespace {

constexpr size_t GRANULARITY = 2 << 20;

// Memory is a file, so that it can be mapped twice and exported. As a device may, it is handed out with
// somebody's old bytes in it.
struct Memory {
    int file;
    bool exportable;
    int device = 0;
    int references = 1;
};
std::map<CUmemGenericAllocationHandle, Memory> memories;
std::map<CUdeviceptr, CUmemGenericAllocationHandle> mappings;
CUmemGenericAllocationHandle last_handle = 0;

void* address_of(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

void* reserve(void* hint, size_t size) {
    return mmap(hint, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

// Counts as something never freed, which every test looks for.
void give_back(const char* what) {
    count(what, -1);
    if (streams::busy()) count("freed before the work that is queued", 1);
}

CUresult pin(void* address, size_t size) {
    std::lock_guard lock(streams::guard);
    streams::pinned[static_cast<const char*>(address)] = size;
    count("pinned", 1);
    return CUDA_SUCCESS;
}

CUresult unpin(void* address) {
    std::lock_guard lock(streams::guard);
    streams::pinned.erase(static_cast<const char*>(address));
    give_back("pinned");
    return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    IN_CONTEXT;
    *free = *total = memory;
    return CUDA_SUCCESS;
}
CUresult cuMemGetAllocationGranularity(size_t* out, const CUmemAllocationProp*,
                                       CUmemAllocationGranularity_flags) {
    MAY_FAIL;
    *out = GRANULARITY;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr* out, size_t size, size_t, CUdeviceptr address, unsigned long long) {
    MAY_FAIL;
    void* got = reserve(address_of(address), size);
    if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = reinterpret_cast<CUdeviceptr>(got);
    if (*out % GRANULARITY != 0) {  // once more, cut to where a page of the device begins
        munmap(got, size);
        got = reserve(address_of(address), size + GRANULARITY);
        if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
        const CUdeviceptr start = reinterpret_cast<CUdeviceptr>(got);
        *out = (start + GRANULARITY - 1) / GRANULARITY * GRANULARITY;
        if (*out > start) munmap(got, *out - start);
        if (*out < start + GRANULARITY) munmap(address_of(*out + size), start + GRANULARITY - *out);
    }
    count("reservation", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t size) {
    munmap(reinterpret_cast<void*>(address), size);
    count("reservation", -1);
    return CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle* out, size_t size, const CUmemAllocationProp* properties,
                     unsigned long long) {
    MAY_FAIL;
    std::lock_guard lock(streams::guard);
    const int file = memfd_create("fakecuda", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, static_cast<off_t>(size)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    void* const bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(bytes, 0xA5, size);
    munmap(bytes, size);
    *out = ++last_handle;
    const auto kind = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    memories[*out] = {file, properties->requestedHandleTypes == kind};
    count("memory", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* out, void* address) {
    MAY_FAIL;
    std::lock_guard lock(streams::guard);
    const auto found = mappings.find(reinterpret_cast<CUdeviceptr>(address));
    if (found == mappings.end()) return CUDA_ERROR_INVALID_VALUE;
    ++memories.at(*out = found->second).references;
    count("memory", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle memory) {
    std::lock_guard lock(streams::guard);
    const auto found = memories.find(memory);
    if (found == memories.end()) return CUDA_ERROR_INVALID_VALUE;
    if (--found->second.references == 0) {
        close(found->second.file);
        memories.erase(found);
    }
    count("memory", -1);
    return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr address, size_t size, size_t, CUmemGenericAllocationHandle memory,
                  unsigned long long) {
    MAY_FAIL;
    std::lock_guard lock(streams::guard);
    const int file = memories.at(memory).file;
    void* got = mmap(address_of(address), size, PROT_NONE, MAP_SHARED | MAP_FIXED, file, 0);
    if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    mappings[address] = memory;
    count("mapping", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle memory,
                                      CUmemAllocationHandleType, unsigned long long) {
    MAY_FAIL;
    std::lock_guard lock(streams::guard);
    const auto found = memories.find(memory);
    if (found == memories.end() || !found->second.exportable) return CUDA_ERROR_INVALID_VALUE;
    *static_cast<int*>(out) = fcntl(found->second.file, F_DUPFD_CLOEXEC, 0);
    return CUDA_SUCCESS;
}
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* out, void* descriptor,
                                        CUmemAllocationHandleType) {
    MAY_FAIL;
    std::lock_guard lock(streams::guard);
    const int file = fcntl(static_cast<int>(reinterpret_cast<intptr_t>(descriptor)), F_DUPFD_CLOEXEC, 0);
    if (file < 0) return CUDA_ERROR_INVALID_VALUE;
    *out = ++last_handle;
    memories[*out] = {file, true, peer_device};
    count("memory", 1);
    return CUDA_SUCCESS;
}
CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* out,
                                                CUmemGenericAllocationHandle memory) {
    MAY_FAIL;
    std::lock_guard lock(streams::guard);
    *out = {};
    out->location = {CU_MEM_LOCATION_TYPE_DEVICE, memories.at(memory).device};
    return CUDA_SUCCESS;
}
CUresult cuDeviceCanAccessPeer(int* out, CUdevice device, CUdevice other) {
    MAY_FAIL;
    *out = device == other || peer_access;
    return CUDA_SUCCESS;
}
CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc*, size_t) {
    MAY_FAIL;
    if (mprotect(reinterpret_cast<void*>(address), size, PROT_READ | PROT_WRITE) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t size) {
    mmap(address_of(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
    {
        std::lock_guard lock(streams::guard);
        mappings.erase(address);
    }
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
CUresult cuMemHostRegister_v2(void* address, size_t size, unsigned) {
    IN_CONTEXT;
    return pin(address, size);
}
CUresult cuMemHostUnregister(void* address) { return unpin(address); }
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t size) {
    IN_CONTEXT;
    std::memcpy(to, reinterpret_cast<const void*>(from), size);
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t size) {
    IN_CONTEXT;
    std::memset(reinterpret_cast<void*>(to), value, size);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
    IN_CONTEXT;
    std::memcpy(reinterpret_cast<void*>(to), from, size);
    return CUDA_SUCCESS;
}

}  // extern "C"
