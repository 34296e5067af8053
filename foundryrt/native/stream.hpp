// Runs of bytes of files to the device through pinned buffers, on threads that need no interpreter.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace foundry {

extern "C" struct foundry_piece {
    uint64_t address;  // on the device
    uint64_t offset;   // in the file
    uint64_t bytes;    // any number: what is copied at once is cut from it
    int32_t file;      // descriptor
    int32_t spare;
};

extern "C" struct foundry_buffer {
    void* memory;    // pinned
    uint64_t bytes;  // at least one
    CUevent event;
};

// Returns once every piece was read and is queued on `stream`, in parts no larger than the buffer that each
// goes through. Each thread takes `count / threads` buffers in turn. Throws Error for a driver call, a file
// that cannot be read, or one that ends early.
void stream_pieces(CUcontext context, CUstream stream, const foundry_buffer* buffers, uint32_t count,
                   uint32_t threads, const foundry_piece* pieces, uint64_t number);

}  // namespace foundry
