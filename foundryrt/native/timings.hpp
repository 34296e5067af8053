// Where a materialization's time goes, in nanoseconds, all threads together.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace foundry {

struct Timings {
    std::atomic<uint64_t> load{0}, resolve{0}, build{0}, instantiate{0}, upload{0};
};

// Adds the time between its construction and its destruction.
class ScopedTimer {
  public:
    explicit ScopedTimer(std::atomic<uint64_t>& total) : total_(total) {}
    ~ScopedTimer() { total_ += static_cast<uint64_t>((std::chrono::steady_clock::now() - start_).count()); }
    ScopedTimer(const ScopedTimer&) = delete;
    ScopedTimer& operator=(const ScopedTimer&) = delete;

  private:
    std::atomic<uint64_t>& total_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace foundry
