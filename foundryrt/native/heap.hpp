// Host memory for the driver, which takes 6 to 9 KB for each node of an exec with malloc.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "threads.hpp"

namespace foundry {

// Prefaults free memory in the calling thread's heap for execs of `nodes` nodes in all: it lies on huge
// pages, and another thread touches them. On small pages, page faults were nearly half the time of
// instantiating (benchmarks/results/instantiate.json). None is touched before `wanted`: that takes
// processors, and keeps others from memory.
//
// A hint: nothing fails, and nothing happens for few nodes or where address space is limited (ulimit -v,
// strict overcommit). It sets options of malloc for the whole process, which then keeps more of the memory
// that it frees until `trim_heap`; blocks of up to 32 MB come from a heap for good.
class HeapPrefault {
  public:
    HeapPrefault(uint64_t nodes, const std::atomic<bool>& wanted);
    // Stops the other thread; the memory is the heap's.
    ~HeapPrefault() { enough_ = true; }
    HeapPrefault(const HeapPrefault&) = delete;
    HeapPrefault& operator=(const HeapPrefault&) = delete;

  private:
    struct Free {
        void operator()(char* block) const { std::free(block); }
    };

    void touch(uint64_t pages);

    const std::atomic<bool>& wanted_;
    std::vector<std::unique_ptr<char, Free>> blocks_;
    std::atomic<bool> enough_{false};
    Threads toucher_;  // last: it ends before what it uses
};

// Returns the memory that heaps keep free to the system. Called before execs are freed as well as after: a
// heap shrinks only while something is freed.
void trim_heap();

// Trims the heap when it is destroyed.
struct HeapTrimmer {
    ~HeapTrimmer() { trim_heap(); }
};

}  // namespace foundry
