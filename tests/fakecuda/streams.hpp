// The stand-in's streams: work is done as late as the calls allow, when somebody waits for it. So a buffer
// that is changed or freed too early, or a result that is read too early, shows.
#pragma once

#include <cuda.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>

namespace streams {

struct Stream {
    std::deque<std::function<void()>> work;
    uint64_t done = 0;

    uint64_t queued() const { return done + work.size(); }
};
struct Event {
    Stream* stream = nullptr;
    uint64_t position = 0;  // of the stream, when the event was recorded
    // Of one with a time, when the work before it was done; the work that says so may outlive the event.
    std::shared_ptr<std::chrono::steady_clock::time_point> time;
};

inline Stream* stream_of(CUstream stream) { return reinterpret_cast<Stream*>(stream); }
inline Event* event_of(CUevent event) { return reinterpret_cast<Event*>(event); }

inline std::recursive_mutex guard;
inline std::set<Stream*> alive;
inline std::map<const char*, size_t> pinned;

inline void drain(Stream* stream, uint64_t until) {
    std::lock_guard lock(guard);
    while (alive.count(stream) != 0 && stream->done < until) {
        const auto next = std::move(stream->work.front());
        stream->work.pop_front();
        ++stream->done;
        next();
    }
}

inline void drain(Stream* stream) {
    std::lock_guard lock(guard);
    drain(stream, stream->queued());
}

inline void queue(Stream* stream, std::function<void()> work) {
    std::lock_guard lock(guard);
    stream->work.push_back(std::move(work));
}

inline Stream* make() {
    std::lock_guard lock(guard);
    return *alive.insert(new Stream).first;
}

inline void destroy(Stream* stream) {
    std::lock_guard lock(guard);
    alive.erase(stream);
    delete stream;
}

inline void record(Event* event, Stream* stream) {
    std::lock_guard lock(guard);
    if (event->time) queue(stream, [time = event->time] { *time = std::chrono::steady_clock::now(); });
    event->stream = stream;
    event->position = stream->queued();
}

inline void wait(Event event) { drain(event.stream, event.position); }

// Whether work is queued anywhere: no memory may be given back before it is done.
inline bool busy() {
    std::lock_guard lock(guard);
    for (const Stream* stream : alive)
        if (!stream->work.empty()) return true;
    return false;
}

// Copies from and to other memory are done, or their source kept, before the call returns.
inline bool is_pinned(const void* address) {
    std::lock_guard lock(guard);
    auto after = pinned.upper_bound(static_cast<const char*>(address));
    return after != pinned.begin() && static_cast<const char*>(address) < (--after)->first + after->second;
}

}  // namespace streams
