// What instantiating graphs costs: synthetic graphs of kernel nodes, made in one of several ways. Arguments:
// a file with the binary of kernels k0, k1, ..., then key=value (see `Plan`). Prints JSON; exit code 3: the
// driver lacks a call.
#include <cuda.h>
#include <dlfcn.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

static double since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

static void* symbol(const char* name) {
    static void* library =
        dlopen(std::getenv("FOUNDRY_LIBCUDA") ? std::getenv("FOUNDRY_LIBCUDA") : "libcuda.so.1", RTLD_NOW);
    void* found = library ? dlsym(library, name) : nullptr;
    if (found == nullptr) std::fprintf(stderr, "no %s\n", name), std::exit(3);
    return found;
}

static void check(int code, const char* call) {
    if (code != 0) std::fprintf(stderr, "%s: %d\n", call, code), std::exit(1);
}

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define CALL(name, ...)                                                                   \
    do {                                                                                  \
        static const auto call = reinterpret_cast<decltype(&::name)>(symbol(TEXT(name))); \
        check(call(__VA_ARGS__), TEXT(name));                                             \
    } while (false)

struct Plan {
    int graphs = 35, nodes = 1918, functions = 100;
    int threads = 1;  // each makes its share of the graphs
    int upload = 1;   // 1: cuGraphUpload; 0: left to the launch
    int heap =
        0;  // megabytes that malloc takes and touches before the driver starts, one arena for all threads
    int pad = 0;        // megabytes by which malloc's heaps grow, and never shrink
    int binaries = 1;   // that many loads of the file, function i from load i % binaries
    int resolvers = 1;  // each loads and resolves its share of the binaries

    explicit Plan(int count, char** words) {
        std::map<std::string, int*> known = {
            {"graphs", &graphs},   {"nodes", &nodes},       {"functions", &functions},
            {"threads", &threads}, {"upload", &upload},     {"heap", &heap},
            {"pad", &pad},         {"binaries", &binaries}, {"resolvers", &resolvers}};
        for (int i = 2; i < count; ++i) {
            const std::string word = words[i];
            const auto equals = word.find('=');
            if (known.count(word.substr(0, equals)) == 0) check(-1, words[i]);
            *known[word.substr(0, equals)] = std::atoi(word.c_str() + equals + 1);
        }
    }
};

// What this process has used until now, all threads together.
struct Usage {
    double faults, user_ms, system_ms, resident_mb;

    static Usage now() {
        rusage used{};
        check(getrusage(RUSAGE_SELF, &used), "getrusage");
        double pages = 0, resident = 0;
        std::ifstream("/proc/self/statm") >> pages >> resident;
        const auto ms = [](const timeval& time) { return time.tv_sec * 1e3 + time.tv_usec / 1e3; };
        return {double(used.ru_minflt), ms(used.ru_utime), ms(used.ru_stime),
                resident * sysconf(_SC_PAGESIZE) / 1e6};
    }

    Usage operator-(const Usage& from) const {
        return {faults - from.faults, user_ms - from.user_ms, system_ms - from.system_ms,
                resident_mb - from.resident_mb};
    }
};

// Has malloc keep what it once had, and for `heap` have that much already; milliseconds.
static double prepare_heap(const Plan& plan) {
    if (plan.heap == 0 && plan.pad == 0) return 0;
    const auto began = Clock::now();
    const auto set = [](int what, int value) { check(mallopt(what, value) == 1 ? 0 : -1, "mallopt"); };
    if (mallopt(M_MMAP_THRESHOLD, 1 << 30) == 0)
        set(M_MMAP_THRESHOLD, 32 << 20);  // the most that some glibcs take
    set(M_TRIM_THRESHOLD, INT_MAX);
    set(M_TOP_PAD, (plan.pad ? plan.pad : 64) << 20);
    if (plan.heap == 0) return since(began);
    set(M_ARENA_MAX, 1);
    std::vector<char*> pieces(plan.heap);  // of a megabyte: below either threshold, so of the heap
    for (char*& piece : pieces) {
        piece = static_cast<char*>(std::malloc(1 << 20));
        if (piece == nullptr) check(-1, "malloc");
        for (int at = 0; at < 1 << 20; at += 4096) static_cast<volatile char*>(piece)[at] = 1;
    }
    for (char* piece : pieces) std::free(piece);
    return since(began);
}

class Maker {
  public:
    Maker(const Plan& plan, CUcontext context, const std::vector<CUfunction>& functions)
        : plan_(plan), context_(context), functions_(functions), values_(4096), nodes_(plan.nodes) {
        CALL(cuStreamCreate, &stream_, CU_STREAM_NON_BLOCKING);
        base_ = build();
    }

    CUgraphExec make() {
        const auto began = Clock::now();
        for (int i = 0; i < plan_.nodes; ++i) {
            const auto parameters = kernel(i);
            CALL(cuGraphKernelNodeSetParams, nodes_[i], &parameters);
        }
        build_ms += since(began);
        const auto built = Clock::now();
        CUgraphExec exec = nullptr;
        CALL(cuGraphInstantiate, &exec, base_, 0);
        instantiate_ms += since(built);
        const auto made = Clock::now();
        if (plan_.upload) CALL(cuGraphUpload, exec, stream_);
        upload_ms += since(made);
        return exec;
    }

    void enter() { CALL(cuCtxSetCurrent, context_); }
    void finish() { CALL(cuStreamSynchronize, stream_); }
    void launch(CUgraphExec exec) { CALL(cuGraphLaunch, exec, stream_); }

    double build_ms = 0, instantiate_ms = 0, upload_ms = 0;

  private:
    CUDA_KERNEL_NODE_PARAMS kernel(int node) {
        CUDA_KERNEL_NODE_PARAMS out{};
        out.func = functions_[node % functions_.size()];
        out.gridDimX = out.gridDimY = out.gridDimZ = out.blockDimY = out.blockDimZ = 1, out.blockDimX = 32;
        arguments_[0] = values_.data(), arguments_[1] = values_.data() + 8,
        arguments_[2] = values_.data() + 12;
        out.kernelParams = arguments_;  // the stand-in's kernels take three
        return out;
    }

    CUgraph build() {
        CUgraph graph = nullptr;
        CALL(cuGraphCreate, &graph, 0);
        for (int i = 0; i < plan_.nodes; ++i) {
            const auto parameters = kernel(i);
            CALL(cuGraphAddKernelNode, &nodes_[i], graph, nullptr, 0, &parameters);
        }
        CALL(cuGraphAddDependencies, graph, nodes_.data(), nodes_.data() + 1, nullptr, nodes_.size() - 1);
        return graph;
    }

    const Plan& plan_;
    CUcontext context_;
    const std::vector<CUfunction>& functions_;
    std::vector<unsigned char> values_;
    std::vector<CUgraphNode> nodes_;
    void* arguments_[3];
    CUstream stream_ = nullptr;
    CUgraph base_ = nullptr;
};

// Loads the binaries and resolves k0, k1, ...: milliseconds of either, or of both as the second if threads
// share them.
static std::pair<double, double> resolve(const Plan& plan, CUcontext context, const std::string& code,
                                         std::vector<CUfunction>& functions) {
    std::vector<CUlibrary> libraries(plan.binaries);
    const auto load = [&](int b) {
        CALL(cuLibraryLoadData, &libraries[b], code.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0);
    };
    const auto find = [&](int b) {
        for (int i = b; i < plan.functions; i += plan.binaries) {
            CUkernel kernel = nullptr;
            CALL(cuLibraryGetKernel, &kernel, libraries[b], ("k" + std::to_string(i)).c_str());
            CALL(cuKernelGetFunction, &functions[i], kernel);
        }
    };
    const auto began = Clock::now();
    if (plan.resolvers == 1) {
        for (int b = 0; b < plan.binaries; ++b) load(b);
        const double load_ms = since(began);
        for (int b = 0; b < plan.binaries; ++b) find(b);
        return {load_ms, since(began) - load_ms};
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < plan.resolvers; ++t)
        threads.emplace_back([&, t] {
            CALL(cuCtxSetCurrent, context);
            for (int b = t; b < plan.binaries; b += plan.resolvers) load(b), find(b);
        });
    for (std::thread& thread : threads) thread.join();
    return {0, since(began)};
}

// Makes every graph: milliseconds for the first of each thread and for all of them.
static std::pair<double, double> run(const Plan& plan, std::vector<Maker*>& makers,
                                     std::vector<CUgraphExec>& execs) {
    const auto began = Clock::now();
    double first = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < plan.threads; ++t)
        threads.emplace_back([&, t] {
            makers[t]->enter();
            for (int g = t; g < plan.graphs; g += plan.threads) {
                execs[g] = makers[t]->make();
                if (g == 0) makers[t]->finish(), first = since(began);
            }
            makers[t]->finish();
        });
    for (std::thread& thread : threads) thread.join();
    return {first, since(began)};
}

int main(int count, char** words) {
    if (count < 2) return 2;
    const Plan plan(count, words);
    const double heap_ms = prepare_heap(plan);
    const auto began = Clock::now();
    CUcontext context = nullptr;
    CALL(cuInit, 0);
    CALL(cuDevicePrimaryCtxRetain, &context, 0);
    CALL(cuCtxSetCurrent, context);
    const double context_ms = since(began);

    std::ifstream file(words[1], std::ios::binary);
    const std::string code{std::istreambuf_iterator<char>(file), {}};
    std::vector<CUfunction> functions(plan.functions);
    const auto [load_ms, resolve_ms] = resolve(plan, context, code, functions);

    const auto basing = Clock::now();
    std::vector<Maker*> makers;
    for (int t = 0; t < plan.threads; ++t) makers.push_back(new Maker(plan, context, functions));
    const double base_ms = since(basing) / plan.threads;
    size_t before = 0, after = 0, total = 0;
    CALL(cuMemGetInfo, &before, &total);
    std::vector<CUgraphExec> execs(plan.graphs);
    const Usage unused = Usage::now();
    const auto [first_ms, all_ms] = run(plan, makers, execs);
    const Usage used = Usage::now() - unused;
    CALL(cuMemGetInfo, &after, &total);
    double build = 0, instantiate = 0, upload = 0;
    for (Maker* maker : makers)
        build += maker->build_ms, instantiate += maker->instantiate_ms, upload += maker->upload_ms;
    makers[0]->launch(execs[0]);
    makers[0]->finish();

    for (CUgraphExec exec : execs) CALL(cuGraphExecDestroy, exec);
    const Usage between = Usage::now();
    const double again_ms = run(plan, makers, execs).second;
    const Usage again = Usage::now() - between;
    const double nodes = double(plan.graphs) * plan.nodes / 1e3;
    const std::vector<std::pair<const char*, double>> row = {
        {"heap_ms", heap_ms},
        {"context_ms", context_ms},
        {"load_ms", load_ms},
        {"resolve_ms", resolve_ms},
        {"base_ms", base_ms},
        {"first_ms", first_ms},
        {"all_ms", all_ms},
        {"us_per_node", all_ms / nodes},
        {"again_us_per_node", again_ms / nodes},
        {"build_us", build / nodes},
        {"instantiate_us", instantiate / nodes},
        {"upload_us", upload / nodes},
        {"exec_bytes_per_node", (double(before) - double(after)) / (nodes * 1e3)},
        {"faults", used.faults},
        {"user_ms", used.user_ms},
        {"system_ms", used.system_ms},
        {"resident_growth_mb", used.resident_mb},
        {"again_faults", again.faults},
        {"again_system_ms", again.system_ms}};
    const char* separator = "{";
    for (const auto& [name, value] : row) {
        std::printf("%s\"%s\": %.*f", separator, name, value < 100 ? 3 : 1, value);
        separator = ", ";
    }
    std::puts("}");
    return 0;
}
