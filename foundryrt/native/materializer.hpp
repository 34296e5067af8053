// Everything of a bundle that lives in the driver: libraries, functions, template graphs and execs.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "builder.hpp"
#include "heap.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "owned.hpp"
#include "tables.hpp"
#include "timings.hpp"

namespace foundry {

class Materializer {
  public:
    // `nodes`: how many all graphs have together. Nothing of the driver is needed before `start`.
    Materializer(uint32_t kernels, uint32_t functions, uint32_t templates, uint32_t graphs, uint64_t nodes);
    // Stops the threads and frees everything.
    ~Materializer();

    // Threads touch host memory for the nodes from now on.
    void touch() { lanes_.touch(); }
    Kernels& kernels() { return kernels_; }
    // What tables and members point to stays the caller's and must outlive this object.
    void set_template(uint32_t index, const foundry_template& table);
    // Declares a graph: its template, functions and binaries have been set before.
    void set_graph(uint32_t graph, const char* name, uint32_t index, const Member& member);

    // Makes all graphs on threads, each once it has been declared, `first` before the others and alone. Once.
    // The places are the regions', in the bundle's order.
    void start(CUcontext context, uint32_t first, const foundry_place* places, uint32_t regions);
    void abandon(const char* message) { lanes_.abandon(message); }
    // The graph is made next, once it is declared, if nobody has begun it.
    void prefer(uint32_t graph) { lanes_.prefer(graph); }
    // Threads begin only preferred graphs while paused.
    void pause(bool paused) { lanes_.pause(paused); }
    // Loads the functions of all graphs and checks all addresses in them: what is left to be made can fail in
    // the driver alone. Only after `start`, once every graph has been declared.
    void resolve();
    // Returns once the graph can be launched: ahead of the others. Only after `start`.
    CUgraphExec require(uint32_t graph);
    uint32_t ready() { return lanes_.ready(); }
    bool ready(uint32_t graph) { return lanes_.ready(graph); }
    // Blocks until `count` graphs are ready or the time is over, and returns how many are. Throws the first
    // failure of a thread.
    uint32_t wait(uint32_t count, std::chrono::milliseconds timeout);
    const Timings& timings() const { return timings_; }

  private:
    struct Graph {
        std::string name;
        uint32_t index = 0;  // its template
        Member member;
        OwnedExec exec;
    };
    // One for each topology.
    using Builders = std::vector<std::unique_ptr<Builder>>;

    void make(uint32_t graph, size_t lane);
    // Throws what building a member would throw for an address in it.
    void check_addresses(const foundry_template& table, const Member& member, const std::string& name) const;
    // Takes a builder of the template's topology out of the lane's, or makes one.
    std::unique_ptr<Builder> take(Builders& builders, const foundry_template& table, const std::string& name);
    // An exec must not be launched before its upload has ended; on any thread.
    void finish_uploads(const std::string& where);

    Timings timings_;
    Placement placement_;          // likewise
    CUcontext context_ = nullptr;  // since `start`
    std::vector<foundry_template> templates_;
    // Destroyed from the last to the first: threads end; execs, graphs and libraries are freed; then the
    // heap shrinks.
    HeapTrimmer trimmer_;
    Kernels kernels_;
    OwnedStream uploads_;
    std::array<Builders, Lanes::COUNT> builders_;
    std::vector<Graph> graphs_;
    Lanes lanes_;
};

}  // namespace foundry
