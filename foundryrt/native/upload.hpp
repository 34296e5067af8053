// Ranges of files to the device through staging buffers, on threads that need no interpreter.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace foundry {

extern "C" struct foundry_file_range {
    uint64_t address;  // on the device, where rows lie one behind the other
    uint64_t offset;   // in the file
    uint64_t width;    // bytes of a row, any number: what is copied at once is cut from all rows
    uint64_t rows;
    uint64_t pitch;  // bytes from row to row in the file; of no meaning where there is one
    int32_t file;    // descriptor
    int32_t spare;
};

extern "C" struct foundry_staging_buffer {
    void* memory;    // pinned
    uint64_t bytes;  // at least one
    CUevent event;   // recorded after the buffer's last copy
};

// Returns once every range was read and its copies are queued on `stream`, each of at most a buffer. Every
// thread uses `count / threads` buffers in turn. Throws Error for a driver call that fails, and for a file
// that cannot be read or ends early.
void upload(CUcontext context, CUstream stream, const foundry_staging_buffer* buffers, uint32_t count,
            uint32_t threads, const foundry_file_range* ranges, uint64_t number);

}  // namespace foundry
