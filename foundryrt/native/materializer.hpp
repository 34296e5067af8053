// Everything of a bundle that lives in the driver: libraries, functions, template graphs and the members' execs.
#pragma once

#include <chrono>
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

    // Bytes that a variable of a kernel binary must hold before anything of that binary runs.
    void set_variable(uint32_t kernel, const char* name, const void* data, uint64_t size);

    // Materializes all graphs on a thread of its own, `first` before the others, each once it has been given.
    void start(uint32_t first);
    // No more graphs will be given: whoever waits for all gets this message.
    void abandon(const char* message);
    // Returns once the graph can be launched: ahead of the others, on the calling thread.
    CUgraphExec require(uint32_t graph);
    // Graphs that can be launched; whether this one can.
    uint32_t ready();
    bool ready(uint32_t graph);
    // Blocks until `count` graphs are ready or the time is over, and returns how many are; rethrows the thread's failure.
    uint32_t wait(uint32_t count, std::chrono::milliseconds timeout);
    const Spent& spent() const { return spent_; }

private:
    struct Function {
        std::string name;
        uint32_t kernel;
        int shared, carveout;
        bool nonportable;
        CUfunction handle = nullptr;
    };
    struct Variable {
        std::string name;
        const void* data;
        uint64_t size;
    };
    struct Binary {
        const void* data = nullptr;
        uint64_t size = 0;
        std::vector<Variable> variables;
        CUlibrary library = nullptr;
    };
    struct Member {
        std::string name;
        uint32_t index = 0;  // its template
        uint64_t count = 0;
        const uint32_t* word = nullptr;
        const uint64_t* value = nullptr;
        bool given = false;
        CUgraphExec exec = nullptr;
    };

    void run(uint32_t first);
    void fail(int code, const std::string& message);
    CUgraphExec materialize(const Member& member);
    // Ends a turn of making `member`, whose exec is null where that failed; the state is locked.
    void keep(Member& member, CUgraphExec exec);
    // An exec must not be launched before its upload has ended; on any thread.
    void finish_uploads(const std::string& where);
    // A builder that has taken on a template.
    Builder& builder(const foundry_template& table, const std::string& name);
    void load(Binary& binary, const std::string& where);
    void resolve(uint32_t function);
    void apply_state(const Function& function, CUkernel kernel);

    Spent spent_;
    CUcontext context_;
    CUstream upload_ = nullptr;
    std::vector<Binary> binaries_;
    std::vector<Function> functions_;
    std::vector<CUfunction> handles_;
    std::vector<foundry_template> templates_;
    std::vector<std::unique_ptr<Builder>> builders_;  // one for each set of kinds and edges
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
