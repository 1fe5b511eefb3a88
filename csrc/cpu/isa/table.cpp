// This instruction set's row of the kernel table, and its vector functions laid open to tests.
#include "cpu/isa/isa_entry.h"
#include "cpu/isa/vmath.h"

namespace branchwise::BRANCHWISE_ISA {

void apply(Function function, const float* x, int64_t n, float* out) {
  for_lanes(n, [&](int64_t i, int lanes) {
    const Vec v = load_up_to(x + i, lanes);
    const Vec y = function == Function::exp2  ? exp2(v)
                  : function == Function::exp ? exp(v)
                  : function == Function::log ? log(v)
                                              : tanh(v);
    store_up_to(out + i, y, lanes);
  });
}

const Kernels kTable = {
    rms_norm,       act_mul,    rope_store,   tree_attention, gemm,
    quantised_gemm, head_chunk, head_weights, head_gumbel,    apply,
};

}  // namespace branchwise::BRANCHWISE_ISA
