// The least that any process pays: driver, primary context, one kernel (a memset). Then pinned copies. Prints
// JSON.
#include <dlfcn.h>

#include <chrono>
#include <cstdio>

using Clock = std::chrono::steady_clock;

static double milliseconds(Clock::time_point since) {
    return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

int main(int argc, char**) {
    void* cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (cuda == nullptr) return 1;
#define CALL(name, ...)                                                                         \
    if (int code = reinterpret_cast<int (*)(...)>(dlsym(cuda, name))(__VA_ARGS__); code != 0) { \
        std::fprintf(stderr, "%s: %d\n", name, code);                                           \
        return 1;                                                                               \
    }
    void* context = nullptr;
    unsigned long long device = 0;
    void* host = nullptr;
    const size_t bytes = argc > 1 ? 256ull << 20 : 4096;
    CALL("cuInit", 0u)
    CALL("cuDevicePrimaryCtxRetain", &context, 0)
    CALL("cuCtxSetCurrent", context)
    CALL("cuMemAlloc_v2", &device, bytes)
    CALL("cuMemsetD8_v2", device, 0, bytes)
    CALL("cuCtxSynchronize")
    if (argc == 1) return 0;
    CALL("cuMemHostAlloc", &host, bytes, 0u)
    double best = 1e9;
    for (int i = 0; i < 10; ++i) {
        const auto start = Clock::now();
        CALL("cuMemcpyHtoD_v2", device, host, bytes)
        CALL("cuCtxSynchronize")
        if (milliseconds(start) < best) best = milliseconds(start);
    }
    std::printf("{\"pinned_copy_gbps\": %.2f}\n", bytes / best / 1e6);
    return 0;
}
