// Packs weights: plain bf16 as [n / 32][k / 2][32][2], fp32 as [n / 32][k][32], padded with zeros
// (bf16: k to 32).
#include "cpu/products/dense_weight.h"

#include <limits>
#include <utility>

#include "core/large_memory.h"

namespace branchwise {
namespace {

// steps: 2 for bf16 (a lane of 32 bits holds two steps of k), 1 for fp32.
template <typename T, int steps>
void pack(const T* weight, int64_t n, int64_t k, int64_t rows, T* panels) {
  const int64_t n_panels = (n + kPanelWidth - 1) / kPanelWidth;
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < n_panels; ++p) {
    T* panel = panels + p * rows * kPanelWidth * steps;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < kPanelWidth; ++column)
        for (int step = 0; step < steps; ++step) {
          const int64_t i = p * kPanelWidth + column, j = row * steps + step;
          *panel++ = i < n && j < k ? weight[i * k + j] : T{};
        }
  }
}

}  // namespace

Real real_of(DType dtype) {
  CHECK_STATE(dtype == DType::f32 || dtype == DType::bf16, "no kernel for ", dtype_name(dtype));
  return dtype == DType::f32 ? Real::f32 : Real::bf16;
}

void check_size(int64_t n, int64_t k) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  CHECK_ARG(n > 0 && k > 0 && n <= kMost && k <= kMost, "the shape is [", n, ", ", k,
            "], expected sizes from 1 to ", kMost);
}

void check_panels(const void* panels, int64_t bytes, int64_t expected) {
  CHECK_ARG(bytes == expected, "panels has ", bytes, " bytes, expected ", expected);
  CHECK_ARG(reinterpret_cast<uintptr_t>(panels) % 64 == 0, "panels does not begin a cache line");
}

DenseWeight::DenseWeight(std::shared_ptr<void> panels, int64_t bytes, int64_t n, int64_t k,
                         DType dtype, bool twelve_bit)
    : n_(n), k_(k), bytes_(bytes), dtype_(dtype), panels_(std::move(panels)) {
  check_size(n, k);
  CHECK_ARG(!twelve_bit || dtype == DType::bf16, "twelve-bit panels are of bfloat16, not of ",
            dtype_name(dtype));
  check_panels(panels_.get(), bytes, twelve_bit ? bytes : plain_bytes());
  if (twelve_bit) tables_ = twelve_bit_tables(panels_.get(), bytes_, tiles());
}

DenseWeight::DenseWeight(const TensorView& weight, bool twelve_bit) {
  Shapes shapes;
  shapes.check("weight", weight, {DType::f32, DType::bf16}, {"out", "in"});
  n_ = shapes["out"], k_ = shapes["in"], dtype_ = weight.dtype;
  CHECK_ARG(n_ > 0 && k_ > 0, "weight has shape ", shape_text(weight), ": it is empty");
  if (twelve_bit && dtype_ == DType::bf16) {
    TwelveBitPanels packed = pack_twelve_bit(weight.as<uint16_t>(), n_, k_);
    if (packed.panels) {
      panels_ = std::move(packed.panels), bytes_ = packed.bytes;
      tables_ = twelve_bit_tables(panels_.get(), bytes_, tiles());
      return;
    }
  }
  bytes_ = plain_bytes();
  panels_ = large_memory(bytes_);
  const int64_t depth = panel_depth(real_of(dtype_), k_);
  if (dtype_ == DType::f32)
    pack<float, 1>(weight.as<float>(), n_, k_, depth, static_cast<float*>(panels_.get()));
  else
    pack<uint16_t, 2>(weight.as<uint16_t>(), n_, k_, depth, static_cast<uint16_t*>(panels_.get()));
}

int64_t DenseWeight::plain_bytes() const {
  return round_up(n_, kPanelWidth) * panel_depth(real_of(dtype_), k_) * 4;
}
int64_t DenseWeight::tiles() const {
  return round_up(n_, kPanelWidth) / kPanelWidth * (round_up(k_, kBlockSteps) / kBlockSteps);
}

}  // namespace branchwise
