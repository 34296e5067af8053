// Host memory for the driver, which keeps 6 to 9 KB for each node of an exec and takes it with malloc.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace foundry {

// Free memory in the calling thread's heap for execs of so many nodes in all, on huge pages that another
// thread touches: on small ones nearly half the time of making execs was page faults
// (benchmarks/results/instantiate.json). A hint: nothing fails, and nothing is done for few nodes or where
// address space is limited (ulimit -v, strict overcommit). From then on the process keeps more of the memory
// that it frees (mallopt), until `give_back`; blocks of up to 32 MB come from a heap for good.
class Room {
  public:
    explicit Room(uint64_t nodes);
    // Stops the other thread; the memory is the heap's.
    ~Room();
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;

    // Returns what heaps keep free to the system. Called before execs are freed, too: a heap's end goes only
    // while something is freed.
    static void give_back();

  private:
    std::atomic<bool> enough_{false};
    std::thread touching_;
};

}  // namespace foundry
