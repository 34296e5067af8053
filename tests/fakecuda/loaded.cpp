// A library that comes up: the loader makes room for what each thread has of it, and looks up thousands of
// functions after those of the allocator, before it makes the addresses of all of them read-only.
#include <cstdlib>
#include <utility>

thread_local char own[64];

__attribute__((constructor)) static void come_up() {
    own[0] = 1;
    asm volatile("" : : "r"(own) : "memory");
    void* volatile made = std::malloc(1);
    std::free(made);
}

// Which another library may replace, so that the loader looks it up.
template <int number>
__attribute__((noinline)) void looked_up() {
    asm volatile("");
}

template <int... numbers>
static void look_up(std::integer_sequence<int, numbers...>) {
    (looked_up<numbers>(), ...);
}

extern "C" void look_up_all() { look_up(std::make_integer_sequence<int, 2000>()); }
