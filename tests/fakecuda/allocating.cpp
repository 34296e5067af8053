// A program that is linked for one place and takes the addresses of malloc and free: what others find under
// these names is then an entry in it, for the loader, too. Arguments: the capture core, the stand-in,
// functions of the allocator, paths of libraries.
// Prints how much of the stack each function leaves filled; loads each library, and every third one goes
// again.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>

void* (*volatile taken)(size_t);
void (*volatile given_back)(void*);

int main(int count, char** words) {
    taken = std::malloc, given_back = std::free;
    given_back(taken(1));
    void* core = dlopen(words[1], RTLD_NOW);
    void* fake = dlopen(words[2], RTLD_NOW);
    if (core == nullptr || fake == nullptr) return std::puts(dlerror()), 1;
    const auto fill_with = reinterpret_cast<void (*)(unsigned char)>(dlsym(core, "foundryc_fill_with"));
    const auto fill_after = reinterpret_cast<void (*)(int)>(dlsym(core, "foundryc_fill_after_allocations"));
    const auto found_after = reinterpret_cast<void (*)(const char*, unsigned char, unsigned char*, size_t)>(
        dlsym(fake, "fakecuda_found_after"));
    static unsigned char left[8000];
    fill_with(0x5A);
    fill_after(1);
    for (int i = 3; i < count; ++i) {
        if (words[i][0] == '/') {
            void* library = dlopen(words[i], RTLD_NOW);
            if (library == nullptr) return std::puts(dlerror()), 1;
            given_back(taken(1));
            if (i % 3 == 0) dlclose(library);
            continue;
        }
        found_after(words[i], 0xEE, left, sizeof(left));
        std::printf("%td\n", std::count(std::begin(left), std::end(left), 0x5A));
    }
    fill_after(0);
    given_back(taken(1));
}
