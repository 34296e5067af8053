// What calls leave on the stack: kernels' arguments are structs built there, and hold it in their gaps.
#pragma once

#include <cstdint>

namespace foundry {

// The byte that stacks are filled with from now on; 0 at first.
void fill_with(uint8_t value);

// Fills what the calling thread does not use of its stack, as far as a launch may reach.
void fill_stack();

// The nearest part of it: as far as an allocation reaches, and small calls on the way to a launch. It is
// quick.
void fill_near();

}  // namespace foundry
