#include "zak/pool.hpp"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "zak/memory.hpp"

namespace foundry::zak {
namespace {

struct Job {
    void (*task)(const void*, float*, int);
    const void* context;
    int count;
    size_t floats;
    std::atomic<int> next{0};
    std::atomic<bool> is_out_of_memory{false};

    void work() {
        // Kept between calls: fresh pages would cost more than the work on them.
        static thread_local Memory memory;
        try {
            float* scratch = memory.grow(floats);
            for (int index; (index = next.fetch_add(1)) < count;) task(context, scratch, index);
        } catch (const std::bad_alloc&) {
            is_out_of_memory = true;
        }
    }
};

class Pool {
  public:
    std::mutex in_use;

    void run(Job& job, int helpers) {
        while (threads_ < helpers && start()) threads_++;
        {
            std::lock_guard<std::mutex> guard(mutex_);
            job_ = &job;
            wanted_ = helpers;
        }
        for (int i = 0; i < helpers && i < threads_; i++) begun_.notify_one();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;
        ended_.wait(lock, [this] { return inside_ == 0; });
    }

  private:
    bool start() {
        try {
            std::thread([this] { serve(); }).detach();
            return true;
        } catch (const std::system_error&) {
            return false;
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            begun_.wait(lock, [this] { return job_ && wanted_ > 0; });
            Job& job = *job_;
            wanted_--;
            inside_++;
            lock.unlock();
            job.work();
            lock.lock();
            if (--inside_ == 0) ended_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable begun_, ended_;
    Job* job_ = nullptr;
    int threads_ = 0, wanted_ = 0, inside_ = 0;
};

// The threads outlive every call, so the pool is never destroyed. A child of a fork has none of them.
Pool& pool() {
    static std::mutex mutex;
    static Pool* found = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> guard(mutex);
    if (!found || owner != getpid()) {
        found = new Pool;
        owner = getpid();
    }
    return *found;
}

}  // namespace

void run(int threads, int count, size_t floats, void (*task)(const void*, float*, int), const void* context) {
    Job job;
    job.task = task;
    job.context = context;
    job.count = count;
    job.floats = floats;
    const int helpers = (threads < count ? threads : count) - 1;
    if (helpers > 0) {
        Pool& shared = pool();
        std::unique_lock<std::mutex> mine(shared.in_use, std::try_to_lock);
        if (mine) {
            shared.run(job, helpers);
        } else {
            job.work();
        }
    } else {
        job.work();
    }
    if (job.is_out_of_memory) throw std::bad_alloc();
}

}  // namespace foundry::zak
