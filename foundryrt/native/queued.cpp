#include "queued.hpp"

#include "driver.hpp"

namespace foundry {

void make_call(const foundry_call& call) {
    const Driver& cuda = driver();
    const auto stream = reinterpret_cast<CUstream>(call.stream);
    const auto event = reinterpret_cast<CUevent>(call.target);
    switch (call.kind) {
        case Queued::NOTHING:
            return;
        case Queued::TO_DEVICE:
            return check(
                cuda.cuMemcpyHtoDAsync(call.target, reinterpret_cast<void*>(call.source), call.size, stream),
                "cuMemcpyHtoDAsync");
        case Queued::ON_DEVICE:
            return check(cuda.cuMemcpyDtoDAsync(call.target, call.source, call.size, stream),
                         "cuMemcpyDtoDAsync");
        case Queued::TO_HOST:
            return check(
                cuda.cuMemcpyDtoHAsync(reinterpret_cast<void*>(call.target), call.source, call.size, stream),
                "cuMemcpyDtoHAsync");
        case Queued::RECORD:
            return check(cuda.cuEventRecord(event, stream), "cuEventRecord");
        case Queued::WAIT:
            return check(cuda.cuStreamWaitEvent(stream, event, 0), "cuStreamWaitEvent");
        case Queued::LAUNCH:
            return check(cuda.cuGraphLaunch(reinterpret_cast<CUgraphExec>(call.target), stream),
                         "cuGraphLaunch");
    }
    refuse("a call of an unknown kind");
}

}  // namespace foundry
