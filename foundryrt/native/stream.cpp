#include "stream.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "driver.hpp"

namespace foundry {
namespace {

std::string path_of(int file) {
    std::error_code unknown;
    return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file), unknown).string();
}

void read_piece(const foundry_piece& piece, char* to) {
    for (uint64_t done = 0; done < piece.bytes;) {
        const ssize_t got = pread(piece.file, to + done, piece.bytes - done, static_cast<off_t>(piece.offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            const std::string reason = std::strerror(errno);
            refuse("weights: " + path_of(piece.file) + " cannot be read: " + reason);
        }
        if (got == 0)
            refuse("weights: " + path_of(piece.file) + " ends at byte " + std::to_string(piece.offset + done) +
                   "; it was cut off");
        done += static_cast<uint64_t>(got);
    }
}

class Stream {
public:
    Stream(CUcontext context, CUstream stream, const foundry_piece* pieces, uint64_t number)
        : context_(context), stream_(stream), pieces_(pieces), number_(number) {}

    void work(const foundry_buffer* buffers, uint32_t count) {
        const int code = guarded([&] { move(buffers, count); });
        if (code == 0) return;
        std::lock_guard lock(guard_);
        if (code_ == 0) code_ = code, message_ = last_error();
        failed_ = true;
    }

    void finish() const {
        if (code_ != 0) throw Error(code_, message_);
    }

private:
    void move(const foundry_buffer* buffers, uint32_t count) {
        check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
        for (uint64_t turn = 0; !failed_; ++turn) {
            const uint64_t index = next_++;
            if (index >= number_) return;
            const foundry_piece& piece = pieces_[index];
            const foundry_buffer& buffer = buffers[turn % count];
            // An event that was never recorded counts as having happened.
            check(driver().cuEventSynchronize(buffer.event), "cuEventSynchronize");
            read_piece(piece, static_cast<char*>(buffer.memory));
            check(driver().cuMemcpyHtoDAsync(piece.address, buffer.memory, piece.bytes, stream_), "cuMemcpyHtoDAsync");
            check(driver().cuEventRecord(buffer.event, stream_), "cuEventRecord");
        }
    }

    CUcontext context_;
    CUstream stream_;
    const foundry_piece* pieces_;
    uint64_t number_;
    std::atomic<uint64_t> next_{0};
    std::atomic<bool> failed_{false};
    std::mutex guard_;
    int code_ = 0;
    std::string message_;
};

}  // namespace

void stream_pieces(CUcontext context, CUstream stream, const foundry_buffer* buffers, uint32_t count, uint32_t threads,
                   const foundry_piece* pieces, uint64_t number) {
    if (threads == 0 || count < threads) refuse("there are fewer buffers than threads");
    const uint32_t each = count / threads;
    Stream all(context, stream, pieces, number);
    std::vector<std::thread> pool;
    pool.reserve(threads);
    try {
        for (uint32_t i = 1; i < threads; ++i)
            pool.emplace_back([&all, buffers, each, i] { all.work(buffers + i * each, each); });
    } catch (const std::system_error&) {
        // The system gives no more threads: those that there are read everything.
    }
    all.work(buffers, each);
    for (std::thread& thread : pool) thread.join();
    all.finish();
}

}  // namespace foundry
