// The C interface that foundryc/native/__init__.py binds. Calls return 0, or the code of an error whose
// message foundryc_error has.
#include <sys/types.h>

#include "allocations.hpp"
#include "arena.hpp"
#include "driver.hpp"
#include "extract.hpp"
#include "foreign.hpp"
#include "harvest.hpp"
#include "stack.hpp"

using foundry::Extracted;
using foundry::guarded;

#define FOUNDRY_EXPORT extern "C" __attribute__((visibility("default")))

FOUNDRY_EXPORT const char* foundryc_error() { return foundry::last_error(); }

FOUNDRY_EXPORT int foundryc_start_harvest(const char* libcupti) {
    return guarded([&] { foundry::start_harvest(libcupti); });
}

FOUNDRY_EXPORT uint64_t foundryc_module_count() { return foundry::module_count(); }

FOUNDRY_EXPORT int foundryc_module_at(uint64_t index, foundry::foundryc_module* out) {
    return guarded([&] { *out = foundry::module_at(index); });
}

FOUNDRY_EXPORT int foundryc_find_module(CUmodule module, int64_t* out) {
    return guarded([&] { *out = foundry::find_module(module); });
}

FOUNDRY_EXPORT int foundryc_pass_calls(uint64_t count) {
    return guarded([&] {
        CUdevice device = 0;
        for (uint64_t call = 0; call < count; ++call)
            foundry::check(foundry::driver().cuDeviceGet(&device, 0), "cuDeviceGet");
    });
}

FOUNDRY_EXPORT int foundryc_open_arena(uint64_t base, uint64_t capacity, int device) {
    return guarded([&] { foundry::open_arena(base, capacity, device); });
}

FOUNDRY_EXPORT void foundryc_close_arena() { foundry::close_arena(); }

FOUNDRY_EXPORT int foundryc_allocate(uint32_t region, uint64_t bytes, uint64_t alignment, uint64_t* out) {
    return guarded([&] { *out = foundry::allocate(region, bytes, alignment); });
}

FOUNDRY_EXPORT int foundryc_place_slabs(uint32_t region, uint64_t count, uint64_t stride, uint64_t own,
                                        uint64_t* out) {
    return guarded([&] { *out = foundry::place_slabs(region, count, stride, own); });
}

FOUNDRY_EXPORT uint64_t foundryc_used(uint32_t region) { return foundry::used(region); }

// The two functions of torch.cuda.memory.CUDAPluggableAllocator: everything that torch allocates is scratch.
FOUNDRY_EXPORT void* foundryc_malloc(ssize_t size, int, CUstream) {
    uint64_t address = 0;
    const int code = guarded([&] { address = foundry::allocate(foundry::SCRATCH, size, 2ull << 20); });
    return code == 0 ? reinterpret_cast<void*>(address) : nullptr;
}

FOUNDRY_EXPORT void foundryc_free(void* address, ssize_t, int, CUstream) {
    foundry::release(foundry::SCRATCH, reinterpret_cast<uint64_t>(address));
}

FOUNDRY_EXPORT int foundryc_extract(CUgraph graph, Extracted** out) {
    return guarded([&] { *out = new Extracted(foundry::extract(graph)); });
}

FOUNDRY_EXPORT void foundryc_extracted_free(Extracted* self) { delete self; }

// A view of the columns; `functions` counts them, and the order of the pointers is foundry_template's.
FOUNDRY_EXPORT void foundryc_columns(const Extracted* self, foundry::foundry_template* out) {
    *out = {static_cast<uint32_t>(self->kind.size()),
            static_cast<uint32_t>(self->edge_from.size()),
            static_cast<uint32_t>(self->functions.size()),
            static_cast<uint32_t>(self->skeleton.size()),
            self->parameters.size(),
            self->kind.data(),
            self->function.data(),
            self->parameter_start.data(),
            self->parameters.data(),
            self->edge_from.data(),
            self->edge_to.data(),
            self->edge_from_port.data(),
            self->edge_to_port.data(),
            self->edge_type.data(),
            self->skeleton.data(),
            self->skeleton_start.data(),
            {}};
}

struct foundryc_function {
    const char* name;
    CUfunction handle;
    CUmodule module;
    int32_t shared, carveout, nonportable, spare;
};

FOUNDRY_EXPORT int foundryc_function_at(const Extracted* self, uint32_t index, foundryc_function* out) {
    return guarded([&] {
        const foundry::ExtractedFunction& function = self->functions.at(index);
        *out = {function.name.c_str(),
                function.handle,
                function.module,
                function.shared,
                function.carveout,
                function.nonportable,
                0};
    });
}

FOUNDRY_EXPORT int foundryc_audit(const uint64_t* words, uint64_t count, uint64_t base, uint64_t end,
                                  foundry::foundryc_foreign_pointer* out, uint64_t capacity,
                                  uint64_t* found) {
    return guarded([&] { *found = foundry::find_foreign_pointers(words, count, base, end, out, capacity); });
}

FOUNDRY_EXPORT void foundryc_fill_with(uint8_t value) { foundry::fill_with(value); }

FOUNDRY_EXPORT void foundryc_fill_after_allocations(int fill) {
    fill ? foundry::fill_after_allocations() : foundry::leave_allocations();
}

// A Py_tracefunc (cpython/object.h): each line and each call of a C function begins with a filled stack.
FOUNDRY_EXPORT int foundryc_trace(void*, void*, int what, void*) {
    constexpr int LINE = 2, C_CALL = 4;
    if (what == LINE || what == C_CALL) foundry::fill_stack();
    return 0;
}
