// Calls that queue work, made in turn: from Python each would ask for the interpreter's lock again.
#pragma once

#include <cstdint>

namespace foundry {

enum class Queued : uint64_t { NOTHING, TO_DEVICE, ON_DEVICE, TO_HOST, RECORD, WAIT, LAUNCH };

struct foundry_call {
    Queued kind;
    uint64_t stream, target, source, size;
};

// Throws Error for one that fails.
void make_call(const foundry_call& call);

}  // namespace foundry
