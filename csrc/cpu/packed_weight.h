// A weight matrix in the panels that the GEMM reads, the same for every instruction set.
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor_view.h"
#include "cpu/kernels.h"

namespace branchwise {

Real real_of(DType dtype);

class PackedWeight {
 public:
  // weight: [n, k] fp32 or bf16; it is copied.
  explicit PackedWeight(const TensorView& weight);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t bytes() const;
  DType dtype() const { return dtype_; }
  const void* panels() const { return panels_.get(); }

 private:
  int64_t n_, k_;
  DType dtype_;
  std::shared_ptr<void> panels_;
};

}  // namespace branchwise
