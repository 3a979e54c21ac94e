// Tests of csrc/core that need neither Python nor torch: the op registry with each kind of parameter, its wording of
// errors, the thread loops and scratch memory; and of the half-edges of meshes that are too large to test. Run by
// tests/csrc/test_core.py; exits with the number of failures.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "core/simd.h"
#include "ops/topology.cu"

namespace {

int failures = 0, live_allocations = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::cout << "FAILED: " << what << "\n";
}

void* acquire(int64_t bytes, const recon::Device&, void** data) {
  ++live_allocations;
  return *data = std::malloc(static_cast<size_t>(bytes));
}

void release(void* owner) {
  --live_allocations;
  std::free(owner);
}

}  // namespace

recon::Allocator recon::allocator = {&acquire, &release};

namespace recon {

// What the last call of `kinds` received.
struct Received {
  std::optional<Tensor> lengths;
  double radius;
  int64_t count, mode;
  bool flag;
  std::vector<int64_t> sizes;
} received;

void kinds(Tensor, Tensor, std::optional<Tensor> lengths, double radius, int64_t count, bool flag, int64_t mode,
           std::vector<int64_t> sizes) {
  received = {lengths, radius, count, mode, flag, sizes};
}
RECON_OP(kinds,
         "x: B N 3, idx: i64 B N, lengths?: i64 B, radius: real>=0, count: int>0, flag: bool, mode: mean|sum|none, "
         "sizes: ints");

}  // namespace recon

namespace {

using recon::Arg;
using recon::DType;
using recon::Tensor;
using recon::Word;

Tensor tensor(std::vector<int64_t> shape, DType dtype = DType::f32, bool cuda = false) {
  static std::vector<std::vector<int64_t>> shapes, strides;  // a Tensor only points to them
  shapes.reserve(1000), strides.reserve(1000);
  shapes.push_back(shape), strides.emplace_back(shape.size());
  int64_t step = 1;
  for (size_t d = shape.size(); d-- > 0;) strides.back()[d] = step, step *= shape[d];
  Tensor t;
  t.ndim = static_cast<int>(shape.size()), t.shape = shapes.back().data(), t.stride = strides.back().data();
  t.dtype = dtype, t.device.cuda = cuda;
  return t;
}

const recon::Op& op(const std::string& name) {
  for (const auto& candidate : recon::registry())
    if (candidate.name == name) return candidate;
  std::cout << "no op " << name << "\n";
  std::exit(100);
}

std::vector<Arg> good_arguments() {
  return {tensor({2, 5, 3}), tensor({2, 5}, DType::i64), std::monostate{}, int64_t{0}, int64_t{7}, true,
          Word{"sum"},       std::vector<int64_t>{4, 5}};
}

// The message of the error that replacing argument `i` by `bad` gives; the prefix is its kind.
std::string error_of(size_t i, Arg bad) {
  std::vector<Arg> args = good_arguments();
  args[i] = std::move(bad);
  try {
    recon::check(op("kinds"), args.data());
  } catch (const recon::WrongKind& e) {
    return std::string("TypeError ") + e.what();
  } catch (const std::invalid_argument& e) {
    return std::string("ValueError ") + e.what();
  }
  return "no error";
}

void expect_error(size_t i, Arg bad, const std::string& wanted) {
  const std::string got = error_of(i, std::move(bad));
  expect(got == wanted, "expected: " + wanted + "\n     got: " + got);
}

void test_good_arguments_arrive() {
  std::vector<Arg> args = good_arguments();
  recon::check(op("kinds"), args.data());
  op("kinds").call(args.data());
  const recon::Received& r = recon::received;
  expect(!r.lengths, "an absent optional tensor arrives as nullopt");
  expect(r.radius == 0 && r.count == 7 && r.flag, "scalars arrive, an int where a real is wanted too");
  expect(r.mode == 1, "a word arrives as its position");
  expect(r.sizes == std::vector<int64_t>({4, 5}), "a list arrives");
  args = good_arguments(), args[2] = tensor({2}, DType::i64);
  recon::check(op("kinds"), args.data());
  op("kinds").call(args.data());
  expect(r.lengths && r.lengths->shape[0] == 2, "a present optional tensor arrives");
}

void test_errors_say_what_was_expected() {
  expect_error(0, tensor({2, 5, 4}), "ValueError kinds: x must have shape (B, N, 3), got (2, 5, 4) (B=2, N=5)");
  expect_error(0, tensor({5, 3}), "ValueError kinds: x must have shape (B, N, 3), got (5, 3)");
  expect_error(0, tensor({2, 5, 3}, DType::i32), "ValueError kinds: x must be floating point, got int32 (B=2, N=5)");
  expect_error(0, std::monostate{}, "TypeError kinds: x must be a tensor of shape (B, N, 3), got None");
  expect_error(1, tensor({2, 6}, DType::i64), "ValueError kinds: idx must have shape (B, N), got (2, 6) (B=2, N=5)");
  expect_error(1, tensor({2, 5}, DType::i32), "ValueError kinds: idx must be int64, got int32 (B=2, N=5)");
  expect_error(1, tensor({2, 5}, DType::i64, true), "ValueError kinds: idx is on cuda:0 but x is on cpu (B=2, N=5)");
  expect_error(2, tensor({3}, DType::i64), "ValueError kinds: lengths must have shape (B), got (3) (B=2, N=5)");
  expect_error(2, 1.5, "TypeError kinds: lengths must be a tensor of shape (B), got a float");
  expect_error(3, -0.5, "ValueError kinds: radius must be >= 0, got -0.5 (B=2, N=5)");
  expect_error(3, std::nan(""), "ValueError kinds: radius must be >= 0, got nan (B=2, N=5)");
  expect_error(3, Word{"wide"}, "TypeError kinds: radius must be a number, got a string");
  expect_error(4, int64_t{0}, "ValueError kinds: count must be > 0, got 0 (B=2, N=5)");
  expect_error(4, 2.0, "TypeError kinds: count must be an int, got a float");
  expect_error(5, int64_t{1}, "TypeError kinds: flag must be a bool, got an int");
  expect_error(6, Word{"max"}, "ValueError kinds: mode must be one of 'mean', 'sum', 'none', got 'max' (B=2, N=5)");
  expect_error(6, false, "TypeError kinds: mode must be one of 'mean', 'sum', 'none', got a bool");
  expect_error(7, int64_t{3}, "TypeError kinds: sizes must be a list of ints, got an int");
}

void test_every_task_runs_once() {
  for (const int threads : {1, 2, 5}) {
    recon::set_num_threads(threads);
    std::vector<std::atomic<int>> runs(1000);
    std::atomic<bool> workers_in_range{true};
    recon::for_each_task(1000, [&](int64_t i, int worker) {
      ++runs[static_cast<size_t>(i)];
      if (worker < 0 || worker >= threads) workers_in_range = false;
    });
    bool once = true;
    for (const auto& r : runs) once = once && r == 1;
    expect(once && workers_in_range, "each of 1000 tasks runs once on " + std::to_string(threads) + " threads");
    int64_t covered = 0;
    std::atomic<int64_t> sum{0};
    recon::for_each_range(12345, 100, [&](int64_t begin, int64_t end) { sum += end - begin; });
    covered = sum;
    expect(covered == 12345, "ranges cover everything");
  }
}

void test_exceptions_reach_the_caller() {
  recon::set_num_threads(3);
  try {
    recon::for_each_task(100, [](int64_t i, int) {
      if (i == 42) throw std::runtime_error("task 42");
    });
    expect(false, "the exception of a task is rethrown");
  } catch (const std::runtime_error& e) {
    expect(std::string(e.what()) == "task 42", "the exception is the one thrown");
  }
}

void test_threads_after_fork() {
  recon::set_num_threads(2);
  std::atomic<int64_t> sum{0};
  recon::for_each_task(10, [&](int64_t i, int) { sum += i; });
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang becomes a failure
    std::atomic<int64_t> again{0};
    recon::for_each_task(10, [&](int64_t i, int) { again += i; });
    _exit(again == 45 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child computes on two threads");
}

void test_scratch_is_given_back() {
  {
    const recon::Scratch<double> scratch(10, recon::Device{});
    scratch[9] = 3;
    expect(scratch.size() == 10 && live_allocations == 1, "scratch holds what was asked for");
  }
  expect(live_allocations == 0, "scratch is released at the end of the scope");
}

void test_atomic_add() {
  recon::set_num_threads(4);
  double total = 0;
  recon::for_each_task(1000, [&](int64_t, int) { recon::atomic_add(&total, 1.0); });
  expect(total == 1000, "no addition is lost");
}

void test_simd_levels() {
  const std::string before = recon::simd_name(recon::simd_level());
  expect(recon::set_simd_level("baseline") && recon::simd_level() == recon::SimdLevel::baseline, "baseline is there");
  expect(!recon::set_simd_level("sse9"), "an unknown level is refused");
  expect(recon::set_simd_level(before), "the best level can be set again");
}

// Numbers that do not fit into half of a key are kept in full, which gives the same answer.
void test_wide_half_edges() {
  constexpr int64_t F = 600, K = 3 * F, V = 50;
  std::vector<int64_t> faces(K);
  uint64_t state = 1;
  for (int64_t& corner : faces) state = state * 6364136223846793005u + 1442695040888963407u, corner = (state >> 33) % V;
  std::vector<int64_t> found[2][5];
  int64_t edges[2];
  for (int wide = 0; wide < 2; ++wide) {
    for (auto& part : found[wide]) part.assign(2 * K, 0);
    const auto out = [&](int i) { return found[wide][i].data(); };
    if (wide)
      edges[1] = recon::HalfEdges<recon::WideEnd>{faces.data(), F, V, out(0), out(1), out(2), out(3), out(4)}.find();
    else
      edges[0] = recon::HalfEdges<recon::NarrowEnd>{faces.data(), F, V, out(0), out(1), out(2), out(3), out(4)}.find();
  }
  expect(edges[0] == edges[1] && edges[0] > V, "wide and narrow half-edges have as many edges");
  for (int i = 0; i < 5; ++i) expect(found[0][i] == found[1][i], "wide and narrow half-edges are the same");
}

}  // namespace

int main() {
  test_good_arguments_arrive();
  test_errors_say_what_was_expected();
  test_every_task_runs_once();
  test_exceptions_reach_the_caller();
  test_threads_after_fork();
  test_scratch_is_given_back();
  test_atomic_add();
  test_simd_levels();
  test_wide_half_edges();
  std::cout << (failures ? "" : "ok\n");
  return failures;
}
