// Kernel binaries as the driver loads them, each tied to its module by the call that loaded it.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace foundry {

// What a driver call named that loaded a module.
enum class HandleKind : uint32_t { none, module, function, kernel, function_or_kernel, library };

extern "C" struct foundryc_module {
    const uint8_t* cubin;  // valid until the process ends, as `call` is
    uint64_t size;
    const char* call;   // the driver call that loaded it, "" if none was seen
    uint32_t siblings;  // other modules loaded by the same call
    uint32_t unloaded;
    HandleKind handle_kind;
    uint32_t spare;
};

// Subscribes to CUPTI, before the process's first CUDA call. `path` is the libcupti that torch uses.
void start_harvest(const char* path);

// Modules so far; they keep their indices.
uint64_t module_count();
foundryc_module module_at(uint64_t index);

// The harvested module behind a CUmodule: its index, or -1 where no call tied exactly one binary to it.
int64_t find_module(CUmodule module);

}  // namespace foundry
