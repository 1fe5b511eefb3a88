// Borrowing tensors: the exchange table of the type if it has one, else a `__dlpack__` capsule.
#include "bind/dlpack.h"

#include <optional>
#include <utility>

#include "bind/bind.h"

namespace py = pybind11;

namespace branchwise {
namespace {

std::optional<DType> dtype_of(const dlpack::Tensor& tensor) {
  if (tensor.type_lanes != 1) return std::nullopt;
  switch (tensor.type_code << 8 | tensor.type_bits) {
    case dlpack::kFloat << 8 | 32:
      return DType::f32;
    case dlpack::kFloat << 8 | 16:
      return DType::f16;
    case dlpack::kBfloat << 8 | 16:
      return DType::bf16;
    case dlpack::kInt << 8 | 8:
      return DType::i8;
    case dlpack::kUInt << 8 | 8:
      return DType::u8;
    case dlpack::kInt << 8 | 32:
      return DType::i32;
    case dlpack::kInt << 8 | 64:
      return DType::i64;
    case dlpack::kUInt << 8 | 64:
      return DType::u64;
    default:
      return std::nullopt;
  }
}

bool is_contiguous(const dlpack::Tensor& tensor) {
  if (tensor.strides == nullptr) return true;
  bool has_gaps = false, is_empty = false;
  int64_t expected = 1;
  for (int axis = tensor.n_dims - 1; axis >= 0; --axis) {
    is_empty |= tensor.shape[axis] == 0;
    has_gaps |= tensor.shape[axis] != 1 && tensor.strides[axis] != expected;
    expected *= tensor.shape[axis];
  }
  return is_empty || !has_gaps;
}

TensorView view_of(const dlpack::Tensor& tensor, const char* argument) {
  CHECK_ARG(tensor.device_type == dlpack::kDeviceCpu, argument, " is on DLPack device type ",
            tensor.device_type, ", expected the CPU (1): move it with .cpu()");
  CHECK_ARG(tensor.n_dims <= kMaxDims, argument, " has ", tensor.n_dims, " axes, expected at most ",
            kMaxDims);
  const std::optional<DType> dtype = dtype_of(tensor);
  CHECK_ARG(dtype.has_value(), argument, " has DLPack type code ",
            static_cast<int>(tensor.type_code), " with ", static_cast<int>(tensor.type_bits),
            " bits, expected a float32, float16, bfloat16, int8, uint8, int32, int64 or uint64");
  CHECK_ARG(is_contiguous(tensor), argument, " is not contiguous: call .contiguous() first");
  TensorView view;
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.dtype = *dtype;
  view.n_dims = tensor.n_dims;
  for (int axis = 0; axis < tensor.n_dims; ++axis) view.shape[axis] = tensor.shape[axis];
  return view;
}

// The table of the object's type, or null. A missing attribute is the normal case, not an error.
const dlpack::ExchangeApi* exchange_api(py::handle object) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::str> name;
  const py::str& key =
      name.call_once_and_store_result([] { return py::str("__dlpack_c_exchange_api__"); })
          .get_stored();
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  PyObject* capsule = PyObject_GetAttr(type, key.ptr());
  if (capsule == nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
    PyErr_Clear();
    return nullptr;
  }
  const auto* api =
      static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);  // the table lives as long as the process, by the protocol
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->version.major != dlpack::kMajorVersion) api = api->older;
  return api != nullptr && api->view != nullptr ? api : nullptr;
}

// The producer refused to describe the object: the first line of its reason, as a caller's mistake.
// Errors of other kinds are not about the tensor and pass through.
[[noreturn]] void rethrow_refusal(const char* argument, const py::error_already_set& error) {
  if (!error.matches(PyExc_RuntimeError) && !error.matches(PyExc_BufferError) &&
      !error.matches(PyExc_ValueError))
    throw error;
  const std::string reason = py::str(error.value());
  throw std::invalid_argument(
      concat(argument, " cannot be viewed as a CPU tensor: ", reason.substr(0, reason.find('\n'))));
}

// A capsule from `__dlpack__`, versioned when the producer knows that (it tells about read-only).
py::object export_capsule(py::handle object, const char* argument) {
  CHECK_ARG(py::hasattr(object, "__dlpack__"), argument, " is of type ",
            Py_TYPE(object.ptr())->tp_name, ", expected a tensor (anything with __dlpack__)");
  const py::object exporter = object.attr("__dlpack__");
  try {
    try {
      return exporter(py::arg("max_version") = py::make_tuple(dlpack::kMajorVersion, 0));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;  // a producer older than `max_version`
    }
    return exporter();
  } catch (py::error_already_set& error) {
    rethrow_refusal(argument, error);
  }
}

}  // namespace

Borrowed::Borrowed(Borrowed&& other) noexcept
    : view_(other.view_),
      owner_(std::move(other.owner_)),
      managed_(std::exchange(other.managed_, nullptr)),
      versioned_(std::exchange(other.versioned_, nullptr)) {}

Borrowed::~Borrowed() {
  if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
  if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
}

Borrowed borrow(py::handle object, const char* argument, Access access) {
  Borrowed borrowed;
  if (const dlpack::ExchangeApi* api = exchange_api(object)) {
    dlpack::Tensor tensor{};
    if (api->view(object.ptr(), &tensor) != 0) rethrow_refusal(argument, py::error_already_set());
    borrowed.view_ = view_of(tensor, argument);
    borrowed.owner_ = py::reinterpret_borrow<py::object>(object);
    return borrowed;
  }
  const py::object capsule = export_capsule(object, argument);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    borrowed.versioned_ = static_cast<dlpack::ManagedVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    CHECK_ARG(borrowed.versioned_->version.major == dlpack::kMajorVersion, argument,
              " speaks DLPack ", borrowed.versioned_->version.major, ", expected version 1");
    CHECK_ARG(access == Access::read || !(borrowed.versioned_->flags & dlpack::kFlagReadOnly),
              argument, " is read-only, expected a tensor that can be written");
    borrowed.view_ = view_of(borrowed.versioned_->tensor, argument);
  } else {
    borrowed.managed_ =
        static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (borrowed.managed_ == nullptr) throw py::error_already_set();
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    borrowed.view_ = view_of(borrowed.managed_->tensor, argument);
  }
  return borrowed;
}

void bind_dlpack(py::module_& module) {
  // What a kernel would see; the tests and benchmarks of the border use it.
  module.def(
      "describe_tensors",
      [](const py::args& tensors, bool writable) {
        py::list described;
        for (py::handle tensor : tensors) {
          const Borrowed borrowed =
              borrow(tensor, "tensor", writable ? Access::write : Access::read);
          described.append(py::make_tuple(dtype_name(borrowed->dtype), shape_text(borrowed.view()),
                                          reinterpret_cast<uintptr_t>(borrowed->data)));
        }
        return described;
      },
      py::arg("writable") = false,
      "The dtype, shape and address of each tensor as the kernels see it.");
}

}  // namespace branchwise
