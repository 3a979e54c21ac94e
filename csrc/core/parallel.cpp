#include "core/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace recon {

namespace {

thread_local int threads_of_this_call = 1;
thread_local bool deterministic_call = false;
std::atomic<bool> forked{false};

// Watches from the moment the library is loaded: torch may use its pool, and fork, before the first call here.
[[maybe_unused]] const int watching_forks = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// The OpenMP runtime that torch has loaded, if any: using its pool means no second pool competes for the cores.
// Found by name at run time, so that nothing is linked and nothing is loaded twice.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

GompParallel torch_openmp() {
  static const auto found = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

struct Job {
  int64_t n;
  const std::function<void(int64_t, int)>* task;
  std::atomic<int64_t> next{0};
  std::atomic<int> workers{0};
  std::mutex mutex;
  std::exception_ptr error;

  void work() {
    const int worker = workers++;
    try {
      for (int64_t i = next++; i < n; i = next++) (*task)(i, worker);
    } catch (...) {
      next = n;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
};

}  // namespace

int num_threads() { return threads_of_this_call; }
void set_num_threads(int n) { threads_of_this_call = std::max(n, 1); }
bool deterministic() { return deterministic_call; }
void set_deterministic(bool on) { deterministic_call = on; }

void for_each_task(int64_t n, const std::function<void(int64_t, int)>& task, int64_t cost) {
  constexpr int64_t worth_a_thread = 20000;
  const int threads = static_cast<int>(std::min({int64_t{num_threads()}, n, 1 + cost / worth_a_thread}));
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) task(i, 0);
    return;
  }
  Job job;
  job.n = n, job.task = &task;
  const GompParallel openmp = torch_openmp();
  // A forked child must not touch the parent's OpenMP pool, whose threads it does not have.
  if (openmp && !forked) {
    openmp([](void* p) { static_cast<Job*>(p)->work(); }, &job, static_cast<unsigned>(threads), 0);
  } else {
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back([&] { job.work(); });
    job.work();
    for (auto& t : others) t.join();
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace recon
