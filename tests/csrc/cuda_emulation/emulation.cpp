// Runs CUDA kernels on the CPU, for tests. A block's threads are fibers: each runs until it waits for others, then the
// next one does. Their order is ascending, descending or shuffled anew at every turn, so that a kernel whose result
// depends on it gives itself away. Errors a GPU would answer with silence or a hang are reported: threads that wait for
// each other at different places, lanes missing from a warp's exchange, memory outside of the tensors, device memory
// touched by the host.
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulation {

namespace {

// ---- memory ----

constexpr size_t page = 4096, arena_bytes = size_t{16} << 30;

// Device memory: every piece ends where a page ends, and the next page cannot be touched. No page can be touched by the
// host. Memory that was given back stays out of reach until the call is over.
class Arena {
 public:
  Arena()
      : base_(static_cast<char*>(
            mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (base_ == MAP_FAILED) throw std::runtime_error("no address space for the emulated device");
  }

  void* acquire(size_t bytes) {
    const size_t room = (bytes + page - 1) / page * page;
    if (used_ + room + page > arena_bytes) throw std::runtime_error("the emulated device is out of memory");
    char* begin = base_ + used_;
    used_ += room + page;
    pieces_.push_back({begin, room, begin + room - (bytes + 15) / 16 * 16});
    open(pieces_.back(), true);
    std::memset(begin, 0xFF, room);  // NaN, or -1
    open(pieces_.back(), kernel_runs_);
    return pieces_.back().data;
  }
  void release(void* data) {
    const auto piece = std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.data == data; });
    open(*piece, false);
    pieces_.erase(piece);
  }
  void release_all() {
    if (used_ > 0) {
      madvise(base_, used_, MADV_DONTNEED);
      mprotect(base_, used_, PROT_NONE);
    }
    pieces_.clear(), used_ = 0, kernel_runs_ = false;
  }
  void set_kernel_runs(bool runs) {
    kernel_runs_ = runs;
    for (const Piece& p : pieces_) open(p, runs);
  }
  bool kernel_runs() const { return kernel_runs_; }
  bool holds(const void* p) const { return p >= base_ && p < base_ + arena_bytes; }

 private:
  struct Piece {
    char* begin;
    size_t bytes;
    char* data;
  };
  static void open(const Piece& p, bool yes) {
    if (p.bytes > 0) mprotect(p.begin, p.bytes, yes ? PROT_READ | PROT_WRITE : PROT_NONE);
  }

  char* base_;
  size_t used_ = 0;
  bool kernel_runs_ = false;
  std::vector<Piece> pieces_;
};

Arena arena;

// This module's variables of storage class __shared__, by the rule of cuda_runtime.h: they are its thread-local ones.
struct Shared {
  char* data = nullptr;
  size_t bytes = 0;
};

Shared find_shared() {
  Shared found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        bool mine = false;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          const auto begin = reinterpret_cast<char*>(info->dlpi_addr + part.p_vaddr);
          const auto here = reinterpret_cast<char*>(&threadIdx);
          mine |= part.p_type == PT_LOAD && here >= begin && here < begin + part.p_memsz;
        }
        for (int i = 0; mine && i < info->dlpi_phnum; ++i)
          if (info->dlpi_phdr[i].p_type == PT_TLS)
            *static_cast<Shared*>(result) = {static_cast<char*>(info->dlpi_tls_data), info->dlpi_phdr[i].p_memsz};
        return mine ? 1 : 0;
      },
      &found);
  return found;
}

// The core keeps settings of the call in such variables too.
void forget_shared(int byte) {
  const int threads = recon::num_threads();
  const bool deterministic = recon::deterministic();
  const Shared shared = find_shared();
  if (shared.data) std::memset(shared.data, byte, shared.bytes);
  recon::set_num_threads(threads), recon::set_deterministic(deterministic);
}

// ---- threads ----

constexpr size_t stack_bytes = 256 << 10;

enum class State { ready, at_barrier, in_exchange, done };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  ucontext_t context;
  jmp_buf resume;
  bool started = false;
  State state = State::done;
  uint3 thread;
  int index;
  Place place;
  uint64_t value, result;
  Exchange what;
  unsigned mask;
  int source;
};

std::vector<std::unique_ptr<Fiber>> fibers;
int waiting[32];  // lanes of each warp that are in an exchange
Fiber* running;
jmp_buf scheduler;
const std::function<void()>* kernel;
std::string failure;
Votes votes;
uint64_t order = 0;
cudaError_t last_error = cudaSuccess;
int64_t barriers = 0;  // that blocks have passed in this call

void fiber_main() {
  while (true) {
    (*kernel)();
    running->state = State::done;
    if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
  }
}

void wait_for_others(State state, Place place) {
  Fiber* self = running;
  self->state = state, self->place = place;
  if (_setjmp(self->resume) == 0) _longjmp(scheduler, 1);
}

[[noreturn]] void fail(const std::string& what) {
  failure = what;
  _longjmp(scheduler, 1);
}

std::string text(const Place& place) { return std::string(place.file) + ":" + std::to_string(place.line); }

void run(Fiber* fiber) {
  running = fiber;
  threadIdx = fiber->thread;
  if (_setjmp(scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->resume, 1);
  fiber->started = true;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get(), fiber->context.uc_stack.ss_size = stack_bytes;
  makecontext(&fiber->context, &fiber_main, 0);
  setcontext(&fiber->context);
}

// Gives the lanes of the exchange their results, if all have come to it.
bool complete(int first_of_warp, int threads, unsigned mask) {
  if (waiting[first_of_warp / 32] < __builtin_popcount(mask)) return false;
  Fiber* lanes[32] = {};
  const Fiber* any = nullptr;
  unsigned ballot = 0;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    if (first_of_warp + i >= threads) throw std::runtime_error("a warp's exchange names lanes beyond the block");
    Fiber* f = fibers[first_of_warp + i].get();
    if (f->state != State::in_exchange || f->mask != mask) return false;
    lanes[i] = f;
    if (any && (f->what != any->what || f->place.line != any->place.line || f->place.file != any->place.file))
      throw std::runtime_error("lanes of one warp exchange at different places: " + text(f->place) + " and " +
                               text(any->place));
    any = f, ballot |= static_cast<unsigned>(f->value & 1u) << i;
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    Fiber* f = lanes[__builtin_ctz(rest)];
    f->state = State::ready;
    if (f->what == Exchange::ballot) f->result = ballot;
    if (f->what == Exchange::shuffle) {
      if (!lanes[f->source]) throw std::runtime_error(text(f->place) + ": shuffle from a lane that does not take part");
      f->result = lanes[f->source]->value;
    }
    if (f->what == Exchange::match) {
      f->result = 0;
      for (int j = 0; j < 32; ++j)
        if (lanes[j]) f->result |= static_cast<uint64_t>(lanes[j]->value == f->value) << j;
    }
  }
  waiting[first_of_warp / 32] -= __builtin_popcount(mask);
  return true;
}

// Opens the barrier if every thread that is not done waits at it.
bool open_barrier(int threads) {
  const Fiber* any = nullptr;
  votes = {0, 1, 0};
  for (int i = 0; i < threads; ++i) {
    const Fiber* f = fibers[i].get();
    if (f->state == State::done) continue;
    if (f->state != State::at_barrier) return false;
    if (any && (f->place.line != any->place.line || std::strcmp(f->place.file, any->place.file) != 0))
      throw std::runtime_error("threads of one block wait at different barriers: " + text(f->place) + " and " +
                               text(any->place));
    any = f;
    votes.any |= f->value != 0, votes.all &= f->value != 0, votes.count += f->value != 0;
  }
  if (!any) return false;
  ++barriers;
  for (int i = 0; i < threads; ++i)
    if (fibers[i]->state == State::at_barrier) fibers[i]->state = State::ready;
  return true;
}

void arrange(std::vector<int>& turn, std::mt19937_64& random) {
  if (order == 1) std::reverse(turn.begin(), turn.end());
  if (order >= 2) std::shuffle(turn.begin(), turn.end(), random);
}

void run_block(int threads, std::mt19937_64& random) {
  for (int i = 0; i < threads; ++i) {
    const auto t = static_cast<unsigned>(i);
    fibers[i]->thread = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    fibers[i]->state = State::ready, fibers[i]->index = i;
  }
  std::fill(std::begin(waiting), std::end(waiting), 0);
  std::vector<int> turn(threads);
  while (true) {
    std::iota(turn.begin(), turn.end(), 0);
    arrange(turn, random);
    bool moved = false;
    int done = 0;
    for (const int i : turn) {
      Fiber* f = fibers[i].get();
      if (f->state == State::ready) {
        run(f);
        if (!failure.empty()) throw std::runtime_error(failure);
        moved = true;
      }
      if (f->state == State::in_exchange) moved |= complete(i / 32 * 32, threads, f->mask);
      done += f->state == State::done;
    }
    if (done == threads) return;
    if (open_barrier(threads) || moved) continue;
    std::string where;
    for (int i = 0; i < threads; ++i)
      if (fibers[i]->state != State::done && where.find(text(fibers[i]->place)) == std::string::npos)
        where += " " + text(fibers[i]->place);
    throw std::runtime_error("threads wait for each other for ever, at" + where);
  }
}

void forget_fibers() { fibers.clear(); }

}  // namespace

Votes block_barrier(bool value, Place place) {
  running->value = value;
  wait_for_others(State::at_barrier, place);
  return votes;
}

uint64_t warp_exchange(Exchange what, unsigned mask, uint64_t value, int source, Place place) {
  Fiber* self = running;
  if (!(mask >> lane() & 1u)) fail(text(place) + ": a lane is not in the mask of its own exchange");
  self->what = what, self->mask = mask, self->value = value, self->source = source;
  ++waiting[self->index / 32];
  wait_for_others(State::in_exchange, place);
  return self->result;
}

cudaError_t run_grid(dim3 blocks, dim3 threads, const std::function<void()>& thread) {
  const uint64_t in_block = uint64_t{threads.x} * threads.y * threads.z;
  const uint64_t grid = uint64_t{blocks.x} * blocks.y * blocks.z;
  if (in_block == 0 || in_block > 1024 || grid == 0 || blocks.x > 0x7FFFFFFFu || blocks.y > 65535 || blocks.z > 65535)
    return last_error = cudaErrorInvalidConfiguration;
  while (fibers.size() < in_block) fibers.push_back(std::make_unique<Fiber>());
  gridDim = blocks, blockDim = threads, kernel = &thread;
  std::mt19937_64 random(order);
  std::vector<int> turn(grid);
  std::iota(turn.begin(), turn.end(), 0);
  arrange(turn, random);
  arena.set_kernel_runs(true);
  for (const int b : turn) {
    const auto i = static_cast<unsigned>(b);
    blockIdx = {i % blocks.x, i / blocks.x % blocks.y, i / blocks.x / blocks.y};
    forget_shared(order % 2 ? 0xFF : 0x7B);
    run_block(static_cast<int>(in_block), random);
  }
  arena.set_kernel_runs(false);
  return cudaSuccess;
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  arena.set_kernel_runs(true);
  std::memset(data, value, bytes);
  arena.set_kernel_runs(false);
  return cudaSuccess;
}

recon::Allocator recon::allocator = {
    [](int64_t bytes, const recon::Device& device, void** data) {
      if (!device.cuda) throw std::logic_error("scratch memory of the host asked for by a CUDA kernel's caller");
      return *data = arena.acquire(static_cast<size_t>(bytes));
    },
    [](void* owner) { arena.release(owner); }};

// ---- what Python calls (emulated_cuda.py) ----

namespace {

enum class Kind : int32_t { none, tensor, integer, real, boolean, word, integers };

struct Argument {
  Kind kind;
  int32_t dtype, ndim;
  int64_t integer, bytes;
  double real;
  void* data;
  const int64_t *shape, *stride;
  const char* word;
};

sigjmp_buf escape;
std::string message;

void on_fault(int signal, siginfo_t* info, void*) {
  if (!arena.kernel_runs() && !arena.holds(info->si_addr)) {
    ::signal(signal, SIG_DFL);
    return;
  }
  siglongjmp(escape, 1);
}

// Faults are caught on a stack of their own, during calls only.
class FaultHandler {
 public:
  FaultHandler() {
    stack_t mine = {};
    mine.ss_sp = stack_, mine.ss_size = sizeof(stack_);
    sigaltstack(&mine, &before_stack_);
    struct sigaction action = {};
    action.sa_sigaction = &on_fault, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &before_, nullptr);
    sigaltstack(&before_stack_, nullptr);
  }

 private:
  char stack_[64 << 10];
  stack_t before_stack_;
  struct sigaction before_;
};

void call(const recon::Op& op, const Argument* arguments, int n) {
  std::vector<recon::Arg> args(n);
  for (int i = 0; i < n; ++i) {
    const Argument& a = arguments[i];
    if (a.kind == Kind::tensor) {
      recon::Tensor t;
      t.data = arena.acquire(a.bytes), t.ndim = a.ndim, t.shape = a.shape, t.stride = a.stride;
      t.dtype = static_cast<recon::DType>(a.dtype), t.device.cuda = true;
      arena.set_kernel_runs(true);
      std::memcpy(t.data, a.data, a.bytes);
      arena.set_kernel_runs(false);
      args[i] = t;
    }
    if (a.kind == Kind::integer) args[i] = a.integer;
    if (a.kind == Kind::real) args[i] = a.real;
    if (a.kind == Kind::boolean) args[i] = a.integer != 0;
    if (a.kind == Kind::word) args[i] = recon::Word{a.word};
    if (a.kind == Kind::integers) args[i] = std::vector<int64_t>(a.shape, a.shape + a.integer);
  }
  recon::check(op, args.data());
  op.call(args.data());
  arena.set_kernel_runs(true);
  for (int i = 0; i < n; ++i)
    if (arguments[i].kind == Kind::tensor)
      std::memcpy(arguments[i].data, std::get<recon::Tensor>(args[i]).data, arguments[i].bytes);
}

}  // namespace

extern "C" {

// How many arguments the op takes, or -1 if there is none of that name.
int emulated_arity(const char* name) {
  for (const recon::Op& op : recon::registry())
    if (op.name == name) return static_cast<int>(op.params.size());
  return -1;
}

// How many barriers the blocks of the last call have passed: a measure of their work.
int64_t emulated_barriers() { return barriers; }

// Calls an op as if its tensors were on a GPU. Order 0 runs threads and blocks ascending, 1 descending, any other
// shuffled. Returns null, or what went wrong.
const char* emulated_call(const char* name, const Argument* arguments, int n, uint64_t thread_order,
                          bool deterministic) {
  const FaultHandler handler;
  failure.clear(), message.clear(), order = thread_order, barriers = 0;
  recon::set_num_threads(1), recon::set_deterministic(deterministic);
  if (sigsetjmp(escape, 1) == 0) {
    try {
      for (const recon::Op& op : recon::registry())
        if (op.name == name) call(op, arguments, n);
    } catch (const std::exception& e) {
      message = e.what(), forget_fibers();
    }
  } else {
    message = arena.kernel_runs() ? "a kernel touched memory outside of its tensors" : "the host touched device memory";
    forget_fibers();
  }
  arena.release_all();
  return message.empty() ? nullptr : message.c_str();
}
}
