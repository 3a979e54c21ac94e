// The Python binding: turns torch tensors into recon::Tensor and calls the registered ops. The only file that knows
// Python. It links no torch: tensor metadata and the current stream come through DLPack's C exchange API where torch
// has it (torch >= 2.10), through the tensor's attributes otherwise.
#include <pybind11/pybind11.h>

#include <cstring>

#include "core/dlpack.h"
#include "core/op.h"
#include "core/pages.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace py = pybind11;

namespace {

constexpr size_t max_args = 40;
constexpr int max_dims = 8;

const DLPackExchangeAPI* exchange = nullptr;
struct Torch {
  PyTypeObject* tensor_type;
  py::handle get_num_threads, deterministic, empty, uint8, device, current_stream;
  py::handle dtypes[8];
} torch;

// Room for one tensor's shape and strides, whichever way they are read.
struct Metadata {
  DLTensor dl;
  int64_t shape[max_dims], stride[max_dims];
};

recon::DType to_dtype(DLDataType t) {
  constexpr std::pair<int, recon::DType> known[] = {
      {2 * 256 + 32, recon::DType::f32},  {2 * 256 + 64, recon::DType::f64}, {2 * 256 + 16, recon::DType::f16},
      {4 * 256 + 16, recon::DType::bf16}, {0 * 256 + 32, recon::DType::i32}, {0 * 256 + 64, recon::DType::i64},
      {1 * 256 + 8, recon::DType::u8},    {6 * 256 + 8, recon::DType::b8}};
  for (const auto& [bits, dtype] : known)
    if (bits == t.code * 256 + t.bits) return dtype;
  throw py::type_error("unsupported dtype: expected float32, float64, int32, int64, uint8 or bool");
}

bool on_known_device(PyObject* o) {
  const py::handle h(o);
  return h.attr("is_cpu").cast<bool>() || h.attr("is_cuda").cast<bool>();
}

// Memory of another kind of device must not reach the kernels.
[[noreturn]] void refuse_device(PyObject* o) {
  throw py::value_error("tensors must be on the CPU or on a CUDA GPU, got one on " +
                        py::str(py::handle(o).attr("device")).cast<std::string>());
}

recon::Tensor tensor_by_exchange(PyObject* o, Metadata& m) {
  if (exchange->dltensor_from_py_object_no_sync(o, &m.dl) != 0) {
    py::error_already_set torch_says;
    if (!on_known_device(o)) refuse_device(o);
    throw torch_says;
  }
  recon::Tensor t;
  t.data = static_cast<char*>(m.dl.data) + m.dl.byte_offset;
  t.ndim = m.dl.ndim, t.shape = m.dl.shape, t.stride = m.dl.strides, t.dtype = to_dtype(m.dl.dtype);
  constexpr int cpu = 1, cuda = 2, pinned_for_cuda = 3;
  const int type = m.dl.device.device_type;
  if (type != cpu && type != cuda && type != pinned_for_cuda) refuse_device(o);
  t.device.cuda = type == cuda, t.device.index = type == cuda ? m.dl.device.device_id : 0;
  if (t.device.cuda) exchange->current_work_stream(cuda, m.dl.device.device_id, &t.device.stream);
  return t;
}

recon::Tensor tensor_by_attributes(PyObject* o, Metadata& m) {
  const py::handle h(o);
  recon::Tensor t;
  const py::tuple shape = h.attr("shape"), stride = h.attr("stride")();
  t.ndim = static_cast<int>(shape.size());
  if (t.ndim > max_dims) throw py::value_error("tensors have at most 8 dimensions");
  for (int d = 0; d < t.ndim; ++d) m.shape[d] = shape[d].cast<int64_t>(), m.stride[d] = stride[d].cast<int64_t>();
  t.shape = m.shape, t.stride = m.stride;
  t.data = reinterpret_cast<void*>(h.attr("data_ptr")().cast<uintptr_t>());
  const py::object dtype = h.attr("dtype");
  int d = 0;
  while (d < 8 && !dtype.is(torch.dtypes[d])) ++d;
  if (d == 8) throw py::type_error("unsupported dtype: expected float32, float64, int32, int64, uint8 or bool");
  t.dtype = static_cast<recon::DType>(d);
  t.device.cuda = h.attr("is_cuda").cast<bool>();
  if (!on_known_device(o)) refuse_device(o);
  if (t.device.cuda) {
    t.device.index = h.attr("get_device")().cast<int>();
    t.device.stream =
        reinterpret_cast<void*>(torch.current_stream(t.device.index).attr("cuda_stream").cast<uintptr_t>());
  }
  return t;
}

recon::Arg to_arg(PyObject* o, Metadata& m) {
  if (PyObject_TypeCheck(o, torch.tensor_type)) {
    const recon::Tensor t = exchange ? tensor_by_exchange(o, m) : tensor_by_attributes(o, m);
    if (!t.data && t.numel() > 0) throw py::value_error("tensors must have memory, got a fake or wrapped one");
    return t;
  }
  if (o == Py_None) return std::monostate{};
  if (PyBool_Check(o)) return o == Py_True;
  if (PyLong_Check(o)) {
    const int64_t v = PyLong_AsLongLong(o);
    if (v == -1 && PyErr_Occurred()) throw py::error_already_set();
    return v;
  }
  if (PyFloat_Check(o)) return PyFloat_AsDouble(o);
  if (PyUnicode_Check(o)) return recon::Word{py::handle(o).cast<std::string>()};
  if (PyList_Check(o) || PyTuple_Check(o)) {
    std::vector<int64_t> list;
    for (const py::handle item : py::reinterpret_borrow<py::sequence>(o)) list.push_back(item.cast<int64_t>());
    return list;
  }
  // A number of numpy knows which of Python's it is.
  const py::handle number(o);
  if (py::hasattr(number, "item") && py::hasattr(number, "ndim") && number.attr("ndim").cast<int>() == 0) {
    const py::object item = number.attr("item")();
    if (!py::hasattr(item, "item")) return to_arg(item.ptr(), m);
  }
  throw py::type_error(std::string("arguments are tensors, numbers, strings, lists of ints or None, got ") +
                       Py_TYPE(o)->tp_name);
}

void call(const recon::Op& op, const py::args& args) {
  if (args.size() != op.params.size())
    throw py::type_error(op.name + " takes " + std::to_string(op.params.size()) + " arguments, got " +
                         std::to_string(args.size()));
  recon::Arg converted[max_args];
  Metadata metadata[max_args];
  for (size_t i = 0; i < op.params.size(); ++i) converted[i] = to_arg(PyTuple_GET_ITEM(args.ptr(), i), metadata[i]);
  recon::check(op, converted);
  recon::set_num_threads(torch.get_num_threads().cast<int>());
  recon::set_deterministic(torch.deterministic().cast<bool>());
  const py::gil_scoped_release release;
  op.call(converted);
}

// Scratch memory of the CPU is the engine's own, and Python has no part in it. What malloc would take from the system
// each time, and give back, comes from kept pages.
struct HostBlock {
  static constexpr int64_t large = int64_t{256} << 10;

  explicit HostBlock(int64_t n) : bytes(n), data(n >= large ? recon::acquire_pages(n) : ::operator new(n)) {}
  ~HostBlock() { bytes >= large ? recon::release_pages(data, bytes) : ::operator delete(data); }
  HostBlock(const HostBlock&) = delete;
  HostBlock& operator=(const HostBlock&) = delete;

  int64_t bytes;
  void* data;
};

// Owners are Python objects, or blocks of the CPU, which the lowest bit of the address tells apart.
void* acquire(int64_t bytes, const recon::Device& device, void** data) {
  if (!device.cuda) {
    auto* block = new HostBlock(bytes);
    *data = block->data;
    return reinterpret_cast<char*>(block) + 1;
  }
  const py::gil_scoped_acquire gil;
  const py::object where = torch.device("cuda", device.index);
  py::object tensor = torch.empty(bytes, py::arg("dtype") = torch.uint8, py::arg("device") = where);
  *data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>());
  return tensor.release().ptr();
}

void release(void* owner) {
  if (reinterpret_cast<uintptr_t>(owner) & 1) {
    delete reinterpret_cast<HostBlock*>(static_cast<char*>(owner) - 1);
    return;
  }
  const py::gil_scoped_acquire gil;
  Py_DECREF(static_cast<PyObject*>(owner));
}

// Memory for a tensor that Python makes of it; it goes back when the tensor is gone.
struct Pages {
  explicit Pages(int64_t n) : data(recon::acquire_pages(n)), bytes(n) {}
  ~Pages() { recon::release_pages(data, bytes); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  void* data;
  int64_t bytes;
};

// A reference that lives as long as the process.
py::handle forever(const py::object& o) { return py::object(o).release(); }

// Returns whether torch's C exchange API is in use from now on.
bool use_exchange_api(bool wanted) {
  exchange = nullptr;
  const py::handle tensor(reinterpret_cast<PyObject*>(torch.tensor_type));
  if (wanted && py::hasattr(tensor, "__dlpack_c_exchange_api__")) {
    const py::object capsule = tensor.attr("__dlpack_c_exchange_api__");
    const auto* api = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!api) throw py::error_already_set();
    if (api->header.version.major == 1) exchange = api;
  }
  return exchange != nullptr;
}

}  // namespace

recon::Allocator recon::allocator = {&acquire, &release};

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  const py::module_ t = py::module_::import("torch");
  torch.tensor_type = reinterpret_cast<PyTypeObject*>(forever(t.attr("Tensor")).ptr());
  torch.get_num_threads = forever(t.attr("get_num_threads"));
  torch.deterministic = forever(t.attr("are_deterministic_algorithms_enabled"));
  torch.empty = forever(t.attr("empty"));
  torch.uint8 = forever(t.attr("uint8"));
  torch.device = forever(t.attr("device"));
  torch.current_stream = forever(t.attr("cuda").attr("current_stream"));
  for (int d = 0; d < 8; ++d) torch.dtypes[d] = forever(t.attr(recon::dtype_name(static_cast<recon::DType>(d))));
  use_exchange_api(std::getenv("RECON_NO_EXCHANGE_API") == nullptr);

  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const recon::WrongKind& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    }
  });
  for (const recon::Op& op : recon::registry()) {
    if (op.params.size() > max_args) throw std::logic_error(op.name + " has too many parameters");
    m.def(op.name.c_str(), [&op](const py::args& args) { call(op, args); });
  }
  py::class_<Pages>(m, "Pages", py::buffer_protocol()).def(py::init<int64_t>()).def_buffer([](Pages& p) {
    return py::buffer_info(static_cast<uint8_t*>(p.data), p.bytes);
  });
  m.def("set_page_limit", &recon::set_page_limit, "Keep at most this many bytes of released output memory.");
  m.def("kept_page_bytes", &recon::kept_page_bytes, "How many bytes of released output memory are kept.");
  m.def("use_exchange_api", &use_exchange_api, "Read tensors through torch's C exchange API (if it has one) or not.");
  m.def("exchange_api", [] { return exchange != nullptr; }, "Whether tensors are read through the C exchange API.");
  m.def("simd_level", [] { return recon::simd_name(recon::simd_level()); }, "The instruction set of the CPU kernels.");
  m.def("set_simd_level", &recon::set_simd_level, "Use 'baseline', 'avx2' or 'avx512' kernels, if the CPU has them.");
#if defined(__clang__) || !defined(__GNUC__)
  m.attr("compiler") = __VERSION__;
#else
  m.attr("compiler") = "GCC " __VERSION__;
#endif
#ifdef RECON_CUDA
  m.attr("has_cuda") = true;
  m.attr("cuda_architectures") = RECON_CUDA_ARCHITECTURES;
#else
  m.attr("has_cuda") = false;
  m.attr("cuda_architectures") = "";
#endif
}
