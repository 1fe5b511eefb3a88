// act(gate) * up, where it is an operation of its own and where it ends a product.
#pragma once

#include "cpu/isa/kernels.h"
#include "cpu/isa/vmath.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

BW_INLINE Vec silu(Vec x) { return x / (exp(-x) + 1.0f); }
// Within 2e-4: for results of bf16. Below -86 it is 0 where 2^-126 would be right.
BW_INLINE Vec rough_silu(Vec x) {
  constexpr float kLog2e = 1.44269504f;
  return x * rough_inverse(rough_exp2(vmin(splat(125.0f), x * -kLog2e)) + 1.0f);
}
BW_INLINE Vec gelu_tanh(Vec x) {
  const Vec inner = fma(x * x * x, splat(0.044715f), x) * 0.7978845608f;  // sqrt(2 / pi)
  return x * 0.5f * (tanh(inner) + 1.0f);
}

// T: of the result
template <typename T>
BW_INLINE Vec activate(Act act, Vec x) {
  if (act == Act::gelu_tanh) return gelu_tanh(x);
  return sizeof(T) == sizeof(Bf16) ? rough_silu(x) : silu(x);
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
