#include "stream.hpp"

#include <unistd.h>

#include <algorithm>
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

constexpr uint64_t SMALLEST =
    256 << 10;  // bytes of a part, where piece and buffer are not shorter themselves

std::string path_of(int file) {
    std::error_code unknown;
    return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file), unknown).string();
}

void read_part(const foundry_piece& part, char* to) {
    for (uint64_t done = 0; done < part.bytes;) {
        const ssize_t got =
            pread(part.file, to + done, part.bytes - done, static_cast<off_t>(part.offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            const std::string reason = std::strerror(errno);
            refuse("weights: " + path_of(part.file) + " cannot be read: " + reason);
        }
        if (got == 0)
            refuse("weights: " + path_of(part.file) + " ends at byte " + std::to_string(part.offset + done) +
                   "; it was cut off");
        done += static_cast<uint64_t>(got);
    }
}

// Cuts pieces into the parts that threads read, in order.
class Parts {
  public:
    Parts(const foundry_piece* pieces, uint64_t number, uint32_t threads)
        : next_(pieces), end_(pieces + number), threads_(threads) {
        for (uint64_t i = 0; i < number; ++i) left_ += pieces[i].bytes;
    }

    // The next part, of at most `limit` bytes; false where nothing is left. Parts are short at the beginning,
    // where nothing is copied before the first was read, and at the end, where all threads are to be done at
    // once.
    bool take(uint64_t limit, foundry_piece& part) {
        std::lock_guard lock(guard_);
        while (next_ != end_ && done_ == next_->bytes) ++next_, done_ = 0;
        if (next_ == end_) return false;
        const uint64_t share = std::min(taken_, left_) / threads_ / SMALLEST * SMALLEST;
        part = *next_;
        part.address += done_;
        part.offset += done_;
        part.bytes = std::min({next_->bytes - done_, limit, std::max(share, SMALLEST)});
        done_ += part.bytes;
        taken_ += part.bytes;
        left_ -= part.bytes;
        return true;
    }

  private:
    std::mutex guard_;
    const foundry_piece* next_;
    const foundry_piece* end_;
    uint32_t threads_;
    uint64_t done_ = 0;  // of the next piece
    uint64_t taken_ = 0, left_ = 0;
};

class Stream {
  public:
    Stream(CUcontext context, CUstream stream, const foundry_piece* pieces, uint64_t number, uint32_t threads)
        : context_(context), stream_(stream), parts_(pieces, number, threads) {}

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
            const foundry_buffer& buffer = buffers[turn % count];
            foundry_piece part;
            if (!parts_.take(buffer.bytes, part)) return;
            // An event that was never recorded counts as having happened.
            check(driver().cuEventSynchronize(buffer.event), "cuEventSynchronize");
            read_part(part, static_cast<char*>(buffer.memory));
            check(driver().cuMemcpyHtoDAsync(part.address, buffer.memory, part.bytes, stream_),
                  "cuMemcpyHtoDAsync");
            check(driver().cuEventRecord(buffer.event, stream_), "cuEventRecord");
        }
    }

    CUcontext context_;
    CUstream stream_;
    Parts parts_;
    std::atomic<bool> failed_{false};
    std::mutex guard_;
    int code_ = 0;
    std::string message_;
};

}  // namespace

void stream_pieces(CUcontext context, CUstream stream, const foundry_buffer* buffers, uint32_t count,
                   uint32_t threads, const foundry_piece* pieces, uint64_t number) {
    if (threads == 0 || count < threads) refuse("there are fewer buffers than threads");
    const uint32_t each = count / threads;
    Stream all(context, stream, pieces, number, threads);
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
