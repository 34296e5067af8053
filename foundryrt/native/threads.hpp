// Threads that end before their owner does.
#pragma once

#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace foundry {

class Threads {
  public:
    Threads() = default;
    // Runs `body(index)` on `count` threads, or on fewer where the system gives no more.
    template <class Body>
    Threads(size_t count, const Body& body) {
        threads_.reserve(count);
        try {
            for (size_t index = 0; index < count; ++index) threads_.emplace_back(body, index);
        } catch (const std::exception&) {
            // The caller sees it by `size`.
        }
    }
    Threads(Threads&&) = default;
    Threads& operator=(Threads&& other) noexcept {
        threads_.swap(other.threads_);
        return *this;
    }
    ~Threads() { join(); }

    size_t size() const { return threads_.size(); }

    void join() {
        for (std::thread& thread : threads_) thread.join();
        threads_.clear();
    }

  private:
    std::vector<std::thread> threads_;
};

}  // namespace foundry
