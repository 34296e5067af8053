// The C interface that foundryrt/native/__init__.py binds. Calls return 0, or the code of an error whose
// message foundry_error has.
#include <chrono>
#include <thread>

#include "driver.hpp"
#include "loaded.hpp"
#include "materializer.hpp"
#include "queued.hpp"
#include "upload.hpp"

using foundry::guarded;
using foundry::Materializer;

#define FOUNDRY_EXPORT extern "C" __attribute__((visibility("default")))

FOUNDRY_EXPORT const char* foundry_error() { return foundry::last_error(); }

// Starts the driver and retains a device's primary context, in one call without the interpreter's lock.
FOUNDRY_EXPORT int foundry_begin(int ordinal) {
    return guarded([&] {
        CUdevice device = 0;
        CUcontext context = nullptr;
        foundry::check(foundry::driver().cuInit(0), "cuInit");
        foundry::check(foundry::driver().cuDeviceGet(&device, ordinal), "cuDeviceGet");
        foundry::check(foundry::driver().cuDevicePrimaryCtxRetain(&context, device),
                       "cuDevicePrimaryCtxRetain");
    });
}

// Polls: returns once the event, if there is one, is no longer pending, once *word is not `seen`, or when the
// time is up.
FOUNDRY_EXPORT void foundry_idle(CUevent event, const int64_t* word, int64_t seen, uint32_t microseconds) {
    using Clock = std::chrono::steady_clock;
    // Calls of other threads wait for the driver while it answers this one.
    constexpr auto apart = std::chrono::microseconds(2);
    auto now = Clock::now(), next = now;
    const auto end = now + std::chrono::microseconds(microseconds);
    for (; __atomic_load_n(word, __ATOMIC_ACQUIRE) == seen && now < end; now = Clock::now()) {
        if (event && now >= next) {
            if (foundry::driver().cuEventQuery(event) != CUDA_ERROR_NOT_READY) return;
            next = now + apart;
        }
        std::this_thread::yield();
    }
}

// Makes the calls in turn, up to one that fails.
FOUNDRY_EXPORT int foundry_make_calls(const foundry::foundry_call* calls, int count) {
    return guarded([&] {
        for (int i = 0; i < count; i++) foundry::make_call(calls[i]);
    });
}

FOUNDRY_EXPORT int foundry_create(uint32_t kernels, uint32_t functions, uint32_t templates, uint32_t graphs,
                                  uint64_t nodes, Materializer** out) {
    return guarded([&] { *out = new Materializer(kernels, functions, templates, graphs, nodes); });
}

FOUNDRY_EXPORT void foundry_touch(Materializer* self) { self->touch(); }

FOUNDRY_EXPORT void foundry_destroy(Materializer* self) { delete self; }

FOUNDRY_EXPORT int foundry_set_kernel(Materializer* self, uint32_t kernel, const void* data, uint64_t bytes,
                                      const char* key, uint64_t key_bytes) {
    return guarded([&] { self->kernels().set_binary(kernel, data, bytes, std::string(key, key_bytes)); });
}

FOUNDRY_EXPORT int foundry_set_function(Materializer* self, uint32_t function, const char* name,
                                        uint32_t kernel, int shared, int carveout, int nonportable) {
    return guarded(
        [&] { self->kernels().set_function(function, name, kernel, shared, carveout, nonportable != 0); });
}

FOUNDRY_EXPORT int foundry_set_template(Materializer* self, uint32_t index,
                                        const foundry::foundry_template* table) {
    return guarded([&] { self->set_template(index, *table); });
}

FOUNDRY_EXPORT int foundry_set_graph(Materializer* self, uint32_t graph, const char* name, uint32_t index,
                                     uint64_t count, const uint32_t* word, const uint64_t* value) {
    return guarded([&] { self->set_graph(graph, name, index, {count, word, value}); });
}

FOUNDRY_EXPORT int foundry_require(Materializer* self, uint32_t graph, CUgraphExec* out) {
    return guarded([&] { *out = self->require(graph); });
}

FOUNDRY_EXPORT int foundry_prefer(Materializer* self, uint32_t graph) {
    return guarded([&] { self->prefer(graph); });
}

FOUNDRY_EXPORT int foundry_pause(Materializer* self, int paused) {
    return guarded([&] { self->pause(paused != 0); });
}

FOUNDRY_EXPORT int foundry_resolve(Materializer* self) {
    return guarded([&] { self->resolve(); });
}

FOUNDRY_EXPORT void foundry_keep_loaded(int keep) { foundry::keep_loaded(keep != 0); }

FOUNDRY_EXPORT int foundry_set_variable(Materializer* self, uint32_t kernel, const char* name,
                                        const void* data, uint64_t size,
                                        const foundry_relocations* addresses) {
    return guarded([&] { self->kernels().set_variable(kernel, name, data, size, *addresses); });
}

FOUNDRY_EXPORT int foundry_start(Materializer* self, CUcontext context, uint32_t first,
                                 const foundry_place* places, uint32_t regions) {
    return guarded([&] { self->start(context, first, places, regions); });
}

FOUNDRY_EXPORT void foundry_abandon(Materializer* self, const char* message) { self->abandon(message); }

FOUNDRY_EXPORT uint32_t foundry_ready(Materializer* self) { return self->ready(); }

FOUNDRY_EXPORT int foundry_is_ready(Materializer* self, uint32_t graph, uint32_t* out) {
    return guarded([&] { *out = self->ready(graph); });
}

// Nanoseconds so far: loading binaries, resolving functions, building, instantiating and uploading graphs.
FOUNDRY_EXPORT void foundry_spent(Materializer* self, uint64_t* out) {
    const foundry::Timings& timings = self->timings();
    out[0] = timings.load, out[1] = timings.resolve, out[2] = timings.build;
    out[3] = timings.instantiate, out[4] = timings.upload;
}

FOUNDRY_EXPORT int foundry_wait(Materializer* self, uint32_t count, uint32_t milliseconds, uint32_t* ready) {
    return guarded([&] { *ready = self->wait(count, std::chrono::milliseconds(milliseconds)); });
}

FOUNDRY_EXPORT int foundry_stream(CUcontext context, CUstream stream,
                                  const foundry::foundry_staging_buffer* buffers, uint32_t count,
                                  uint32_t threads, const foundry::foundry_file_range* ranges,
                                  uint64_t number) {
    return guarded([&] { foundry::upload(context, stream, buffers, count, threads, ranges, number); });
}
