// From a dense weight matrix to codes, scales and minima: QuantisedWeight packs what this makes.
#pragma once

#include "core/tensor_view.h"

namespace branchwise {

// weight: [n, k] fp32 -> codes: [n, k] u8, scales: [n, k / group] fp32 ([n, 1] for group 0), minima
// as scales or without data. Each group is rounded to the nearest codes over its own range:
//
//   with minima     minimum = min,  scale = (max - minimum) / (2^bits - 1)
//   without         scale = max |w| / (2^(bits - 1) - 1),  code = w / scale + 2^(bits - 1)
//
// Minima, and scales of groups, are rounded to fp16 before codes are chosen.
void quantise(const TensorView& weight, const TensorView& codes, const TensorView& scales,
              const TensorView& minima, int bits, int group);

}  // namespace branchwise
