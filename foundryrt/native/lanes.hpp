// Which graph is made when, and on which thread. Graphs are known by their number only.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "driver.hpp"
#include "threads.hpp"

namespace foundry {

// Makes graphs in two lanes, one at a time in each: two overlap what the driver does outside its lock, three
// were no faster (docs/measurements/start.md). Threads make them as they were declared, once `start` was
// called; a caller makes a graph that it requires itself, in the next free lane, before any other is begun.
class Lanes {
  public:
    static constexpr size_t COUNT = 2;
    // Makes a graph; called for one graph at a time in each lane.
    using Make = std::function<void(uint32_t graph, size_t lane)>;

    // `nodes`: how many all graphs have together, for which the threads take host memory.
    Lanes(uint32_t graphs, uint64_t nodes, Make make);
    // Lets the threads end what they are making.
    ~Lanes() { stop(); }
    void stop();

    // That host memory is touched from now on.
    void touch() { touch_ = true; }
    // From now on the graph can be made. Once.
    void declare(uint32_t graph);
    // Begins: `first`, if it is the number of a graph, is made before all others and alone.
    void start(uint32_t first);
    // No more graphs will be declared; `wait` throws this.
    void abandon(const std::string& message);
    // A graph that nobody has begun is the next to be made, after `first`, once it is declared.
    void prefer(uint32_t graph);
    // While paused, threads begin only graphs that are preferred; callers still make what they require.
    void pause(bool paused);
    // Returns once the graph is made; after `start`. Throws what making it throws.
    void require(uint32_t graph);
    // Graphs that are made; whether this one is.
    uint32_t ready();
    bool ready(uint32_t graph);
    // Blocks until `count` graphs are made or the time is over, and returns how many are. Throws the first
    // failure of a thread.
    uint32_t wait(uint32_t count, std::chrono::milliseconds timeout);

  private:
    enum class State : uint8_t { undeclared, queued, making, ready };

    void run(uint64_t nodes);
    // These four with the mutex held.
    bool finished() const;
    bool next_may_begin() const;
    void fail(const Error& failure);
    // Makes a queued graph in a free lane, with the mutex released meanwhile. Returns what that threw: then
    // the graph is the next in the queue.
    std::optional<Error> make(uint32_t graph, std::unique_lock<std::mutex>& lock);

    const Make make_;
    std::atomic<bool> touch_{false};
    std::mutex mutex_;  // for everything below
    std::condition_variable changed_;
    std::vector<State> states_;    // of all graphs
    std::vector<bool> preferred_;  // likewise
    std::vector<uint32_t> queue_;  // declared graphs that nobody has begun
    std::vector<size_t> free_;     // lanes
    std::optional<uint32_t> first_;
    uint32_t callers_ = 0;  // that wait for a graph, or make it
    uint32_t ready_ = 0;
    bool started_ = false;
    bool paused_ = false;
    bool stopped_ = false;
    std::optional<Error> failure_;
    Threads threads_;  // last: they end before what they use
};

}  // namespace foundry
