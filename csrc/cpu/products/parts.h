// What all matrix products share: how rows are cut, and how a tile of sums becomes output.
#pragma once

#include "cpu/isa/kernels.h"
#include "cpu/isa/simd.h"
#include "cpu/layers/activation.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

// [0, size) in the fewest parts of at most `limit`, of nearly equal size.
struct Parts {
  int64_t size, count;
  Parts(int64_t size, int64_t limit) : size(size), count((size + limit - 1) / limit) {}
  int64_t begin(int64_t part) const { return part * size / count; }
};

// What a task computes before it writes: one panel, or a gate and its up.
template <typename Args>
BW_INLINE int unit_panels(const Args& args) {
  return args.act == Act::none ? 1 : 2;
}
template <typename Args>
BW_INLINE int64_t unit_count(const Args& args) {
  return (args.n + kPanelWidth - 1) / kPanelWidth / unit_panels(args);
}

// c * scale + bias of lanes from `column` on. scale, bias: [n] or null
template <typename X>
BW_INLINE Vec finish(const float* c, const float* scale, const X* bias, int64_t column, int lanes) {
  Vec sum = load(c);
  if (scale) sum *= load_up_to(scale + column, lanes);
  if (bias) sum += load_up_to(bias + column, lanes);
  return sum;
}

// Outputs of so many bytes leave the caches before they are read: they are written past them.
constexpr int64_t kStreamedBytes = 8 << 20;

// Rows [begin, end) of unit `unit` of out, over the columns that exist. scale: [n] or null
// c: [panel of the unit], each `c_stride` floats after the other, [end - begin][32]
template <typename X, typename Args>
void write_unit(const Args& args, const float* scale, const float* c, int64_t c_stride,
                int64_t unit, int64_t begin, int64_t end) {
  const X* bias = static_cast<const X*>(args.bias);
  const bool gated = args.act != Act::none;
  const int64_t from = unit * unit_panels(args) * kPanelWidth;  // column of W, and `to` of out
  const int64_t to = unit * kPanelWidth;
  const int64_t width = args.n - from < kPanelWidth ? args.n - from : kPanelWidth;
  const auto value = [&](int64_t i, int lanes) {
    const Vec sum = finish(c + i, scale, bias, from + i, lanes);
    if (!gated) return sum;
    return activate<X>(args.act, sum) *
           finish(c + c_stride + i, scale, bias, from + kPanelWidth + i, lanes);
  };
  X* out = static_cast<X*>(args.out) + begin * args.out_stride + to;
  if constexpr (kCanStream && sizeof(X) == sizeof(Bf16)) {
    const int64_t row_bytes = args.out_stride * sizeof(X);
    const bool whole_lines = (reinterpret_cast<uintptr_t>(out) | row_bytes) % 64 == 0;
    if (width == kPanelWidth && whole_lines && args.rows * row_bytes >= kStreamedBytes) {
      for (int64_t row = begin; row < end; ++row, c += kPanelWidth, out += args.out_stride)
        stream(out, value(0, kLanes), value(kLanes, kLanes));
      return stream_end();
    }
  }
  for (int64_t row = begin; row < end; ++row, c += kPanelWidth, out += args.out_stride)
    for_lanes(width, [&](int64_t i, int lanes) { store_up_to(out + i, value(i, lanes), lanes); });
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
