// Everything of a bundle that lives in the driver: libraries, functions, template graphs and the members'
// execs.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "builder.hpp"

namespace foundry {

class Materializer {
  public:
    // `nodes`: how many all graphs have together. Its threads begin to take host memory for them: nothing of
    // the driver is needed before `start`.
    Materializer(uint32_t kernels, uint32_t functions, uint32_t templates, uint32_t graphs, uint64_t nodes);
    // Stops the threads, then frees execs, graphs and libraries, in this order.
    ~Materializer();
    Materializer(const Materializer&) = delete;
    Materializer& operator=(const Materializer&) = delete;

    // The bytes given here stay the caller's and must outlive this object.
    void set_kernel(uint32_t kernel, const void* data, uint64_t size);
    void set_function(uint32_t function, const char* name, uint32_t kernel, int shared, int carveout,
                      bool nonportable);
    void set_template(uint32_t index, const foundry_template& table);
    void set_graph(uint32_t graph, const char* name, uint32_t index, uint64_t count, const uint32_t* word,
                   const uint64_t* value);

    // Bytes that a variable of a kernel binary must hold before anything of that binary runs.
    void set_variable(uint32_t kernel, const char* name, const void* data, uint64_t size);

    // Materializes all graphs on the threads, `first` before the others and alone, each once it has been
    // given.
    void start(CUcontext context, uint32_t first);
    // No more graphs will be given: whoever waits for all gets this message.
    void abandon(const char* message);
    // Returns once the graph can be launched: ahead of the others. Only after `start`.
    CUgraphExec require(uint32_t graph);
    // Graphs that can be launched; whether this one can.
    uint32_t ready();
    bool ready(uint32_t graph);
    // Blocks until `count` graphs are ready or the time is over, and returns how many are; rethrows a
    // thread's failure.
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
        std::mutex resolving;  // the library and its functions
        CUlibrary library = nullptr;
    };
    struct Member {
        std::string name;
        uint32_t index = 0;  // its template
        uint64_t count = 0;
        const uint32_t* word = nullptr;
        const uint64_t* value = nullptr;
        bool given = false;
        bool making = false;
        CUgraphExec exec = nullptr;
    };
    // A place where one graph at a time is made.
    struct Lane {
        std::vector<std::unique_ptr<Builder>> builders;  // one for each set of kinds and edges
        bool busy = false;
    };
    // Two overlap what the driver does outside its lock; three were no faster (H100, docs/materialize.md).
    static constexpr size_t LANES = 2;

    // What a thread does.
    void run();
    void fail(int code, const std::string& message);
    // Whether the threads may take `order_[next_]`; the state is locked.
    bool next_can_begin();
    Lane* free_lane();
    // Makes a member's exec in a free lane; the state is locked before and after, not meanwhile.
    void make(Member& member, Lane& lane, std::unique_lock<std::mutex>& lock);
    CUgraphExec materialize(const Member& member, Lane& lane);
    // An exec must not be launched before its upload has ended; on any thread.
    void finish_uploads(const std::string& where);
    // A builder of the lane that has taken on a template.
    Builder& builder(Lane& lane, const foundry_template& table, const std::string& name);
    void load(Binary& binary, const std::string& where);
    void resolve(uint32_t function);
    void apply_state(const Function& function, CUkernel kernel);

    Spent spent_;
    CUcontext context_ = nullptr;  // since `start`
    uint64_t nodes_;
    CUstream upload_ = nullptr;
    std::vector<Binary> binaries_;
    std::vector<Function> functions_;
    std::vector<CUfunction> handles_;
    std::vector<foundry_template> templates_;
    std::vector<Member> members_;
    std::array<Lane, LANES> lanes_;

    std::mutex state_;
    std::condition_variable changed_;
    std::vector<Member*> order_;  // in which the threads make graphs
    size_t next_ = 0;             // the first in that order that none of them has taken
    bool alone_ = false;          // the first one is made before others begin
    uint32_t waiting_ = 0;        // callers that go before the threads
    uint32_t ready_ = 0;
    bool stop_ = false;
    bool failed_ = false;
    int failure_code_ = 0;
    std::string failure_;
    std::vector<std::thread> threads_;
};

}  // namespace foundry
