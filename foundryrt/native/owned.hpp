// Driver objects with one owner, which frees them.
#pragma once

#include <cuda.h>

#include <type_traits>
#include <utility>

#include "driver.hpp"

namespace foundry {

// A range of device addresses; none where `bytes` is 0.
struct Range {
    CUdeviceptr address = 0;
    size_t bytes = 0;
};

// Holds an object that `destroy`, a member of Driver, frees. Moved, never copied.
template <class Object, auto destroy>
class Owned {
  public:
    Owned() = default;
    explicit Owned(Object object) : object_(object) {}
    Owned(Owned&& other) noexcept : object_(std::exchange(other.object_, {})) {}
    Owned& operator=(Owned&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Owned() {
        if (*this) free();
    }

    const Object& get() const { return object_; }
    explicit operator bool() const {
        if constexpr (std::is_same_v<Object, Range>) return object_.bytes != 0;
        else return object_ != Object{};
    }

    // Where a driver call writes the object that it makes; for an empty owner.
    Object* out() { return &object_; }

  private:
    void free() {
        if constexpr (std::is_same_v<Object, Range>) (driver().*destroy)(object_.address, object_.bytes);
        else (driver().*destroy)(object_);
    }

    Object object_{};
};

using OwnedExec = Owned<CUgraphExec, &Driver::cuGraphExecDestroy>;
using OwnedGraph = Owned<CUgraph, &Driver::cuGraphDestroy>;
using OwnedLibrary = Owned<CUlibrary, &Driver::cuLibraryUnload>;
using OwnedMapping = Owned<Range, &Driver::cuMemUnmap>;
using OwnedMemory = Owned<CUmemGenericAllocationHandle, &Driver::cuMemRelease>;
using OwnedReservation = Owned<Range, &Driver::cuMemAddressFree>;
using OwnedStream = Owned<CUstream, &Driver::cuStreamDestroy>;

}  // namespace foundry
