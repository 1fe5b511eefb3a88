// Packs codes into blocks of 32 columns x 32 steps of k (the layout: csrc/cpu/isa/kernels.h).
#include "cpu/quantised/quantised_weight.h"

#include <algorithm>
#include <utility>

#include "core/half.h"
#include "core/large_memory.h"
#include "cpu/products/dense_weight.h"

namespace branchwise {
namespace {

void check_format(QuantisedFormat format) {
  const int bits = format.bits, group = format.group;
  CHECK_ARG(bits == 4 || bits == 5 || bits == 6 || bits == 8, "bits is ", bits,
            ", expected 4, 5, 6 or 8");
  CHECK_ARG(group == 0 || group == 16 || group == 32, "group is ", group, ", expected 0, 16 or 32");
  CHECK_ARG(group == 32 || !format.has_min, "minima need groups of 32, group is ", group);
  CHECK_ARG(group != 0 || bits == 8, "one scale per output needs 8 bits, bits is ", bits);
}

void check_groups(QuantisedFormat format, int64_t k) {
  CHECK_ARG(format.group == 0 || k % format.group == 0, "codes has ", k,
            " columns, expected whole groups of ", format.group);
}

int64_t bytes_of(QuantisedFormat format, int64_t n, int64_t k) {
  return round_up(n, kPanelWidth) / kPanelWidth * (format.padded(k) / kBlockSteps) *
         block_bytes(format);
}

}  // namespace

QuantisedWeight::QuantisedWeight(std::shared_ptr<void> panels, int64_t bytes,
                                 std::vector<float> column_scale, int64_t n, int64_t k,
                                 QuantisedFormat format)
    : n_(n),
      k_(k),
      format_(format),
      panel_bytes_(bytes),
      panels_(std::move(panels)),
      column_scale_(std::move(column_scale)) {
  check_size(n, k);
  check_format(format);
  check_groups(format, k);
  check_panels(panels_.get(), bytes, bytes_of(format, n, k));
  const int64_t given = static_cast<int64_t>(column_scale_.size());
  const int64_t expected = format.group == 0 ? n : 0;
  CHECK_ARG(given == expected, "column_scale has ", given, " values, expected ", expected);
}

QuantisedWeight::QuantisedWeight(const TensorView& codes, const TensorView& scales,
                                 const TensorView& minima, int bits, int group)
    : format_{bits, group, minima.data != nullptr} {
  check_format(format_);
  Shapes shapes;
  shapes.check("codes", codes, {DType::u8}, {"out", "in"});
  n_ = shapes["out"], k_ = shapes["in"];
  CHECK_ARG(n_ > 0 && k_ > 0, "codes has shape ", shape_text(codes), ": it is empty");
  check_groups(format_, k_);
  shapes.check("scales", scales, {DType::f32}, {"out", group == 0 ? 1 : k_ / group});
  if (format_.has_min) shapes.check("minima", minima, {DType::f32}, {"out", k_ / group});

  const int64_t n_panels = (n_ + kPanelWidth - 1) / kPanelWidth;
  const int64_t n_blocks = format_.padded(k_) / kBlockSteps, size = block_bytes(format_);
  if (group == 0) column_scale_.assign(scales.as<float>(), scales.as<float>() + n_);
  panel_bytes_ = bytes_of(format_, n_, k_);
  panels_ = large_memory(panel_bytes_);
  uint8_t* panels = static_cast<uint8_t*>(panels_.get());
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < n_panels; ++p)
    for (int64_t b = 0; b < n_blocks; ++b)
      pack_block(codes.as<uint8_t>(), scales.as<float>(),
                 format_.has_min ? minima.as<float>() : nullptr, p * kPanelWidth, b * kBlockSteps,
                 panels + (p * n_blocks + b) * size);
}

void QuantisedWeight::pack_block(const uint8_t* codes, const float* scales, const float* minima,
                                 int64_t column, int64_t step, uint8_t* block) const {
  constexpr int kCodes = kPanelWidth * kBlockSteps;
  const int bits = format_.bits, high = bits - 4;
  std::fill_n(block, block_bytes(format_), uint8_t{0});
  const int plane = 128 * high;  // bytes, each with `high` bits of several codes
  for (int i = 0; i < kCodes; ++i) {
    const int64_t row = column + i / 4 % kPanelWidth, k = step + i / 128 * 4 + i % 4;
    // What is padded must not count: x is zero beyond k, and nobody reads rows beyond n.
    const uint8_t code = row < n_ && k < k_ ? codes[row * k_ + k] : 0;
    if (bits == 8) {
      block[i] = code;
      continue;
    }
    block[i % (kCodes / 2)] |= static_cast<uint8_t>((code & 15) << (i < kCodes / 2 ? 0 : 4));
    if (high > 0)
      block[kCodes / 2 + i % plane] |= static_cast<uint8_t>(code >> 4 << (high * (i / plane)));
  }
  if (format_.group == 0) return;
  const int64_t n_groups = kBlockSteps / format_.group, k_groups = k_ / format_.group;
  uint16_t* halves = reinterpret_cast<uint16_t*>(block + code_bytes(format_));
  const auto put = [&](const float* values, uint16_t* out) {
    for (int64_t g = 0; g < n_groups; ++g)
      for (int64_t i = 0; i < kPanelWidth; ++i) {
        const int64_t row = column + i, group = step / format_.group + g;
        out[g * kPanelWidth + i] =
            row < n_ && group < k_groups ? to_half(values[row * k_groups + group]) : 0;
      }
  };
  put(scales, halves);
  if (minima) put(minima, halves + n_groups * kPanelWidth);
}

}  // namespace branchwise
