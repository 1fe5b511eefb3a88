// A dense weight, packed in the panels that the GEMM reads: the same for every instruction set.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/tensor_view.h"
#include "cpu/isa/kernels.h"
#include "cpu/products/twelve_bit.h"

namespace branchwise {

Real real_of(DType dtype);

// Refuse what somebody else gives as the shape of a matrix, or as its panels.
void check_size(int64_t n, int64_t k);
void check_panels(const void* panels, int64_t bytes, int64_t expected);

class DenseWeight {
 public:
  // weight: [n, k] fp32 or bf16; it is copied. twelve_bit: in 12 bits, where it is bf16 and they
  // do.
  explicit DenseWeight(const TensorView& weight, bool twelve_bit = false);
  // The panels of another one of this shape, `bytes` on a cache line: they are kept, not copied.
  DenseWeight(std::shared_ptr<void> panels, int64_t bytes, int64_t n, int64_t k, DType dtype,
              bool twelve_bit);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t bytes() const { return bytes_; }
  int64_t panel_bytes() const { return bytes_; }
  DType dtype() const { return dtype_; }
  const void* panels() const { return panels_.get(); }
  // Of twelve-bit panels; null of others.
  const TwelveBitTables* twelve_bit() const { return tables_ ? &*tables_ : nullptr; }

 private:
  int64_t plain_bytes() const;
  int64_t tiles() const;

  int64_t n_, k_, bytes_;
  DType dtype_;
  std::shared_ptr<void> panels_;
  std::optional<TwelveBitTables> tables_;
};

}  // namespace branchwise
