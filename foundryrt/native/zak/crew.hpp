// Threads that share one short task after another, such as each piece of samples that a radio gives.
#pragma once

namespace foundry::zak {

// Calls `task(context, index)` for every index below `count` on up to `threads` threads, the caller's
// among them, which takes what the others have not begun. They look for the next call for a while before
// they sleep: to be woken takes as long as such a task. Where another call has them, the caller does all.
void share(int threads, int count, void (*task)(void*, int), void* context);

}  // namespace foundry::zak
