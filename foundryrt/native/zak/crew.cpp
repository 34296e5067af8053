#include "zak/crew.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace foundry::zak {
namespace {

using Clock = std::chrono::steady_clock;
// Pieces of a radio's samples come every tenth of a millisecond.
constexpr auto LINGER = std::chrono::microseconds(300);
// Looks between two of which a thread lets others run.
constexpr int LOOKS = 64;

// What shares a core with this thread has it for so long.
void pause() {
#ifdef __x86_64__
    for (int i = 0; i < 4; i++) __builtin_ia32_pause();
#endif
}

struct Job {
    void (*task)(void*, int);
    void* context;
    int count;
    std::atomic<int> next{0};

    void work() {
        for (int index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, index);
    }
};

class Helper {
  public:
    Helper() : thread_([this] { serve(); }) { thread_.detach(); }

    void offer(Job& job) {
        offered_ = &job;
        if (!sleeps_) return;
        {
            std::lock_guard<std::mutex> guard(mutex_);
        }
        offered_anew_.notify_one();
    }

    // Returns once this thread does not work on the job, and will not.
    void withdraw(Job& job) {
        Job* own = &job;
        if (offered_.compare_exchange_strong(own, nullptr)) return;
        for (int looks = 1; working_; looks++) {
            if (looks % LOOKS) pause();
            else std::this_thread::yield();
        }
    }

  private:
    void serve() {
        for (;;) {
            wait();
            working_ = true;
            // It may have been withdrawn.
            if (Job* job = offered_.exchange(nullptr)) job->work();
            working_ = false;
        }
    }

    void wait() {
        const auto end = Clock::now() + LINGER;
        for (int looks = 1; !offered_; looks++) {
            if (looks % LOOKS) {
                pause();
            } else if (Clock::now() < end) {
                std::this_thread::yield();
            } else {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeps_ = true;
                offered_anew_.wait(lock, [this] { return offered_ != nullptr; });
                sleeps_ = false;
            }
        }
    }

    // One of the two sees the other: an offer is stored before `sleeps_` is read, which is stored before the
    // offer is read. Likewise `working_` and a withdrawal.
    std::atomic<Job*> offered_{nullptr};
    std::atomic<bool> sleeps_{false}, working_{false};
    std::mutex mutex_;
    std::condition_variable offered_anew_;
    std::thread thread_;
};

struct Crew {
    std::mutex in_use;
    std::deque<Helper> helpers;

    void run(Job& job, int wanted) {
        try {
            while (int(helpers.size()) < wanted) helpers.emplace_back();
        } catch (const std::system_error&) {
            wanted = int(helpers.size());
        }
        for (int i = 0; i < wanted; i++) helpers[i].offer(job);
        job.work();
        for (int i = 0; i < wanted; i++) helpers[i].withdraw(job);
    }
};

// As the pool of pool.cpp.
Crew& crew() {
    static std::mutex mutex;
    static Crew* found = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> guard(mutex);
    if (!found || owner != getpid()) {
        found = new Crew;
        owner = getpid();
    }
    return *found;
}

}  // namespace

void share(int threads, int count, void (*task)(void*, int), void* context) {
    Job job{task, context, count};
    const int wanted = (threads < count ? threads : count) - 1;
    if (wanted <= 0) return job.work();
    Crew& shared = crew();
    std::unique_lock<std::mutex> mine(shared.in_use, std::try_to_lock);
    if (mine) shared.run(job, wanted);
    else job.work();
}

}  // namespace foundry::zak
