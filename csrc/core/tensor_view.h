// A contiguous tensor as seen by kernels (pointer, dtype, shape), and checks with named sizes.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "core/check.h"

namespace branchwise {

enum class DType : uint8_t { f32, f16, bf16, i8, u8, i32, i64, u64 };

constexpr const char* dtype_name(DType dtype) {
  constexpr const char* names[] = {"float32", "float16", "bfloat16", "int8",
                                   "uint8",   "int32",   "int64",    "uint64"};
  return names[static_cast<int>(dtype)];
}

constexpr int64_t dtype_bytes(DType dtype) {
  constexpr int64_t bytes[] = {4, 2, 2, 1, 1, 4, 8, 8};
  return bytes[static_cast<int>(dtype)];
}

inline constexpr int kMaxDims = 6;

// Row-major and without gaps by construction: whoever makes one has checked that. Owns nothing.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int32_t n_dims = 0;
  std::array<int64_t, kMaxDims> shape{};

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < n_dims; ++i) n *= shape[i];
    return n;
  }
  template <typename T>
  T* as() const {
    DCHECK(static_cast<int64_t>(sizeof(T)) == dtype_bytes(dtype));
    return static_cast<T*>(data);
  }
};

inline std::string shape_text(const TensorView& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.n_dims; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

// One expected axis: a name that binds on first use and must agree later, or a fixed size.
struct Dim {
  std::string_view name;
  int64_t size = -1;
  Dim(const char* symbol) : name(symbol) {}  // NOLINT(google-explicit-constructor)
  Dim(int64_t fixed) : size(fixed) {}        // NOLINT(google-explicit-constructor)
};

// Checks the tensors of one call against each other:
//   Shapes shapes;
//   shapes.check("x", x, {DType::f32, DType::bf16}, {"rows", "dim"});
//   shapes.check("out", out, {x.dtype}, {"rows", "dim"});
//   const int64_t rows = shapes["rows"];
class Shapes {
 public:
  void check(const char* argument, const TensorView& tensor, std::initializer_list<DType> dtypes,
             std::initializer_list<Dim> dims) {
    bool known = false;
    for (DType dtype : dtypes) known |= tensor.dtype == dtype;
    CHECK_ARG(known, argument, " is ", dtype_name(tensor.dtype), ", expected ", join(dtypes));
    CHECK_ARG(tensor.n_dims == static_cast<int32_t>(dims.size()), argument, " has shape ",
              shape_text(tensor), ", expected ", join(dims));
    int axis = 0;
    for (const Dim& dim : dims) {
      const int64_t given = tensor.shape[axis++];
      const int64_t expected = dim.name.empty() ? dim.size : bind(dim.name, given);
      CHECK_ARG(given == expected, argument, " has shape ", shape_text(tensor), ", expected ",
                join(dims), ": axis ", axis - 1, " must be ", expected);
    }
  }

  // The size bound to a name; the name must have been used by `check` before.
  int64_t operator[](std::string_view name) const {
    for (int i = 0; i < n_bound_; ++i)
      if (bound_[i].name == name) return bound_[i].size;
    CHECK_STATE(false, "no tensor bound the size ", name);
    return -1;
  }

 private:
  struct Bound {
    std::string_view name;
    int64_t size;
  };

  int64_t bind(std::string_view name, int64_t given) {
    for (int i = 0; i < n_bound_; ++i)
      if (bound_[i].name == name) return bound_[i].size;
    CHECK_STATE(n_bound_ < static_cast<int>(bound_.size()), "too many named sizes in one call");
    bound_[n_bound_++] = {name, given};
    return given;
  }
  static std::string join(std::initializer_list<DType> dtypes) {
    std::string text;
    for (DType dtype : dtypes)
      text += (text.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    return text;
  }
  static std::string join(std::initializer_list<Dim> dims) {
    std::string text;
    for (const Dim& dim : dims)
      text += (text.empty() ? "" : ", ") +
              (dim.name.empty() ? std::to_string(dim.size) : std::string(dim.name));
    return "[" + text + "]";
  }

  std::array<Bound, 16> bound_{};
  int n_bound_ = 0;
};

}  // namespace branchwise
