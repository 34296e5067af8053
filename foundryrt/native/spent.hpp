// Where a materialization's time goes, in nanoseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace foundry {

struct Spent {
    std::atomic<uint64_t> load{0}, resolve{0}, build{0}, instantiate{0}, upload{0};
};

// Adds the time from its making to its end.
class Watch {
  public:
    explicit Watch(std::atomic<uint64_t>& to) : to_(to) {}
    ~Watch() { to_ += static_cast<uint64_t>((std::chrono::steady_clock::now() - start_).count()); }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

  private:
    std::atomic<uint64_t>& to_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace foundry
