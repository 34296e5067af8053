// Threads that share the tasks of a call, and sleep between calls.
#pragma once

#include <cstddef>

namespace foundry::zak {

// Calls `task(context, scratch, index)` for every index below `count` on up to `threads` threads, the
// caller's among them; `scratch` has `floats` floats and is that thread's alone. Where another call
// has the threads already, the caller does everything. std::bad_alloc where there is no memory.
void run(int threads, int count, size_t floats, void (*task)(const void*, float*, int), const void* context);

}  // namespace foundry::zak
