// What calls leave on the stack: kernels' arguments are structs built there, and hold it in their gaps.
#pragma once

#include <cstdint>

namespace foundry {

// The byte that stacks are filled with from now on; 0 at first.
void fill_with(uint8_t value);

// Addresses of a thread's stack; none where nobody knows.
struct Stack {
    uintptr_t lowest = 0, end = 0;
};

// The calling thread's. It allocates, and asks the loader for memory of the thread.
Stack own_stack();

// Fills what the calling thread does not use of its stack, as far as a launch may reach.
void fill_stack();

// The nearest part of it: as far as an allocation reaches, and small calls on the way to a launch. It is
// quick, and calls nothing that allocates or that the loader would have to find: the loader may be at work.
void fill_near(const Stack& own);

}  // namespace foundry
