#include "parallel.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace hollowbone {

namespace {

class Pool {
 public:
  // Only one call at a time has the workers.
  bool take() { return !taken_.exchange(true, std::memory_order_acquire); }
  void give_back() { taken_.store(false, std::memory_order_release); }

  // Part 0 and what the workers do not reach runs here.
  void run(int parts, const std::function<void(int)>& work) {
    grow(parts - 1);
    const int helped = parts - 1 < workers_ ? parts - 1 : workers_;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      next_ = 1;
      last_ = 1 + helped;
      pending_ = helped;
    }
    if (helped > 0) wake_.notify_all();
    work(0);
    for (int part = 1 + helped; part < parts; ++part) work(part);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
  }

  const pid_t owner = getpid();

 private:
  void grow(int workers) {
    try {
      for (; workers_ < workers; ++workers_) std::thread(&Pool::serve, this).detach();
    } catch (const std::system_error&) {
      // The system gives no further thread: the caller runs the parts that are left over.
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return next_ < last_; });
      const int part = next_++;
      const auto* work = work_;
      lock.unlock();
      (*work)(part);
      lock.lock();
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::atomic<bool> taken_{false};
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* work_ = nullptr;
  int workers_ = 0, next_ = 0, last_ = 0, pending_ = 0;
};

// Never destroyed: its threads may still wait in it when the process ends. A forked child has none of its parent's threads, and
// perhaps a locked mutex, so it starts a pool of its own; no lock here, since a fork could leave that locked too.
Pool& pool() {
  static std::atomic<Pool*> instance{nullptr};
  Pool* pool = instance.load();
  if (pool != nullptr && pool->owner == getpid()) return *pool;
  Pool* fresh = new Pool;
  if (instance.compare_exchange_strong(pool, fresh)) return *fresh;
  delete fresh;  // another thread was first; a pool without threads may be deleted
  return *pool;
}

}  // namespace

void parallel(int parts, const std::function<void(int)>& work) {
  if (parts > 1) {
    Pool& threads = pool();
    if (threads.take()) {
      threads.run(parts, work);
      threads.give_back();
      return;
    }
  }
  for (int part = 0; part < parts; ++part) work(part);
}

}  // namespace hollowbone
