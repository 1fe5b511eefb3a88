// The border between Python tensors and C++: any object with `__dlpack__` becomes a TensorView.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/dlpack_abi.h"
#include "core/tensor_view.h"

namespace branchwise {

enum class Access { read, write };

// A view and whatever keeps its memory alive. Make and drop it with the GIL held; use the view
// without.
class Borrowed {
 public:
  Borrowed() = default;
  Borrowed(Borrowed&& other) noexcept;
  Borrowed& operator=(Borrowed&&) = delete;
  ~Borrowed();

  const TensorView& view() const { return view_; }
  const TensorView* operator->() const { return &view_; }
  template <typename T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  friend Borrowed borrow(pybind11::handle, const char*, Access);

  TensorView view_;
  pybind11::object owner_;              // the tensor, when it describes itself in place
  dlpack::Managed* managed_ = nullptr;  // else one of these, to be deleted
  dlpack::ManagedVersioned* versioned_ = nullptr;
};

// Views `object`, the argument called `argument` in messages. Throws std::invalid_argument unless
// it is a contiguous CPU tensor of a known dtype with at most kMaxDims axes, and writable if asked.
// Types with `__dlpack_c_exchange_api__` (torch >= 2.10) take a path without any allocation.
Borrowed borrow(pybind11::handle object, const char* argument, Access access = Access::read);

}  // namespace branchwise
