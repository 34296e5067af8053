// Floats that begin on a cache line.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace foundry::zak {

class Memory {
  public:
    Memory() = default;
    ~Memory() { std::free(floats_); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    // At least `floats` floats, whose contents are lost where there were fewer; std::bad_alloc.
    float* grow(size_t floats) {
        if (floats <= size_) return floats_;
        std::free(floats_);
        floats_ = nullptr;
        size_ = 0;
        void* taken = nullptr;
        if (floats > SIZE_MAX / 8 || posix_memalign(&taken, 64, floats * sizeof(float)) != 0)
            throw std::bad_alloc();
        floats_ = static_cast<float*>(taken);
        size_ = floats;
        return floats_;
    }

  private:
    float* floats_ = nullptr;
    size_t size_ = 0;
};

}  // namespace foundry::zak
