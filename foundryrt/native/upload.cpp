#include "upload.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>

#include "driver.hpp"
#include "threads.hpp"

namespace foundry {
namespace {

// Bytes of a chunk, where neither range nor buffer is shorter.
constexpr uint64_t SMALLEST = 256 << 10;

std::string path_of(int file) {
    char path[PATH_MAX];
    const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(file)).c_str(), path, sizeof(path));
    return std::string(path, length < 0 ? 0 : static_cast<size_t>(length));
}

// What of a range is copied at once: bytes [begin, begin + bytes) of its rows, one behind the other.
struct Chunk {
    const foundry_file_range* range;
    uint64_t begin, bytes;
};

void read(int file, uint64_t offset, uint64_t bytes, char* to) {
    for (uint64_t done = 0; done < bytes;) {
        const ssize_t got = pread(file, to + done, bytes - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            const std::string reason = std::strerror(errno);
            refuse("weights: " + path_of(file) + " cannot be read: " + reason);
        }
        if (got == 0)
            refuse("weights: " + path_of(file) + " ends at byte " + std::to_string(offset + done) +
                   "; it was cut off");
        done += static_cast<uint64_t>(got);
    }
}

void read(const Chunk& chunk, char* to) {
    const foundry_file_range& range = *chunk.range;
    const uint64_t end = chunk.begin + chunk.bytes;
    if (range.rows > 1) {
        // Rows that lie apart look random to the system, which would read each by itself.
        const uint64_t first = chunk.begin / range.width, last = (end - 1) / range.width;
        posix_fadvise(range.file, static_cast<off_t>(range.offset + first * range.pitch),
                      static_cast<off_t>((last - first) * range.pitch + range.width), POSIX_FADV_WILLNEED);
    }
    for (uint64_t at = chunk.begin; at < end;) {
        const uint64_t row = at / range.width, column = at % range.width;
        const uint64_t bytes = std::min(range.width - column, end - at);
        read(range.file, range.offset + row * range.pitch + column, bytes, to);
        at += bytes;
        to += bytes;
    }
}

// Cuts ranges into the chunks that threads read, in order.
class Chunks {
  public:
    Chunks(const foundry_file_range* ranges, uint64_t number, uint32_t threads)
        : next_(ranges), end_(ranges + number), threads_(threads) {
        for (uint64_t i = 0; i < number; ++i) left_ += bytes(ranges[i]);
    }

    // The next chunk, of at most `limit` bytes; nothing at the end. Chunks are short at the beginning, where
    // nothing is copied before the first was read, and at the end, where all threads should finish together.
    std::optional<Chunk> take(uint64_t limit) {
        std::lock_guard lock(mutex_);
        while (next_ != end_ && done_ == bytes(*next_)) ++next_, done_ = 0;
        if (next_ == end_) return std::nullopt;
        const uint64_t share = std::min(taken_, left_) / threads_ / SMALLEST * SMALLEST;
        const uint64_t most = std::min(limit, std::max(share, SMALLEST));
        const Chunk chunk{next_, done_, std::min(bytes(*next_) - done_, most)};
        done_ += chunk.bytes;
        taken_ += chunk.bytes;
        left_ -= chunk.bytes;
        return chunk;
    }

  private:
    static uint64_t bytes(const foundry_file_range& range) { return range.width * range.rows; }

    std::mutex mutex_;
    const foundry_file_range* next_;
    const foundry_file_range* end_;
    const uint32_t threads_;
    uint64_t done_ = 0;  // bytes of the next range
    uint64_t taken_ = 0, left_ = 0;
};

class Upload {
  public:
    Upload(CUcontext context, CUstream stream, const foundry_file_range* ranges, uint64_t number,
           uint32_t threads)
        : context_(context), stream_(stream), chunks_(ranges, number, threads) {}

    // Reads and copies until nothing is left or something fails, on the calling thread.
    void work(const foundry_staging_buffer* buffers, uint32_t count) {
        const std::optional<Error> failure = attempt([&] { move(buffers, count); });
        if (!failure) return;
        std::lock_guard lock(mutex_);
        if (!failure_) failure_ = failure;
        failed_ = true;
    }

    // Once all threads have ended.
    void finish() const {
        if (failure_) throw *failure_;
    }

  private:
    void move(const foundry_staging_buffer* buffers, uint32_t count) {
        check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
        for (uint64_t turn = 0; !failed_; ++turn) {
            const foundry_staging_buffer& buffer = buffers[turn % count];
            const auto chunk = chunks_.take(buffer.bytes);
            if (!chunk) return;
            // An event that was never recorded counts as having happened.
            check(driver().cuEventSynchronize(buffer.event), "cuEventSynchronize");
            read(*chunk, static_cast<char*>(buffer.memory));
            check(driver().cuMemcpyHtoDAsync(chunk->range->address + chunk->begin, buffer.memory,
                                             chunk->bytes, stream_),
                  "cuMemcpyHtoDAsync");
            check(driver().cuEventRecord(buffer.event, stream_), "cuEventRecord");
        }
    }

    const CUcontext context_;
    const CUstream stream_;
    Chunks chunks_;
    std::atomic<bool> failed_{false};
    std::mutex mutex_;
    std::optional<Error> failure_;
};

}  // namespace

void upload(CUcontext context, CUstream stream, const foundry_staging_buffer* buffers, uint32_t count,
            uint32_t threads, const foundry_file_range* ranges, uint64_t number) {
    if (threads == 0 || count < threads) refuse("there are fewer staging buffers than threads");
    const uint32_t each = count / threads;
    Upload all(context, stream, ranges, number, threads);
    {
        // Where the system gives fewer threads, those that there are read everything.
        const Threads others(threads - 1,
                             [&](size_t index) { all.work(buffers + (index + 1) * each, each); });
        all.work(buffers, each);
    }
    all.finish();
}

}  // namespace foundry
