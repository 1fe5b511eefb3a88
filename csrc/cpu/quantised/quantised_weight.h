// A weight matrix of small integers in the panels that quantised_gemm reads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor_view.h"
#include "cpu/isa/kernels.h"

namespace branchwise {

class QuantisedWeight {
 public:
  // codes: [n, k] u8; scales: [n, k / group] fp32, or [n, 1] for group 0; minima: as scales, or
  // without data. Groups of scales are kept as fp16.
  QuantisedWeight(const TensorView& codes, const TensorView& scales, const TensorView& minima,
                  int bits, int group);
  // The panels of another one of this shape and format, `bytes` on a cache line: they are kept, not
  // copied. column_scale: [n] for group 0, else empty.
  QuantisedWeight(std::shared_ptr<void> panels, int64_t bytes, std::vector<float> column_scale,
                  int64_t n, int64_t k, QuantisedFormat format);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  QuantisedFormat format() const { return format_; }
  const uint8_t* panels() const { return static_cast<const uint8_t*>(panels_.get()); }
  const float* column_scale() const {
    return column_scale_.empty() ? nullptr : column_scale_.data();
  }
  int64_t panel_bytes() const { return panel_bytes_; }
  int64_t bytes() const {
    return panel_bytes_ + static_cast<int64_t>(column_scale_.size() * sizeof(float));
  }

 private:
  void pack_block(const uint8_t* codes, const float* scales, const float* minima, int64_t column,
                  int64_t step, uint8_t* block) const;

  int64_t n_, k_;
  QuantisedFormat format_;
  int64_t panel_bytes_;
  std::shared_ptr<void> panels_;
  std::vector<float> column_scale_;
};

}  // namespace branchwise
