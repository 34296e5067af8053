// Host memory for the driver, which keeps some 6 KB for each node of an exec and takes it with malloc.
#pragma once

#include <cstdint>

namespace foundry {

// Puts free memory of the calling thread's heap on huge pages, enough for an exec of so many nodes: on small pages
// nearly half the time of making execs was page faults (benchmarks/results/instantiate.json). A hint; nothing fails.
// The process keeps more of the memory that it frees from then on (mallopt).
void make_room(uint64_t nodes);

}  // namespace foundry
