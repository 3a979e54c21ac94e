#include "core/op.h"

#include <cctype>
#include <sstream>

namespace recon {

namespace {

std::string join(const std::vector<std::string>& words, const char* separator) {
  std::string s;
  for (const auto& w : words) s += (s.empty() ? "" : separator) + w;
  return s;
}

std::string shape_text(const std::vector<std::string>& sizes) { return "(" + join(sizes, ", ") + ")"; }

std::string shape_text(const Tensor& t) {
  std::vector<std::string> sizes;
  for (int d = 0; d < t.ndim; ++d) sizes.push_back(std::to_string(t.shape[d]));
  return shape_text(sizes);
}

std::string device_text(const Device& d) { return d.cuda ? "cuda:" + std::to_string(d.index) : "cpu"; }

std::string number_text(double v) {
  std::ostringstream s;
  s << v;
  return s.str();
}

const char* kind_text(const Arg& a) {
  constexpr const char* names[] = {"None", "a tensor", "an int", "a float", "a bool", "a string", "a list of ints"};
  return names[a.index()];
}

std::string wanted_text(const Param& p) {
  switch (p.kind) {
    case Param::tensor:
      return std::string("a tensor of shape ") + shape_text(p.shape);
    case Param::integer:
      return "an int";
    case Param::real:
      return "a number";
    case Param::boolean:
      return "a bool";
    case Param::word:
      return "one of '" + join(p.words, "', '") + "'";
    default:
      return "a list of ints";
  }
}

Param parse(const std::string& text) {
  Param p;
  std::stringstream words(text);
  std::getline(words >> std::ws, p.name, ':');
  if (p.name.back() == '?') p.optional = true, p.name.pop_back();
  std::vector<std::string> rest;
  for (std::string w; words >> w;) rest.push_back(w);
  const std::string first = rest.empty() ? "" : rest[0];
  const std::string scalar = first.substr(0, first.find('>'));
  if (scalar == "real" || scalar == "int") {
    p.kind = scalar == "real" ? Param::real : Param::integer;
    if (scalar != first) {
      p.bound_inclusive = first[scalar.size() + 1] == '=';
      p.bound = std::stod(first.substr(scalar.size() + (p.bound_inclusive ? 2 : 1)));
    }
  } else if (first == "bool") {
    p.kind = Param::boolean;
  } else if (first == "ints") {
    p.kind = Param::integers;
  } else if (first.find('|') != std::string::npos) {
    p.kind = Param::word;
    std::stringstream choices(first);
    for (std::string w; std::getline(choices, w, '|');) p.words.push_back(w);
  } else {
    constexpr std::pair<const char*, DType> dtypes[] = {
        {"i32", DType::i32}, {"i64", DType::i64}, {"u8", DType::u8}, {"b8", DType::b8}};
    for (const auto& [word, dtype] : dtypes)
      if (first == word) p.dtype = dtype, rest.erase(rest.begin());
    p.shape = rest;
  }
  return p;
}

// Sizes seen so far, by the letter that names them, and the words for an error.
class Checker {
 public:
  explicit Checker(const Op& op) : op_(op) {}

  void check(const Param& p, Arg& a) {
    if (p.optional && std::holds_alternative<std::monostate>(a)) return;
    switch (p.kind) {
      case Param::tensor:
        return check_tensor(p, a);
      case Param::real:
        if (const auto* i = std::get_if<int64_t>(&a)) a = static_cast<double>(*i);
        require<double>(p, a);
        return check_bound(p, std::get<double>(a));
      case Param::integer:
        require<int64_t>(p, a);
        return check_bound(p, static_cast<double>(std::get<int64_t>(a)));
      case Param::boolean:
        return require<bool>(p, a);
      case Param::integers:
        return require<std::vector<int64_t>>(p, a);
      case Param::word:
        return check_word(p, a);
    }
  }

 private:
  template <class T>
  void require(const Param& p, const Arg& a) const {
    if (!std::holds_alternative<T>(a))
      throw WrongKind(op_.name + ": " + p.name + " must be " + wanted_text(p) + ", got " + kind_text(a));
  }

  [[noreturn]] void fail(const std::string& what) const {
    std::string where;
    for (const auto& [name, n] : sizes_) where += (where.empty() ? " (" : ", ") + *name + "=" + std::to_string(n);
    throw std::invalid_argument(op_.name + ": " + what + (where.empty() ? "" : where + ")"));
  }

  void check_bound(const Param& p, double v) const {
    if (p.bound && !(p.bound_inclusive ? v >= *p.bound : v > *p.bound))
      fail(p.name + " must be " + (p.bound_inclusive ? ">= " : "> ") + number_text(*p.bound) + ", got " +
           number_text(v));
  }

  void check_word(const Param& p, Arg& a) const {
    require<Word>(p, a);
    for (size_t i = 0; i < p.words.size(); ++i)
      if (p.words[i] == std::get<Word>(a).text) {
        a = static_cast<int64_t>(i);
        return;
      }
    fail(p.name + " must be " + wanted_text(p) + ", got '" + std::get<Word>(a).text + "'");
  }

  void check_tensor(const Param& p, const Arg& a) {
    require<Tensor>(p, a);
    const Tensor& t = std::get<Tensor>(a);
    bool ok = t.ndim == static_cast<int>(p.shape.size());
    for (int d = 0; ok && d < t.ndim; ++d) {
      const std::string& s = p.shape[d];
      int64_t want = std::isdigit(static_cast<unsigned char>(s[0])) ? s[0] - '0' : -1;
      for (const auto& [name, n] : sizes_)
        if (*name == s) want = n;
      if (want < 0)
        sizes_.emplace_back(&s, t.shape[d]);
      else
        ok = want == t.shape[d];
    }
    if (!ok) fail(p.name + " must have shape " + shape_text(p.shape) + ", got " + shape_text(t));
    if (p.dtype ? t.dtype != *p.dtype : !is_float(t.dtype))
      fail(p.name + " must be " + (p.dtype ? dtype_name(*p.dtype) : "floating point") + ", got " + dtype_name(t.dtype));
    if (!first_) first_ = &t, first_name_ = &p.name;
    if (t.device.cuda != first_->device.cuda || t.device.index != first_->device.index)
      fail(p.name + " is on " + device_text(t.device) + " but " + *first_name_ + " is on " +
           device_text(first_->device));
    if (!p.dtype) {
      if (!first_float_) first_float_ = &t, first_float_name_ = &p.name;
      if (t.dtype != first_float_->dtype)
        fail(p.name + " is " + dtype_name(t.dtype) + " but " + *first_float_name_ + " is " +
             dtype_name(first_float_->dtype));
    }
  }

  const Op& op_;
  std::vector<std::pair<const std::string*, int64_t>> sizes_;
  const Tensor *first_ = nullptr, *first_float_ = nullptr;
  const std::string *first_name_ = nullptr, *first_float_name_ = nullptr;
};

}  // namespace

std::vector<Op>& registry() {
  static std::vector<Op> ops;
  return ops;
}

void check(const Op& op, Arg* args) {
  Checker checker(op);
  for (size_t i = 0; i < op.params.size(); ++i) checker.check(op.params[i], args[i]);
}

Register::Register(const char* name, const char* signature, void (*call)(const Arg*)) {
  Op op{name, {}, call};
  std::stringstream params(signature);
  for (std::string param; std::getline(params, param, ',');) op.params.push_back(parse(param));
  registry().push_back(op);
}

}  // namespace recon
