#include "driver.hpp"

#include <dlfcn.h>

#include <cstdlib>

namespace foundry {
namespace {

thread_local std::string last;

#define FOUNDRY_TEXT_OF(name) #name
#define FOUNDRY_TEXT(name) FOUNDRY_TEXT_OF(name)

// Never closed: objects of the driver live until the process ends.
Driver open_driver() {
    const char* path = std::getenv("FOUNDRY_LIBCUDA");
    if (path == nullptr || *path == '\0') path = "libcuda.so.1";
    void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) {
        refuse(std::string("no CUDA driver: ") + dlerror() +
               "; install NVIDIA's driver, or use the host target");
    }
    Driver table;
#define FOUNDRY_RESOLVE(name)                                                                \
    table.name = reinterpret_cast<decltype(table.name)>(dlsym(library, FOUNDRY_TEXT(name))); \
    if (table.name == nullptr)                                                               \
        refuse(std::string(path) +                                                           \
               " has no " FOUNDRY_TEXT(name) "; a driver of CUDA 13.0 or later is needed");
    FOUNDRY_DRIVER_FUNCTIONS(FOUNDRY_RESOLVE)
#undef FOUNDRY_RESOLVE
    return table;
}

}  // namespace

void refuse(const std::string& what) { throw Error(-1, what); }

const Driver& driver() {
    static const Driver table = open_driver();
    return table;
}

void check(CUresult result, const char* call, const std::string& where) {
    if (result == CUDA_SUCCESS) return;
    const char* name = nullptr;
    const char* meaning = nullptr;
    driver().cuGetErrorName(result, &name);
    driver().cuGetErrorString(result, &meaning);
    std::string text = call;
    if (!where.empty()) text += " (" + where + ")";
    text += std::string(": ") + (name ? name : "unknown error") + " (" + std::to_string(result) + ")";
    if (meaning != nullptr) text += std::string(", ") + meaning;
    throw Error(static_cast<int>(result), text);
}

const char* last_error() { return last.c_str(); }

void remember_error(const std::string& what) { last = what; }

}  // namespace foundry
