#pragma once
// RECON_OP(f, "x: B N 3, idx: i64 B N, ..."): publish the C++ function f to Python under its own name.
//
// The string names every argument in order and says what it must be. It is what each call is checked against and what
// the error messages quote. Nothing else is needed for a new op: no header, no binding code, no CMake line.
//
//   x: B N 3            a floating tensor; a letter is a size that must agree wherever it appears, a digit is that size
//   idx: i64 B N        a tensor of that dtype (i32, i64, u8, b8)
//   lengths?: i64 B     may be None; the C++ parameter is std::optional<Tensor>
//   radius: real>=0     a number, optionally bounded (>, >=); real -> double, int -> int64_t, bool -> bool
//   mode: mean|sum      one of these words; the C++ parameter is int64_t, its position
//   sizes: ints         a list of integers -> std::vector<int64_t>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/tensor.h"

namespace recon {

struct Word {
  std::string text;
};

using Arg = std::variant<std::monostate, Tensor, int64_t, double, bool, Word, std::vector<int64_t>>;

struct Param {
  enum Kind { tensor, integer, real, boolean, word, integers };
  std::string name;
  Kind kind = tensor;
  bool optional = false;
  std::optional<DType> dtype;      // tensor: nothing means floating
  std::vector<std::string> shape;  // tensor
  std::optional<double> bound;     // integer, real: value must be above it ...
  bool bound_inclusive = false;    // ... or equal to it
  std::vector<std::string> words;  // word
};

struct Op {
  std::string name;
  std::vector<Param> params;
  void (*call)(const Arg* args);
};

std::vector<Op>& registry();

// Throws std::invalid_argument (ValueError) or WrongKind (TypeError) unless the arguments fit the op's signature;
// turns words into positions and integers into reals where the signature wants them.
void check(const Op& op, Arg* args);

struct WrongKind : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
struct Unpack {
  static T from(const Arg& a) { return std::get<T>(a); }
};
template <>
struct Unpack<std::optional<Tensor>> {
  static std::optional<Tensor> from(const Arg& a) {
    return std::holds_alternative<Tensor>(a) ? std::optional<Tensor>(std::get<Tensor>(a)) : std::nullopt;
  }
};

template <auto F>
struct Caller;
template <class... P, void (*F)(P...)>
struct Caller<F> {
  static void call(const Arg* a) { apply(a, std::index_sequence_for<P...>{}); }
  template <size_t... I>
  static void apply([[maybe_unused]] const Arg* a, std::index_sequence<I...>) {
    F(Unpack<std::decay_t<P>>::from(a[I])...);
  }
};

struct Register {
  Register(const char* name, const char* signature, void (*call)(const Arg*));
};

}  // namespace recon

#define RECON_OP(f, signature) static const ::recon::Register register_##f(#f, signature, &::recon::Caller<&f>::call)
