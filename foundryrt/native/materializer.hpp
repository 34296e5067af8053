// Everything of a bundle that lives in the driver: libraries, functions, template graphs and the members' execs.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "builder.hpp"

namespace foundry {

class Materializer {
public:
    Materializer(CUcontext context, uint32_t kernels, uint32_t functions, uint32_t templates, uint32_t graphs);
    // Stops the thread, then frees execs, graphs and libraries, in this order.
    ~Materializer();
    Materializer(const Materializer&) = delete;
    Materializer& operator=(const Materializer&) = delete;

    // The bytes given here stay the caller's and must outlive this object.
    void set_kernel(uint32_t kernel, const void* data, uint64_t size);
    void set_function(uint32_t function, const char* name, uint32_t kernel, int shared, int carveout, bool nonportable);
    void set_template(uint32_t index, const foundry_template& table);
    void set_graph(uint32_t graph, const char* name, uint32_t index, uint64_t count, const uint32_t* word,
                   const uint64_t* value);

    // Materializes the remaining graphs, in their order, on a thread of its own.
    void start();
    // Returns once the graph can be launched: ahead of the others, on the calling thread.
    CUgraphExec require(uint32_t graph);
    // Graphs that can be launched.
    uint32_t ready();
    // Blocks until all are ready or one failed; rethrows the failure.
    void wait();

private:
    struct Function {
        std::string name;
        uint32_t kernel;
        int shared, carveout;
        bool nonportable;
        CUfunction handle = nullptr;
    };
    struct Binary {
        const void* data = nullptr;
        uint64_t size = 0;
        CUlibrary library = nullptr;
    };
    struct Topology {
        foundry_template table{};
        std::unique_ptr<Builder> builder;
    };
    struct Member {
        std::string name;
        uint32_t topology = 0;
        uint64_t count = 0;
        const uint32_t* word = nullptr;
        const uint64_t* value = nullptr;
        CUgraphExec exec = nullptr;
    };

    void run();
    void materialize(Member& member);
    void resolve(uint32_t function);
    void apply_state(const Function& function, CUkernel kernel);

    CUcontext context_;
    CUstream upload_ = nullptr;
    std::vector<Binary> binaries_;
    std::vector<Function> functions_;
    std::vector<CUfunction> handles_;
    std::vector<Topology> topologies_;
    std::vector<Member> members_;

    std::mutex state_;
    std::condition_variable changed_;
    bool busy_ = false;        // somebody materializes
    uint32_t waiting_ = 0;     // callers that go before the thread
    uint32_t ready_ = 0;
    bool stop_ = false;
    bool failed_ = false;
    int failure_code_ = 0;
    std::string failure_;
    std::thread thread_;
};

}  // namespace foundry
