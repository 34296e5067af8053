// What calls leave on the stack: kernels' arguments are structs built there, and hold it in their gaps.
#pragma once

#include <cstdint>

namespace foundry {

// Fills what the calling thread does not use of its stack, as far as a launch may reach, with `value`.
void fill_stack(uint8_t value);

}  // namespace foundry
