// Calls of the C library's allocator: what they leave on the stack depends on what the heap holds.
#pragma once

namespace foundry {

// From now on, whatever library the calling thread allocates or frees memory from, it finds a filled stack
// afterwards (stack.hpp). What is loaded later, or was never called, is left as it is.
void fill_after_allocations();

// Until this; what was put in the place of the allocator's functions stays, and does what they do.
void leave_allocations();

}  // namespace foundry
