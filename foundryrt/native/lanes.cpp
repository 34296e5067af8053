#include "lanes.hpp"

#include <algorithm>
#include <utility>

#include "heap.hpp"

namespace foundry {

Lanes::Lanes(uint32_t graphs, uint64_t nodes, Make make)
    : make_(std::move(make)), states_(graphs), preferred_(graphs) {
    queue_.reserve(graphs);
    for (size_t lane = COUNT; lane-- > 0;) free_.push_back(lane);
    threads_ = Threads(COUNT, [this, nodes](size_t) { run(nodes / COUNT); });
    if (threads_.size() == 0)
        refuse("the system gives no thread to make graphs; raise its limit (ulimit -u)");
}

void Lanes::stop() {
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
    threads_.join();
}

void Lanes::declare(uint32_t graph) {
    {
        std::lock_guard lock(mutex_);
        states_.at(graph) = State::queued;
        const auto other = [this](uint32_t queued) { return queued != first_ && !preferred_[queued]; };
        auto place = graph == first_ ? queue_.begin() : queue_.end();
        if (preferred_[graph]) place = std::find_if(queue_.begin(), queue_.end(), other);
        queue_.insert(place, graph);
    }
    changed_.notify_all();
}

void Lanes::start(uint32_t first) {
    {
        std::lock_guard lock(mutex_);
        if (started_) refuse("graphs are being made already");
        started_ = true;
        if (first < states_.size()) first_ = first;
        const auto place = std::find(queue_.begin(), queue_.end(), first);
        if (place != queue_.end()) std::rotate(queue_.begin(), place, place + 1);
    }
    changed_.notify_all();
}

void Lanes::abandon(const std::string& message) {
    std::lock_guard lock(mutex_);
    fail(Error(-1, message));
}

void Lanes::fail(const Error& failure) {
    if (!failure_) failure_ = failure;
    changed_.notify_all();
}

std::optional<Error> Lanes::make(uint32_t graph, std::unique_lock<std::mutex>& lock) {
    const size_t lane = free_.back();
    free_.pop_back();
    queue_.erase(std::find(queue_.begin(), queue_.end(), graph));
    states_[graph] = State::making;
    lock.unlock();
    std::optional<Error> failure = attempt([&] { make_(graph, lane); });
    lock.lock();
    free_.push_back(lane);
    if (failure) {
        states_[graph] = State::queued;
        queue_.insert(queue_.begin(), graph);
    } else {
        states_[graph] = State::ready;
        ++ready_;
    }
    changed_.notify_all();
    return failure;
}

void Lanes::prefer(uint32_t graph) {
    {
        std::lock_guard lock(mutex_);
        if (graph == first_) return;
        preferred_.at(graph) = true;
        const auto place = std::find(queue_.begin(), queue_.end(), graph);
        if (place == queue_.end()) return;
        std::rotate(queue_.begin() + (queue_.front() == first_), place, place + 1);
    }
    changed_.notify_all();
}

void Lanes::pause(bool paused) {
    {
        std::lock_guard lock(mutex_);
        paused_ = paused;
    }
    changed_.notify_all();
}

void Lanes::require(uint32_t graph) {
    std::unique_lock lock(mutex_);
    if (!started_) refuse("a graph was asked for before the start");
    const State& state = states_.at(graph);
    if (state == State::undeclared) refuse("a graph was asked for before it was declared");
    if (state == State::ready) return;
    ++callers_;
    changed_.wait(lock, [&] { return state == State::ready || (state == State::queued && !free_.empty()); });
    std::optional<Error> failure;
    if (state != State::ready) failure = make(graph, lock);
    --callers_;
    changed_.notify_all();
    if (failure) throw *failure;
}

bool Lanes::finished() const { return stopped_ || failure_ || ready_ == states_.size(); }

bool Lanes::next_may_begin() const {
    if (!started_ || callers_ > 0 || queue_.empty() || free_.empty()) return false;
    if (paused_ && !preferred_[queue_.front()]) return false;
    return !first_ || queue_.front() == first_ || states_[*first_] == State::ready;
}

void Lanes::run(uint64_t nodes) {
    const HeapPrefault heap(nodes, touch_);
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return finished() || next_may_begin(); });
        if (finished()) return;
        if (const auto failure = make(queue_.front(), lock)) fail(*failure);
    }
}

uint32_t Lanes::ready() {
    std::lock_guard lock(mutex_);
    return ready_;
}

bool Lanes::ready(uint32_t graph) {
    std::lock_guard lock(mutex_);
    return states_.at(graph) == State::ready;
}

uint32_t Lanes::wait(uint32_t count, std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return failure_ || ready_ >= count; });
    if (failure_) throw *failure_;
    return ready_;
}

}  // namespace foundry
