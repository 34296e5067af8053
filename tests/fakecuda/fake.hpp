// What the stand-in's files share: its settings, what is alive, and how a call is made to fail.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace fake {

inline std::mutex guard;
inline std::map<std::string, int64_t> live;
inline std::atomic<int64_t> calls{0}, fail_at{0};
inline std::atomic<int> fail_code{CUDA_ERROR_OUT_OF_MEMORY};
inline std::atomic<int64_t> loads{0};  // of binaries, since calls are counted
inline std::atomic<int> architecture{90}, version{13000};
inline std::atomic<uint64_t> memory{1ull << 30};
// Where imported memory is said to lie, and whether it can be reached from elsewhere.
inline std::atomic<int> peer_device{0}, peer_access{1};
// Graphs of more nodes than these wait to be instantiated, or fail where there is a code for it.
inline std::atomic<size_t> most_nodes{SIZE_MAX};
inline std::atomic<int> too_many_code{0};
// Nodes of the graphs whose instantiation began, in that order.
inline std::string instantiated;
inline int device_context;
// The primary context is a new one (the next generation) each time that it is retained after its release.
inline std::atomic<int> retained{0}, generation{0};
inline thread_local int current = 0;

inline void count(const char* what, int64_t change) {
    std::lock_guard lock(guard);
    live[what] += change;
}

template <class Handle, class Object>
Handle handle(Object* object) {
    return reinterpret_cast<Handle>(object);
}

}  // namespace fake

// Calls that free something are not made to fail: nothing could be done about it.
#define MAY_FAIL \
    if (++fake::calls == fake::fail_at) return static_cast<CUresult>(fake::fail_code.load())
// Calls that work on the thread's current context.
#define IN_CONTEXT \
    MAY_FAIL;      \
    if (fake::retained == 0 || fake::current != fake::generation) return CUDA_ERROR_INVALID_CONTEXT
