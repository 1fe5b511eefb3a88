// This instruction set's row of the kernel table.
#include "cpu/isa_entry.h"

namespace branchwise::BRANCHWISE_ISA {

const Kernels kTable = {
    rms_norm, act_mul, rope_store, tree_attention, gemm, head_chunk, head_weights, head_gumbel,
};

}  // namespace branchwise::BRANCHWISE_ISA
