// Kernel binaries as the driver has loaded them, which the open bundles of a process share.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "owned.hpp"

namespace foundry {

// A function that was found, and its kernel's attributes: the largest that anybody has wanted so far.
struct Found {
    CUkernel kernel = nullptr;
    CUfunction handle = nullptr;
    int shared = 0, carveout = -1;
    int nonportable = 0;
};

// One binary.
struct Loaded {
    std::mutex mutex;  // for everything here
    OwnedLibrary library;
    std::map<std::string, Found> functions;
};

// Whether launches may leave something in a binary that later ones find: code refers to module variables, but
// for constants of the compiler's own. True for what cannot be read.
bool has_state(const void* binary, size_t bytes);

// That of everybody who asks with this key and context while somebody holds it; perhaps not loaded yet.
//
// To load a function the driver waits until the device is idle, between two graphs where some run all the
// time: milliseconds for each binary.
std::shared_ptr<Loaded> loaded(CUcontext context, const std::string& key);

// Whether what a bundle has asked for stays loaded when it is closed, until the next one is: in a process
// that opens one bundle after another in a context of its own.
void keep_loaded(bool keep);
// A bundle is closed; with the context current, as those go that the one before has left.
void leave_loaded();

}  // namespace foundry
