#include "cpu/quantised/quantise.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"

namespace branchwise {
namespace {

// What a group's codes mean: scale * code + zero.
struct Group {
  float scale, zero;
};

Group fit(const float* w, int64_t width, bool has_min, bool whole, int bits) {
  float low = w[0], high = w[0], poison = 0;
  for (int64_t i = 0; i < width; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
    poison += w[i] - w[i];  // NaN if a weight is none
  }
  if (has_min) {
    const float minimum = from_half(to_half(low));
    const float span = static_cast<float>((1 << bits) - 1);
    return {from_half(to_half((high - minimum) / span)) + poison, minimum};
  }
  const float half = static_cast<float>(1 << (bits - 1));
  const float scale = std::max(high, -low) / (half - 1);
  const float rounded = (whole ? scale : from_half(to_half(scale))) + poison;
  return {rounded, -half * rounded};
}

void choose(const float* w, int64_t width, Group group, float highest, uint8_t* codes) {
  // A group of equal weights has scale 0: any code will do.
  const float inverse = group.scale > 0 ? 1 / group.scale : 0;
  for (int64_t i = 0; i < width; ++i) {
    const float code = (w[i] - group.zero) * inverse;
    const float bounded = code > 0 ? (code < highest ? code : highest) : 0;  // NaN becomes 0
    codes[i] = static_cast<uint8_t>(bounded + 12582912.0f - 12582912.0f);    // 1.5 * 2^23: rounds
  }
}

}  // namespace

void quantise(const TensorView& weight, const TensorView& codes, const TensorView& scales,
              const TensorView& minima, int bits, int group) {
  CHECK_ARG(bits == 4 || bits == 5 || bits == 6 || bits == 8, "bits is ", bits,
            ", expected 4, 5, 6 or 8");
  const bool has_min = minima.data != nullptr;
  Shapes shapes;
  shapes.check("weight", weight, {DType::f32}, {"out", "in"});
  const int64_t n = shapes["out"], k = shapes["in"], width = group ? group : k;
  CHECK_ARG(group >= 0 && width > 0 && k % width == 0, "weight has ", k,
            " columns, expected whole groups of ", width);
  shapes.check("codes", codes, {DType::u8}, {"out", "in"});
  shapes.check("scales", scales, {DType::f32}, {"out", k / width});
  if (has_min) shapes.check("minima", minima, {DType::f32}, {"out", k / width});
  const float highest = static_cast<float>((1 << bits) - 1);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n * (k / width); ++i) {
    const float* w = weight.as<float>() + i * width;
    const Group fitted = fit(w, width, has_min, group == 0, bits);
    choose(w, width, fitted, highest, codes.as<uint8_t>() + i * width);
    scales.as<float>()[i] = fitted.scale;
    if (has_min) minima.as<float>()[i] = fitted.zero;
  }
}

}  // namespace branchwise
