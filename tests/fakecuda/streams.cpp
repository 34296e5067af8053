// What is queued on streams, and events; graphs.cpp queues launches.
#include <cstring>
#include <vector>

#include "fake.hpp"
#include "streams.hpp"

using namespace fake;
using streams::event_of;
using streams::stream_of;

extern "C" {

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
    IN_CONTEXT;
    auto* target = reinterpret_cast<void*>(to);
    if (streams::is_pinned(from)) {
        streams::queue(stream_of(stream), [=] { std::memcpy(target, from, size); });
    } else {
        const auto* bytes = static_cast<const char*>(from);
        streams::queue(stream_of(stream), [target, kept = std::vector<char>(bytes, bytes + size)] {
            std::memcpy(target, kept.data(), kept.size());
        });
    }
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream stream) {
    IN_CONTEXT;
    streams::queue(stream_of(stream), [=] { std::memcpy(to, reinterpret_cast<void*>(from), size); });
    if (!streams::is_pinned(to)) streams::drain(stream_of(stream));
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    IN_CONTEXT;
    streams::queue(stream_of(stream),
                   [=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), size); });
    return CUDA_SUCCESS;
}
// From pinned memory to the device alone.
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
    IN_CONTEXT;
    if (copy->srcMemoryType != CU_MEMORYTYPE_HOST || copy->dstMemoryType != CU_MEMORYTYPE_DEVICE ||
        copy->srcPitch < copy->WidthInBytes || copy->dstPitch < copy->WidthInBytes ||
        !streams::is_pinned(copy->srcHost))
        return CUDA_ERROR_INVALID_VALUE;
    streams::queue(stream_of(stream), [copy = *copy] {
        auto* target = reinterpret_cast<char*>(copy.dstDevice) + copy.dstY * copy.dstPitch + copy.dstXInBytes;
        auto* source = static_cast<const char*>(copy.srcHost) + copy.srcY * copy.srcPitch + copy.srcXInBytes;
        for (size_t row = 0; row < copy.Height; ++row)
            std::memcpy(target + row * copy.dstPitch, source + row * copy.srcPitch, copy.WidthInBytes);
    });
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream stream) {
    IN_CONTEXT;
    streams::queue(stream_of(stream), [=] { std::memset(reinterpret_cast<void*>(to), value, size); });
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* out, unsigned) {
    IN_CONTEXT;
    *out = handle<CUstream>(streams::make());
    count("stream", 1);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
    streams::destroy(stream_of(stream));
    count("stream", -1);
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
    streams::drain(stream_of(stream));  // also where it is made to fail: a broken device does nothing more
    IN_CONTEXT;
    return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    IN_CONTEXT;
    streams::queue(stream_of(stream), [seen = *event_of(event)] { streams::wait(seen); });
    return CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent* out, unsigned flags) {
    IN_CONTEXT;
    auto* event = new streams::Event;
    if (!(flags & CU_EVENT_DISABLE_TIMING))
        event->time = std::make_shared<std::chrono::steady_clock::time_point>();
    *out = handle<CUevent>(event);
    count("event", 1);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent event) {
    delete event_of(event);
    count("event", -1);
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
    IN_CONTEXT;
    streams::record(event_of(event), stream_of(stream));
    return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
    IN_CONTEXT;
    streams::wait(*event_of(event));
    return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent begin, CUevent end) {
    IN_CONTEXT;
    std::lock_guard lock(streams::guard);
    const auto *first = event_of(begin), *last = event_of(end);
    if (!first->time || !last->time || !first->stream || !last->stream) return CUDA_ERROR_INVALID_HANDLE;
    streams::wait(*first);
    if (last->position > last->stream->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(*last->time - *first->time).count();
    return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent event) {
    IN_CONTEXT;
    streams::wait(*event_of(event));
    return CUDA_SUCCESS;
}

}  // extern "C"
