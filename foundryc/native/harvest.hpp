// Kernel binaries as the driver loads them, each tied to its module by the call that loaded it.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace foundry {

struct Module {
    std::vector<uint8_t> cubin;
    uint32_t id = 0;  // CUPTI's
    bool unloaded = false;
    std::string call;       // the driver call that loaded it, "" if none was seen
    uint32_t siblings = 0;  // other modules loaded by the same call
    enum class Handle { none, module, function, kernel, function_or_kernel, library } kind = Handle::none;
    void* handle = nullptr;  // what that call named
};

// Subscribes to CUPTI; must come before the process's first CUDA call. `path` is the libcupti that torch
// uses.
void start_harvest(const char* path);

// Modules so far. Indices and references stay valid.
const std::deque<Module>& harvested();

// The harvested module behind a CUmodule: its index, or -1 where no call tied exactly one binary to it.
int64_t find_module(CUmodule module);

}  // namespace foundry
