// What all matrix products share: how rows are cut, and how a tile of sums becomes output.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

// [0, size) in the fewest parts of at most `limit`, of nearly equal size.
struct Parts {
  int64_t size, count;
  Parts(int64_t size, int64_t limit) : size(size), count((size + limit - 1) / limit) {}
  int64_t begin(int64_t part) const { return part * size / count; }
};

// out[row, column ...] = c * scale + bias, over the columns of a panel that exist. scale: [n] or
// null. Args: GemmArgs or CodeGemmArgs.
template <typename X, typename Out, typename Args>
BW_INLINE void write_row(const Args& args, const float* scale, const float* c, int64_t row,
                         int64_t column) {
  Out* out = static_cast<Out*>(args.out) + row * args.out_stride + column;
  const X* bias = args.bias ? static_cast<const X*>(args.bias) + column : nullptr;
  const int64_t width = args.n - column < kPanelWidth ? args.n - column : kPanelWidth;
  for_lanes(width, [&](int64_t i, int lanes) {
    Vec sum = load(c + i);
    if (scale) sum *= load_up_to(scale + column + i, lanes);
    if (bias) sum += load_up_to(bias + i, lanes);
    store_up_to(out + i, sum, lanes);
  });
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
