// A weight matrix in the panels that the GEMM reads, the same for every instruction set.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "core/tensor_view.h"
#include "cpu/compact.h"
#include "cpu/kernels.h"

namespace branchwise {

Real real_of(DType dtype);

// Refuse what somebody else gives as the shape of a matrix, or as its panels.
void check_size(int64_t n, int64_t k);
void check_panels(const void* panels, int64_t bytes, int64_t expected);

class PackedWeight {
 public:
  // weight: [n, k] fp32 or bf16; it is copied. compact: in 12 bits, where it is bf16 and they do.
  explicit PackedWeight(const TensorView& weight, bool compact = false);
  // The panels of another one of this shape, `bytes` on a cache line: they are kept, not copied.
  PackedWeight(std::shared_ptr<void> panels, int64_t bytes, int64_t n, int64_t k, DType dtype,
               bool compact);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t bytes() const { return bytes_; }
  int64_t panel_bytes() const { return bytes_; }
  DType dtype() const { return dtype_; }
  const void* panels() const { return panels_.get(); }
  // Of compact panels; null of others.
  const CompactTables* compact() const { return tables_ ? &*tables_ : nullptr; }

 private:
  int64_t plain_bytes() const;
  int64_t tiles() const;

  int64_t n_, k_, bytes_;
  DType dtype_;
  std::shared_ptr<void> panels_;
  std::optional<CompactTables> tables_;
};

}  // namespace branchwise
