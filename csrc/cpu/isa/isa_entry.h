// The only symbols of an instruction set that other translation units see.
#pragma once

#include "cpu/isa/kernels.h"

namespace branchwise::BRANCHWISE_ISA {

void rms_norm(const NormArgs& args);
void act_mul(const ActArgs& args);
void rope_store(const RopeArgs& args);
void tree_attention(const AttentionArgs& args);
void gemm(const GemmArgs& args);
void quantised_gemm(const QuantisedGemmArgs& args);
void head_chunk(const HeadRow& row, const HeadChunkArgs& args, HeadChunk& out);
void head_weights(const HeadRow& row, const float* logits, int64_t n, float z_max, float* weights);
int64_t head_gumbel(const HeadRow& row, const float* logits, const int32_t* words, int64_t n);
void apply(Function function, const float* x, int64_t n, float* out);

extern const Kernels kTable;

}  // namespace branchwise::BRANCHWISE_ISA
