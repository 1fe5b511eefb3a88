// Ways to call a kernel: on its own, or as one of many calls of a team of threads.
//
// Every thread of a team calls the kernel, which splits its loops among them; nobody leaves before
// all are done.
#pragma once

#include "cpu/isa/isa.h"
#include "cpu/isa/kernels.h"

namespace branchwise {

// Runs a kernel, with a team of its own where the work is worth waking one. Products are given
// scratch memory.
void launch(const NormArgs& args);
void launch(const ActArgs& args);
void launch(const RopeArgs& args);
void launch(const AttentionArgs& args);
void launch(const LastRowsArgs& args);
void launch(GemmArgs args);
void launch(QuantisedGemmArgs args);

// The part of the calling thread.
inline void share(const NormArgs& args) { kernels().rms_norm(args); }
inline void share(const ActArgs& args) { kernels().act_mul(args); }
inline void share(const RopeArgs& args) { kernels().rope_store(args); }
inline void share(const AttentionArgs& args) { kernels().tree_attention(args); }
void share(const LastRowsArgs& args);
inline void share(const GemmArgs& args) { kernels().gemm(args); }
inline void share(const QuantisedGemmArgs& args) { kernels().quantised_gemm(args); }

// Floats of scratch memory for a product of so many rows.
inline int64_t scratch_of(const GemmArgs& args, int64_t rows) { return gemm_scratch(rows, args.k); }
inline int64_t scratch_of(const QuantisedGemmArgs& args, int64_t rows) {
  return quantised_gemm_scratch(args.format, rows, args.k);
}

}  // namespace branchwise
